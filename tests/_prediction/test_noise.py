from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hisdiff._geometry._grid import BLOCK
from hisdiff._prediction._noise import ROW_BLOCK, BlockNoise

N, WIDTH = ROW_BLOCK + 500, 13


@pytest.fixture(scope="module")
def noise() -> BlockNoise:
    return BlockNoise.for_rows(7, N)


@pytest.fixture(scope="module")
def values(noise: BlockNoise) -> np.ndarray:
    return noise.normal(2, 5, np.arange(N), WIDTH)


def test_values_are_standard_normal_and_uncorrelated(values):
    assert values.dtype == np.float32
    assert values.shape == (N, WIDTH)
    assert stats.kstest(values.ravel().astype(float), "norm").pvalue > 1e-3
    across_genes = np.corrcoef(values.T) - np.eye(WIDTH)
    assert np.abs(across_genes).max() < 6 / np.sqrt(N)
    next_row = np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]
    assert abs(next_row) < 6 / np.sqrt(values.size)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_batches_of_any_size_give_the_same_values(noise, values, size):
    rows = np.arange(ROW_BLOCK - 150, ROW_BLOCK + 150)
    parts = [noise.normal(2, 5, rows[i : i + size], WIDTH) for i in range(0, len(rows), size)]
    np.testing.assert_array_equal(np.concatenate(parts), values[rows])


def test_any_rows_in_any_order_repeats_included(noise, values):
    rows = np.random.default_rng(0).integers(0, N, 300)
    np.testing.assert_array_equal(noise.normal(2, 5, rows, WIDTH), values[rows])
    assert noise.normal(2, 5, np.array([], dtype=int), WIDTH).shape == (0, WIDTH)


def test_more_rows_do_not_change_the_first(noise, values):
    longer = BlockNoise.for_rows(7, 3 * N)
    np.testing.assert_array_equal(longer.normal(2, 5, np.arange(N), WIDTH), values)


@pytest.mark.parametrize(("seed", "draw", "step"), [(8, 2, 5), (7, 3, 5), (7, 2, 6), (7, 5, 2)])
def test_seed_draw_and_step_each_give_independent_noise(values, seed, draw, step):
    other = BlockNoise.for_rows(seed, N).normal(draw, step, np.arange(N), WIDTH)
    assert abs(np.corrcoef(other.ravel(), values.ravel())[0, 1]) < 6 / np.sqrt(values.size)


def test_blocks_are_independent(noise, values):
    first, second = values[:500], values[ROW_BLOCK : ROW_BLOCK + 500]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 6 / np.sqrt(first.size)


def test_a_grid_bin_has_one_value_in_whatever_tile_it_lies():
    ij = np.stack(np.meshgrid(np.arange(-10, 150), np.arange(40, 90), indexing="ij"), -1).reshape(-1, 2)
    whole = BlockNoise.for_grid(1, ij).normal(0, 0, np.arange(len(ij)), 5)
    tile = (ij[:, 0] >= 60) & (ij[:, 0] < 77) & (ij[:, 1] >= 55)
    alone = BlockNoise.for_grid(1, ij[tile])
    assert len(alone) == tile.sum()
    np.testing.assert_array_equal(alone.normal(0, 0, np.arange(len(alone)), 5), whole[tile])
    assert len(np.unique(whole[:, 0])) > 0.999 * len(ij)


def test_grid_blocks_with_exchanged_coordinates_differ():
    ij = np.array([[0, BLOCK], [BLOCK, 0], [-BLOCK, 0], [0, -BLOCK]])
    first = BlockNoise.for_grid(0, ij).normal(0, 0, np.arange(4), 1)
    assert len(np.unique(first)) == 4


def test_a_place_has_one_value_whatever_the_rows():
    xy = np.random.default_rng(0).uniform(-500, 9000, (300, 2))
    whole = BlockNoise.for_places(4, xy).normal(1, 2, np.arange(300), 5)
    rows = np.random.default_rng(1).permutation(300)[:120]
    some = BlockNoise.for_places(4, xy[rows] + 1e-9)
    np.testing.assert_array_equal(some.normal(1, 2, np.arange(120), 5), whole[rows])
    assert len(np.unique(whole[:, 0])) == 300
    drawn = np.array([g.gamma(2.0, size=3) for g in BlockNoise.for_places(4, xy).generators(0, 1)])
    np.testing.assert_array_equal([g.gamma(2.0, size=3) for g in some.generators(0, 1)], drawn[rows])
    assert len(np.unique(drawn)) == 900


def test_several_rows_at_one_place_have_values_of_their_own():
    xy = np.array([[10.0, 20.0], [0.0, 0.0], [10.0, 20.0], [10.0, 20.0]])
    noise = BlockNoise.for_places(0, xy, z_um=np.array([30.0, 0.0, 10.0, 20.0]))
    values = noise.normal(0, 0, np.arange(4), 2)
    assert len(np.unique(values)) == 8
    turned = BlockNoise.for_places(0, xy[::-1], z_um=np.array([20.0, 10.0, 0.0, 30.0]))
    np.testing.assert_array_equal(turned.normal(0, 0, np.arange(4), 2), values[::-1])
    assert BlockNoise.for_places(0, np.empty((0, 2))).normal(0, 0, np.arange(0), 2).shape == (0, 2)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        BlockNoise.for_grid(0, np.zeros((3, 3), dtype=int))
    with pytest.raises(ValueError, match="3 blocks for 2 ranks"):
        BlockNoise(0, np.zeros(3, dtype=int), np.arange(2))
    with pytest.raises(ValueError, match="one or two coordinates"):
        BlockNoise(0, np.zeros((3, 3), dtype=int), np.arange(3))


def test_bins_of_a_grid_share_noise_with_their_neighbours_and_other_locations_do_not():
    from hisdiff._prediction._field import SmoothNoise
    from hisdiff._section import Locations

    line = np.stack([np.zeros(2000, dtype=int), np.arange(2000)], axis=1)
    bins = SmoothNoise.at(3, Locations.bins(line, 10.0))
    values = bins.normal(0, 0, np.arange(2000), 4)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.15)
    apart = lambda step: np.mean([np.corrcoef(v[:-step], v[step:])[0, 1] for v in values.T])  # noqa: E731
    assert apart(1) > 0.9
    assert abs(apart(30)) < 0.15
    np.testing.assert_allclose(bins.normal(0, 0, np.array([7, 1900]), 4), values[[7, 1900]], rtol=1e-5)
    spots = SmoothNoise.at(3, Locations(line * 10.0, 5.0)).normal(0, 0, np.arange(2000), 4)
    assert abs(np.corrcoef(spots[:-1, 0], spots[1:, 0])[0, 1]) < 0.1


def test_the_deviation_of_blended_noise_is_known():
    from scipy import sparse

    from hisdiff._prediction._field import SmoothNoise

    xy = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 40.0
    noise = SmoothNoise(0, xy, 80.0)
    blend = sparse.csr_matrix(np.random.default_rng(0).dirichlet(np.full(4, 2.0), 20) @ np.eye(64)[[0, 1, 8, 9]])
    values = noise.normal(0, 0, np.arange(64), 20_000)
    np.testing.assert_allclose((blend @ values).std(axis=1), noise.deviation(blend), rtol=0.03)
