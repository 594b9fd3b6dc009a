from __future__ import annotations

import numpy as np
import pytest
import shapely

from hisdiff._geometry import Nearest, lattice_points, nearest, pitch_of
from hisdiff._geometry._lattice import inside


def test_lattice_points_lie_inside_and_fill_the_outline() -> None:
    square = shapely.box(0, 0, 1000, 500)
    points = lattice_points(square, 100)
    assert len(points) == 50
    assert shapely.contains_xy(square, points[:, 0], points[:, 1]).all()
    assert pitch_of(points) == pytest.approx(100)


def test_cropping_the_outline_does_not_move_the_lattice() -> None:
    whole = {tuple(p) for p in lattice_points(shapely.box(0, 0, 1000, 1000), 70)}
    part = {tuple(p) for p in lattice_points(shapely.box(133, 250, 800, 777), 70)}
    assert part
    assert part <= whole


def test_holes_of_the_outline_hold_no_points() -> None:
    ring = shapely.box(0, 0, 1000, 1000) - shapely.box(200, 200, 800, 800)
    points = lattice_points(ring, 50)
    assert not shapely.contains_xy(shapely.box(200, 200, 800, 800), points[:, 0], points[:, 1]).any()


@pytest.mark.parametrize("slope", [(1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (-1, 3)])
def test_a_point_on_the_border_lies_on_the_same_side_after_rounding(slope: tuple[int, int]) -> None:
    along = np.arange(1, 200)[:, None] * 16.0 * np.asarray(slope) + 20_000.0
    side = shapely.Polygon([along[0], along[-1], along.mean(axis=0) + [slope[1] * 500, -slope[0] * 500]])
    moved = [shapely.transform(side, lambda p, s=s: p + s * 4e-12) for s in (-1, 0, 1)]
    found = [inside(outline, *along[1:-1].T) for outline in moved]
    assert (found[0] == found[1]).all()
    assert (found[1] == found[2]).all()
    assert len(np.unique(found[1])) == 1


def test_nearest_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    points, queries = rng.random((60, 2)), rng.random((17, 2))
    brute = np.argsort(((queries[:, None] - points[None]) ** 2).sum(-1), axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(nearest(queries, points, 9), brute)


def test_equal_distances_are_broken_by_row_so_that_shuffling_changes_nothing_else() -> None:
    grid = np.stack(np.meshgrid(np.arange(7.0), np.arange(7.0)), -1).reshape(-1, 2)
    found = nearest(grid, grid, 9)
    assert (found[:, 0] == np.arange(49)).all()
    distances = np.linalg.norm(grid[found] - grid[:, None], axis=-1)
    assert (np.diff(distances, axis=1) >= -1e-9).all()


def test_fewer_points_than_asked_are_filled_with_minus_one() -> None:
    found = nearest(np.zeros((2, 2)), np.array([[0.0, 0.0], [1.0, 0.0]]), 5)
    np.testing.assert_array_equal(found, [[0, 1, -1, -1, -1]] * 2)
    assert (nearest(np.zeros((2, 2)), np.empty((0, 2)), 3) == -1).all()


def test_the_same_places_are_looked_up_once_and_others_are_not_taken_for_them() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (50, 2))
    near, queries = Nearest(points), points[:5] + 0.1
    assert near(queries, 3) is near(queries, 3)
    np.testing.assert_array_equal(near(queries[:2], 3), near(queries, 3)[:2])
    assert near(queries, 4).shape == (5, 4)
