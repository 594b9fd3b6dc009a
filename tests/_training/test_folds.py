import numpy as np
from scipy.spatial import cKDTree

from hisdiff._training._folds import MAX_FOLDS, folds_of, tissue_blocks


def lattice(rows: int, cols: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), -1).reshape(-1, 2) * 100.0


def test_sections_are_left_out_one_at_a_time():
    np.testing.assert_array_equal(folds_of([lattice(1, 2), lattice(1, 3)]), [0, 0, 1, 1, 1])


def test_many_sections_are_left_out_in_groups():
    fold = folds_of([lattice(1, 1)] * 25)
    assert set(fold) == set(range(MAX_FOLDS))


def test_one_section_is_cut_into_contiguous_blocks_of_equal_size():
    xy = lattice(20, 30)
    block = folds_of([xy], n_blocks=5)
    assert set(np.bincount(block)) <= {119, 120, 121}
    neighbors = cKDTree(xy).query(xy, k=5)[1][:, 1:]
    assert (block[neighbors] == block[:, None]).mean() > 0.85


def test_blocks_do_not_depend_on_the_order_of_spots():
    xy = lattice(9, 7)
    order = np.random.default_rng(0).permutation(len(xy))
    np.testing.assert_array_equal(tissue_blocks(xy, 4)[order], tissue_blocks(xy[order], 4))


def test_few_spots_get_few_blocks():
    assert folds_of([lattice(2, 2)]).max() == 1
    assert folds_of([lattice(1, 1)]).tolist() == [0]
