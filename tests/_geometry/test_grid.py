"""Grids of bins and their overlap with footprints."""

from __future__ import annotations

import numpy as np
import shapely

from hisdiff._geometry._grid import BLOCK, bins_within, block_slices, by_block, overlap
from hisdiff._section import Locations


def test_bins_are_those_whose_centre_is_inside() -> None:
    bins = bins_within(shapely.box(0, 0, 100, 50), 10)
    assert len(bins) == 50
    assert bins.min() == 0
    assert tuple(bins.max(axis=0)) == (4, 9)


def test_cropping_the_tissue_does_not_move_bins() -> None:
    whole = {tuple(ij) for ij in bins_within(shapely.box(0, 0, 200, 200), 7)}
    part = {tuple(ij) for ij in bins_within(shapely.box(63.3, 41.9, 200, 200), 7)}
    assert part < whole


def test_blocks_are_runs_of_rows_of_the_table() -> None:
    ij = bins_within(shapely.box(-300, -300, 1500, 900), 10)
    slices = block_slices(ij)
    assert slices[0].start == 0
    assert slices[-1].stop == len(ij)
    blocks = [np.unique(ij[s] // BLOCK, axis=0) for s in slices]
    assert all(len(block) == 1 for block in blocks)
    assert len(np.unique(np.concatenate(blocks), axis=0)) == len(slices)
    np.testing.assert_array_equal(by_block(np.random.default_rng(0).permutation(ij)), ij)


def test_overlap_of_a_disc_sums_to_its_area() -> None:
    discs = Locations(np.array([[50.0, 50.0], [120.3, 77.7]]), 27.5)
    ij = bins_within(shapely.box(0, 0, 200, 200), 8)
    share = overlap(discs, ij, 8)
    np.testing.assert_allclose(share.sum(axis=1).A1 * 64, np.pi * 27.5**2, rtol=1e-3)
    assert share.max() <= 1 + 1e-9


def test_overlap_with_outlines_and_with_bins_is_by_area() -> None:
    ij = np.array([[0, 0], [0, 1]])
    outline = np.array([shapely.box(5, 0, 12, 10)], dtype=object)
    np.testing.assert_allclose(overlap(Locations(np.array([[8.5, 5.0]]), outline), ij, 10).toarray(), [[0.5, 0.2]])
    coarse = Locations.bins(np.array([[0, 0]]), 20)
    np.testing.assert_allclose(overlap(coarse, ij, 10).toarray(), [[1, 1]])


def test_footprints_beside_the_grid_get_nothing() -> None:
    share = overlap(Locations(np.array([[500.0, 500.0]]), 20.0), np.array([[0, 0]]), 10)
    assert share.shape == (1, 1)
    assert share.nnz == 0
