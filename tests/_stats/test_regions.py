import numpy as np
import pytest

from hisdiff._stats._regions import (
    block_means,
    by_size,
    enrichment_range,
    log2_odds_ratios,
    merged,
    smoothed,
    to_raster,
)


def grid(*shape: int) -> np.ndarray:
    return np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1).reshape(-1, 2)


def test_smoothing_keeps_a_constant_and_does_not_reach_over_holes_as_zeros():
    ij = grid(20, 20)
    ij = ij[(ij[:, 0] != 7) | (ij[:, 1] > 3)] + [100, -5]
    np.testing.assert_allclose(smoothed(np.full((len(ij), 2), 3.0), ij, 2.0), 3.0, rtol=1e-5)
    values = np.random.default_rng(0).normal(size=(len(ij), 1))
    assert smoothed(values, ij, 2.0).std() < 0.3
    np.testing.assert_allclose(smoothed(values, ij, 0.0), values, rtol=1e-6)


def test_small_parts_take_the_label_around_them():
    raster = np.zeros((12, 12), dtype=int)
    raster[:, 6:] = 1
    raster[3, 3] = 2
    raster[3, 4] = 1  # the neighbour of a crumb may be a crumb
    raster[9:11, 8:10] = 0
    ij = grid(12, 12)
    expected = np.zeros((12, 12), dtype=int)
    expected[:, 6:] = 1
    np.testing.assert_array_equal(to_raster(merged(raster.ravel(), ij, 5), ij, 0), expected)
    np.testing.assert_array_equal(merged(raster.ravel(), ij, 1), raster.ravel())


def test_an_island_without_neighbours_keeps_its_label():
    ij = np.concatenate([grid(6, 6), grid(1, 2) + 20])
    labels = np.r_[np.zeros(36, int), 3, 3]
    np.testing.assert_array_equal(merged(labels, ij, 10), labels)


def test_two_crumbs_that_touch_end_in_one():
    raster = np.array([[1, 2], [2, 1]])
    assert len(np.unique(merged(raster.ravel(), grid(2, 2), 4))) == 1


def test_labels_are_numbered_by_size():
    assert by_size(np.array([5, 9, 9, 9, 5, 1])).tolist() == [1, 0, 0, 0, 1, 2]


def test_blocks_are_averaged():
    values = np.arange(16.0)[:, None]
    pooled = block_means(values, grid(4, 4), 2)[:, 0].reshape(4, 4)
    assert pooled[0, 0] == pooled[1, 1] == pytest.approx((0 + 1 + 4 + 5) / 4)


def test_odds_ratios_are_those_of_two_by_two_tables():
    counts = np.array([[30.0, 10, 5], [20, 40, 15]])
    told = log2_odds_ratios(counts)
    c = counts + 0.5
    a, b = c[0, 0], c[0, 1:].sum()
    assert told[0, 0] == pytest.approx(np.log2(a * c[1, 1:].sum() / (b * c[1, 0])))
    np.testing.assert_allclose(told[0], -told[1])
    assert np.isfinite(log2_odds_ratios(np.array([[5.0, 0], [0, 5]]))).all()


def test_intervals_are_wide_where_blocks_differ():
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(20), 50)
    rows = rng.integers(0, 2, 1000)
    alone = enrichment_range(rows, rng.integers(0, 2, 1000), blocks, (2, 2), n=200, level=0.9, seed=0)
    alike = enrichment_range(
        rng.integers(0, 2, 20)[blocks], rng.integers(0, 2, 20)[blocks], blocks, (2, 2), n=200, level=0.9, seed=0
    )
    assert (alike[1] - alike[0]).mean() > 3 * (alone[1] - alone[0]).mean()
    assert (alone[0] < 0).all()
    assert (alone[1] > 0).all()
