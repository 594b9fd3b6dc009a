import numpy as np
import pytest
from shapely import box

from hisdiff._geometry._fill import array_to_um, hexagonal_fill, inside, random_fill, square_fill


def visium_array(rows: int = 78, columns: int = 64) -> np.ndarray:
    return np.array([(r, r % 2 + 2 * k) for r in range(rows) for k in range(columns)])


def test_a_full_visium_array_grows_to_15079_points() -> None:
    spots = visium_array()
    assert len(spots) == 4992
    new = hexagonal_fill(spots)
    assert len(spots) + len(new) == 15_079
    assert len(np.unique(np.round(new, 6), axis=0)) == len(new)


def test_every_inner_spot_brings_two_new_points_at_the_centroids_of_triangles() -> None:
    spots, new = visium_array(20, 20), hexagonal_fill(visium_array(20, 20))
    inner = lambda p: p[(p[:, 0] >= 5) & (p[:, 0] < 15) & (p[:, 1] >= 10) & (p[:, 1] < 30)]  # noqa: E731
    assert (len(inner(spots)) + len(inner(new))) / len(inner(spots)) == pytest.approx(3.0, rel=0.06)
    xy = np.array([1, np.sqrt(3)]) * new[:, ::-1]  # column 1, row sqrt(3): an even hexagonal lattice
    own = np.array([1, np.sqrt(3)]) * spots[:, ::-1]
    distance = np.sort(np.linalg.norm(xy[:, None] - own, axis=2), axis=1)[:, :3]
    whole = inner(new)
    rows = [np.flatnonzero((new == point).all(axis=1))[0] for point in whole]
    np.testing.assert_allclose(distance[rows], 2 / np.sqrt(3), rtol=1e-6)


def test_a_square_array_becomes_four_times_as_dense() -> None:
    spots = np.array([(i, j) for i in range(10) for j in range(12)])
    new = square_fill(spots)
    assert len(new) == 3 * len(spots)
    assert [0.5, 0.0] in new.tolist()
    assert [0.0, 0.5] in new.tolist()
    assert [0.5, 0.5] in new.tolist()


def test_random_points_are_as_many_as_the_formula_says_and_near_spots() -> None:
    xy = np.array([(x, y) for x in range(0, 2000, 100) for y in range(0, 2000, 100)], dtype=float)
    points = random_fill(xy, 5, np.random.default_rng(0), reach_um=1e9)
    assert len(points) == np.ceil(4 * 400 * 4 / np.pi)
    near = random_fill(xy, 5, np.random.default_rng(0), reach_um=30)
    assert 0 < len(near) < len(points)
    np.testing.assert_array_equal(near, random_fill(xy, 5, np.random.default_rng(0), reach_um=30))
    with pytest.raises(ValueError, match="density"):
        random_fill(xy, 1, np.random.default_rng(0))


def test_array_positions_come_back_to_um_through_any_affine_map() -> None:
    spots = visium_array(6, 6)
    matrix = np.array([[3.0, 80.0], [50.0, -2.0]])
    xy = spots @ matrix + [500, 600]
    np.testing.assert_allclose(
        array_to_um(spots, xy, hexagonal_fill(spots)), hexagonal_fill(spots) @ matrix + [500, 600]
    )
    with pytest.raises(ValueError, match="one line"):
        array_to_um(spots[:3], xy[:3], spots)
    assert inside(box(0, 0, 1, 1), np.array([[0.5, 0.5], [2, 2]])).tolist() == [True, False]
