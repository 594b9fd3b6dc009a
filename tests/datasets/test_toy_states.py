"""Tissue with states: regional, not visible, and with a law that is known."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import spatialdata as sd
from scipy.stats import kurtosis

import hisdiff as hd


@pytest.fixture(scope="module")
def tissue():
    return hd.datasets.toy(1, size_um=1600, mpp=2.0, states=True)


@pytest.fixture(scope="module")
def draws(tissue):
    return np.log2(1 + hd.datasets.toy_draws(tissue, 12))


def of(sdata, programme):
    return (sdata.tables["table"].var["programme"] == programme).to_numpy()


def test_the_default_tissue_is_as_it_was():
    sdata = hd.datasets.toy(5, size_um=400, mpp=2.0)
    counts = sdata.tables["table"].X.toarray().astype(np.int32)
    assert hashlib.sha256(counts.tobytes()).hexdigest()[:16] == "70210edd9b03d2aa"
    assert list(sdata.tables["truth"].obsm) == ["spatial", "cell_types", "hidden"]


def test_states_change_nothing_that_can_be_seen(tissue):
    plain = hd.datasets.toy(1, size_um=1600, mpp=2.0)
    one, other = (sd.get_pyramid_levels(s.images["toy_image"], n=0).to_numpy() for s in (tissue, plain))
    np.testing.assert_array_equal(one, other)
    types = [s.tables["truth"].obsm["cell_types"] for s in (tissue, plain)]
    np.testing.assert_array_equal(*types)


def test_states_are_regional_and_have_their_shares(tissue):
    truth = tissue.tables["truth"]
    row, col = truth.obs["array_row"].to_numpy(), truth.obs["array_col"].to_numpy()
    for name in ("clone", "active"):
        state = truth.obsm["states"][name].to_numpy()
        assert set(np.unique(state)) == {0, 1}
        assert 0.2 < state.mean() < 0.6
        grid = np.full((row.max() + 1, col.max() + 1), np.nan)
        grid[row, col] = state
        apart = grid[:, 5:] != grid[:, :-5]
        both = np.isfinite(grid[:, 5:]) & np.isfinite(grid[:, :-5])
        assert apart[both].mean() < 0.2  # 50 um away the state is mostly the same
    assert truth.obsm["states"]["gradient"].std() == pytest.approx(1, abs=0.3)


def test_draws_have_the_level_of_the_counts_and_share_states_over_regions(tissue, draws):
    measured = np.log2(1 + tissue.tables["table"].X.toarray())
    assert draws.shape == (12, *measured.shape)
    off = np.abs(draws.mean(axis=(0, 1)) - measured.mean(axis=0))
    assert np.median(off) < 0.1
    assert off.max() < 0.8
    again = np.log2(1 + hd.datasets.toy_draws(tissue, 2))
    np.testing.assert_array_equal(again, draws[:2])
    # What one draw has more of than the others, neighbouring spots have in common.
    xy = tissue.tables["table"].obsm["spatial"]
    near = np.argsort(np.linalg.norm(xy[:, None] - xy[None], axis=-1), axis=1)[:, 1:4]
    away = (draws - draws.mean(axis=0))[:, :, of(tissue, "STR")]
    neighbors = away[:, near].mean(axis=2)
    assert np.mean(away * neighbors) > 0.25 * np.mean(np.square(neighbors))


def test_the_law_of_tumour_expression_has_two_tops(tissue, draws):
    truth, table = tissue.tables["truth"], tissue.tables["table"]
    nearest = np.argmin(np.linalg.norm(table.obsm["spatial"][:, None] - truth.obsm["spatial"][None], axis=-1), axis=1)
    pure = truth.obsm["cell_types"]["tumour"].to_numpy()[nearest] > 0.9
    away = (draws - draws.mean(axis=0))[:, pure][:, :, of(tissue, "TUM")].reshape(-1, of(tissue, "TUM").sum())
    _, _, axes = np.linalg.svd(away, full_matrices=False)
    assert kurtosis(away @ axes[0]) < -0.5  # flatter than normal


def test_the_law_survives_a_zarr_round_trip_and_fewer_spots(tissue, tmp_path):
    tissue.write(tmp_path / "toy.zarr")
    again = sd.read_zarr(tmp_path / "toy.zarr")
    np.testing.assert_array_equal(hd.datasets.toy_draws(again, 1), hd.datasets.toy_draws(tissue, 1))


def test_too_small_a_tissue_and_one_without_states_are_refused():
    with pytest.raises(ValueError, match="size_um is at least 800.*not 600"):
        hd.datasets.toy(size_um=600, states=True)
    with pytest.raises(ValueError, match="'truth' of this object has no states"):
        hd.datasets.toy_draws(hd.datasets.toy(size_um=300, mpp=2.0))
    with pytest.raises(TypeError, match="states"):
        hd.datasets.toy(size_um=800, states="yes")
