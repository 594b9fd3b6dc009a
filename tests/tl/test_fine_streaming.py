"""Predictions on a grid of bins that go to the store of an object as they come."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff._sdata import _store
from hisdiff._sdata._shallow_copy import shallow_copy
from hisdiff.tl import _fine

TABLE, LABELS = "ridge_20um", "ridge_20um_bins"
OPTIONS = {"resolution_um": 20, "n_draws": 2, "keep_draws": 1}


@pytest.fixture
def plain(make_section, color_encoder):
    made = make_section("s1", seed=1)
    hd.pp.select_genes(made)
    hd.pp.embed(made, color_encoder)
    return made


@pytest.fixture
def model(plain):
    return hd.tl.fit(plain, method="ridge")


@pytest.fixture
def quick(monkeypatch):
    """Bins of which the method knows what a spot nearby would have, so that no patch is embedded."""
    from hisdiff._prediction import _field

    class Nearby(_field.PatchField):
        def _predict(self, bins):
            from hisdiff._section import Prediction

            x, y = bins.xy_um.T
            mean = np.stack([2 + np.sin(x / 60 + g) + np.cos(y / 70) for g in range(len(self.genes))], axis=1)
            draws = np.stack([mean * (1 + 0.1 * d) for d in range(self.n_draws)]).astype(np.float32)
            return Prediction(mean.astype(np.float32), draws.std(axis=0), self.genes, "counts", draws)

    monkeypatch.setattr("hisdiff.methods._base.PatchField", Nearby)


@pytest.fixture
def backed(plain, tmp_path):
    shallow_copy(plain).write(tmp_path / "s.zarr")
    return sd.read_zarr(tmp_path / "s.zarr")


def small_tiles(monkeypatch) -> None:
    """One block of bins to a tile."""
    monkeypatch.setattr(_fine, "_TILE_VALUES", 1.0)
    monkeypatch.setattr("hisdiff._geometry._grid.BLOCK", 8)
    monkeypatch.setattr(_fine, "BLOCK", 8)


def test_the_store_holds_what_memory_would(plain, backed, model, quick) -> None:
    hd.tl.predict(plain, model, **OPTIONS)
    hd.tl.predict(backed, model, **OPTIONS)
    inside, stored = plain.tables[TABLE], sd.read_zarr(backed.path)
    for table in (backed.tables[TABLE], stored.tables[TABLE]):
        np.testing.assert_array_equal(np.asarray(table.X), inside.X)
        for layer in ("std", "draw0"):
            np.testing.assert_array_equal(np.asarray(table.layers[layer]), inside.layers[layer])
    np.testing.assert_array_equal(stored.labels[LABELS].values, plain.labels[LABELS].values)
    assert stored.tables[TABLE].uns["hisdiff"]["predictions"]["ridge"]["resolution_um"] == 20
    np.testing.assert_allclose(stored.tables[TABLE].var["ridge_cv_pcc"], model.calibration.cv_pcc)
    assert [p.name for p in Path(backed.path).parent.iterdir()] == ["s.zarr"]


def test_a_large_table_stays_lazy_and_is_drawn(backed, model, quick, monkeypatch) -> None:
    monkeypatch.setattr(_store, "LARGEST_READ_AT_ONCE", 0)
    hd.tl.predict(backed, model, **OPTIONS)
    table = backed.tables[TABLE]
    assert isinstance(table.X, da.Array)
    assert isinstance(table.layers["std"], da.Array)
    assert str(backed.path) in str(next(iter(table.X.dask.values())))
    assert hd.pl.gene_map(backed, table.var_names[0], table_key=TABLE) is not None
    hd.tl.predict(backed, model, **OPTIONS)  # its own result is replaced while it is lazily held
    assert np.isfinite(backed.tables[TABLE].X.compute()).all()


def test_a_run_that_was_killed_leaves_no_table_and_is_continued(plain, backed, model, quick, monkeypatch) -> None:
    small_tiles(monkeypatch)
    hd.tl.predict(plain, model, **OPTIONS)
    made = _fine.FinePredictor.bins
    done: list[int] = []

    def killed(self, ij):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(len(ij))
        return made(self, ij)

    monkeypatch.setattr(_fine.FinePredictor, "bins", killed)
    with pytest.raises(KeyboardInterrupt):
        hd.tl.predict(backed, model, **OPTIONS)
    assert TABLE not in backed.tables
    assert TABLE not in sd.read_zarr(backed.path).tables

    def counted(self, ij):
        done.append(len(ij))
        return made(self, ij)

    monkeypatch.setattr(_fine.FinePredictor, "bins", counted)
    hd.tl.predict(backed, model, **OPTIONS)
    assert sum(done) == plain.tables[TABLE].n_obs  # no tile was made twice
    np.testing.assert_array_equal(np.asarray(backed.tables[TABLE].X), plain.tables[TABLE].X)


def test_an_unfinished_run_of_another_seed_is_not_continued(backed, model, quick, monkeypatch) -> None:
    small_tiles(monkeypatch)
    made, calls = _fine.FinePredictor.bins, []

    def bins(self, ij, most=3):
        calls.append(len(ij))
        if len(calls) == most:
            raise KeyboardInterrupt
        return made(self, ij)

    monkeypatch.setattr(_fine.FinePredictor, "bins", bins)
    with pytest.raises(KeyboardInterrupt):
        hd.tl.predict(backed, model, **OPTIONS)
    calls.clear()
    monkeypatch.setattr(_fine.FinePredictor, "bins", lambda self, ij: bins(self, ij, most=10**9))
    hd.tl.predict(backed, model, rng=1, **OPTIONS)
    assert sum(calls) == backed.tables[TABLE].n_obs


def test_tiles_have_no_influence(plain, model, quick, monkeypatch) -> None:
    hd.tl.predict(plain, model, **OPTIONS)
    small_tiles(monkeypatch)
    hd.tl.predict(plain, model, key_added="again", **OPTIONS)
    first, second = plain.tables[TABLE], plain.tables["again_20um"]
    order = [f"{LABELS.replace('ridge', 'again')}_{i}" for i in range(1, first.n_obs + 1)]
    assert sorted(second.obs_names) == sorted(order)
    place = lambda t: t.obs[["array_row", "array_col"]].apply(tuple, axis=1).to_numpy()  # noqa: E731
    sort = lambda t: np.asarray(t.X)[np.argsort(np.array([i * 10_000 + j for i, j in place(t)]))]  # noqa: E731
    np.testing.assert_allclose(sort(first), sort(second), rtol=1e-4)


def test_a_result_too_large_for_memory_asks_for_a_store(plain, model, quick, monkeypatch) -> None:
    monkeypatch.setattr(_store, "LARGEST_IN_MEMORY", 1000)
    with pytest.raises(ValueError, match=r"Write the object\s+first"):
        hd.tl.predict(plain, model, **OPTIONS)
    assert TABLE not in plain.tables


def test_a_table_of_the_store_that_was_not_read_is_left_alone(backed, model, quick) -> None:
    backed.tables["ridge_20um"] = backed.tables["table"].copy()
    backed.write_element("ridge_20um")
    part = sd.read_zarr(backed.path, selection=["images", "shapes"])
    part.tables["table"] = backed.tables["table"]
    with pytest.raises(ValueError, match="was not read with it"):
        hd.tl.predict(part, model, table_key="table", **OPTIONS)


def test_shapes_of_a_backed_object_get_their_table_in_the_store(backed, model, quick) -> None:
    hd.tl.predict(backed, model, at="s1", n_draws=2)
    assert "ridge_s1" in sd.read_zarr(backed.path).tables
