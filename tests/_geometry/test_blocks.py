from __future__ import annotations

import numpy as np
import pytest
import shapely

from hisdiff._geometry._blocks import blocks_of, unions


def test_blocks_of_a_square_array_are_floors_of_the_quotient() -> None:
    array = np.array([[4, 6], [5, 7], [4, 8], [5, 6], [7, 7]])
    found, block = blocks_of(array, 2)
    assert found.tolist() == [[2, 3], [2, 4], [3, 3]]
    assert block.tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize("n", [2, 3])
def test_blocks_of_a_hexagonal_array_hold_as_many_spots_as_those_of_a_square_one(n: int) -> None:
    row, col = (a.ravel() for a in np.mgrid[:12, :24])
    whole = (row + col) % 2 == 0
    _, block = blocks_of(np.stack([row, col], axis=1)[whole], n)
    assert set(np.bincount(block)) == {n * n}


def test_unions_keep_the_area_of_discs_that_lie_apart_and_not_of_those_that_overlap() -> None:
    discs = shapely.buffer(shapely.points([[0, 0], [10, 0], [10, 1], [50, 50]]), 2.0)
    made = unions(discs, np.array([0, 0, 1, 1]))
    area = shapely.area(discs[0])
    assert shapely.area(made) == pytest.approx([2 * area, 2 * area])
    assert shapely.area(unions(discs, np.array([0, 1, 1, 2])))[1] < 1.9 * area
