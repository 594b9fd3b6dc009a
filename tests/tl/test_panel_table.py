"""A prediction in a table of the panel's genes is the one in layers, found by everything that reads results."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import spatialdata as sd
import squidpy as sq
from scipy import sparse

import hisdiff as hd
from hisdiff._sdata._expression import draw_layers, own_prediction
from hisdiff._sdata._layers import layer_names


@pytest.fixture(scope="module")
def both():
    """The same section predicted into layers, into a panel table, and the model."""
    train, wide, narrow = (hd.datasets.toy(seed=seed, size_um=600) for seed in (0, 1, 1))
    hd.pp.select_genes(train, genes=list(train.tables["table"].var_names[:40]))
    model = hd.tl.fit(train, method="ridge")
    hd.tl.predict(wide, model)
    hd.tl.predict(narrow, model, table="panel")
    return wide, narrow, model


@pytest.fixture
def fresh(both):
    return hd.datasets.toy(seed=1, size_um=600), both[2]


def test_it_holds_the_counts_and_the_layers_of_the_panel_on_the_same_spots(both) -> None:
    wide, narrow, model = both
    source, panel = narrow.tables["table"], narrow.tables["ridge"]
    assert set(layer_names(source)) == set(layer_names(hd.datasets.toy(seed=1, size_um=600).tables["table"]))
    assert set(panel.var_names) == set(model.genes)
    assert list(panel.obs_names) == list(source.obs_names)
    assert sparse.issparse(panel.X)
    np.testing.assert_array_equal(panel.X.toarray(), source[:, panel.var_names].X.toarray())
    for name in ("ridge", "ridge_std", "ridge_draw0"):
        np.testing.assert_array_equal(panel.layers[name], wide.tables["table"][:, panel.var_names].layers[name])
    np.testing.assert_array_equal(panel.obsm["hisdiff_embedding"], source.obsm["hisdiff_embedding"])
    assert panel.var["ridge_modelled"].all()
    assert "ridge" not in source.uns["hisdiff"].get("predictions", {})
    assert (
        dict(panel.uns["hisdiff"]["predictions"]["ridge"])
        == wide.tables["table"].uns["hisdiff"]["predictions"]["ridge"]
    )


def test_its_measured_counts_stay_measured_when_they_are_aggregated(both) -> None:
    wide, narrow, _ = both
    panel = narrow.tables["ridge"]
    summed = hd.tl.aggregate(narrow, "ridge", 150, inplace=False)
    expected = hd.tl.aggregate(wide, "table", 150, inplace=False)[:, panel.var_names]
    np.testing.assert_allclose(summed.X.toarray(), expected.X.toarray(), rtol=1e-6)
    assert "predictions" not in summed.uns["hisdiff"]
    mean = hd.tl.aggregate(narrow, "ridge", 150, layers=["ridge_draw0"], statistic="mean", inplace=False)
    assert list(mean.uns["hisdiff"]["predictions"]) == ["ridge"]
    assert own_prediction(mean) is None
    assert draw_layers(mean, "ridge") == ["ridge_draw0"]


def test_what_reads_results_finds_it_and_says_the_same(both) -> None:
    wide, narrow, model = both
    one, other = (hd.tl.evaluate(sdata, layer="ridge").sort_index() for sdata in (wide, narrow))
    np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), rtol=1e-6)
    assert hd.tl.evaluate(narrow).attrs["summary"].keys() == one.attrs["summary"].keys()
    genes = list(model.genes[:6])
    for sdata in (wide, narrow):
        hd.tl.coexpression(sdata, genes, layer="ridge")
        hd.tl.enrich(sdata, {"few": genes}, layer="ridge", method="zscore", min_size=2)
    keys = ("table", "ridge")
    matrices = [sdata.tables[key].varp["hisdiff_coexpression"] for sdata, key in zip((wide, narrow), keys)]
    np.testing.assert_allclose(np.sort(matrices[0].data), np.sort(matrices[1].data), rtol=1e-5)
    assert "hisdiff_coexpression" not in narrow.tables["table"].varp
    scores = [sdata.tables[key].obsm["hisdiff_pathways"] for sdata, key in zip((wide, narrow), keys)]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    frame = hd.tl.coexpression_agreement(narrow, genes)
    assert list(frame["view"]) == ["mean", "draw", "resampled"]


def test_every_plot_finds_it(both) -> None:
    _, narrow, model = both
    genes = list(model.genes[:6])
    hd.tl.coexpression(narrow, genes, layer="ridge")
    hd.tl.enrich(narrow, {"few": genes}, layer="ridge", method="zscore", min_size=2)
    figure = hd.pl.gene_map(narrow, genes[:2])
    assert sum("predicted by ridge" in ax.get_title(loc="left") for ax in figure.axes) == 2
    assert sum("measured" in ax.get_title(loc="left") for ax in figure.axes) == 2
    hd.pl.uncertainty_map(narrow, genes[0], "ridge")
    hd.pl.uncertainty_map(narrow, layer="ridge")
    hd.pl.gene_pair(narrow, *genes[:2])
    hd.pl.coexpression(narrow)
    hd.pl.coexpression_network(narrow)
    hd.pl.pathway_map(narrow, "few")
    hd.pl.evaluation(narrow, layer="ridge")
    assert "correlation with the measured spots" in hd.pl.report(narrow).html
    assert "predicted by ridge" in hd.pl.view(narrow, genes[0], viewer="html").html
    titles = [ax.get_title(loc="left") for ax in hd.pl.overview(narrow).axes]
    assert any("predicted" in title for title in titles)
    assert hd.pl.gene_map(narrow, narrow.tables["table"].var_names[-1], layers="X") is not None


def test_scanpy_and_squidpy_take_it_as_it_is(both) -> None:
    table = both[1].tables["ridge"].copy()
    sc.pp.pca(table, layer="ridge", n_comps=5)
    assert np.isfinite(table.obsm["X_pca"]).all()
    sq.gr.spatial_neighbors_knn(table)
    sq.gr.spatial_autocorr(table, layer="ridge", genes=list(table.var_names[:3]))
    assert len(table.uns["moranI"]) == 3


def test_it_is_found_by_the_name_of_the_table_of_its_spots(both) -> None:
    _, narrow, model = both
    assert hd.tl.evaluate(narrow, table_key="table").equals(hd.tl.evaluate(narrow, table_key="ridge"))
    axes = hd.pl.gene_map(narrow, model.genes[0], layers=["X", "ridge"], table_key="table").axes
    assert any("predicted" in ax.get_title(loc="left") for ax in axes)


def test_models_take_its_spots_as_those_of_the_whole_table(both) -> None:
    _, narrow, model = both
    some = np.arange(narrow.tables["table"].n_obs) < 8
    known = [hd.tl.adapt(model, narrow, spots=some, table_key=key) for key in (None, "ridge")]
    assert [one.n_adapted for one in known] == [8, 8]
    chosen = [hd.tl.suggest_spots(narrow, model, 5, table_key=key, inplace=False) for key in (None, "ridge")]
    np.testing.assert_array_equal(*map(np.asarray, chosen))


def test_a_second_call_replaces_it_and_earlier_layers(fresh) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model, keep_draws=2)
    hd.tl.predict(sdata, model, table="panel", rng=1)
    assert "ridge" not in sdata.tables["table"].layers
    assert "ridge_modelled" not in sdata.tables["table"].var
    assert "ridge_draw1" not in sdata.tables["ridge"].layers
    hd.tl.predict(sdata, model, table="panel", key_added="other")
    first = sdata.tables["ridge"].layers["ridge_draw0"].copy()
    hd.tl.predict(sdata, model, table="panel", rng=2)
    assert np.abs(sdata.tables["ridge"].layers["ridge_draw0"] - first).max() > 0
    with pytest.raises(KeyError, match="several predictions, .*other.*ridge.*; choose one with layer="):
        hd.tl.evaluate(sdata)
    assert hd.tl.evaluate(sdata, layer="other").attrs["method"] == "ridge"


def test_layers_replace_an_earlier_table_and_nothing_reads_the_old_one(fresh, caplog) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model, table="panel", rng=1)
    hd.tl.predict(sdata, model, table="panel", key_added="other")
    hd.tl.predict(sdata, model, table_key="other", key_added="ridge")  # beside another one, in a panel table
    assert "ridge" not in sdata.tables
    hd.tl.predict(sdata, model, rng=2)
    assert "layers 'ridge' of an earlier prediction were removed from table 'other'" in caplog.text
    assert [key for key, table in sdata.tables.items() if "ridge" in table.layers] == ["table"]
    assert "other" in sdata.tables["other"].layers
    hd.tl.predict(sdata, model, key_added="other")
    assert "table 'other', of an earlier prediction, was removed" in caplog.text
    assert "other" not in sdata.tables
    record = sdata.tables["table"].uns["hisdiff"]["predictions"]["ridge"]
    assert record["seed"] == 2
    kept = sdata.tables["table"].layers["ridge"].copy()
    hd.tl.predict(sdata, model, table="panel", inplace=False)  # what is returned replaces nothing
    np.testing.assert_array_equal(sdata.tables["table"].layers["ridge"], kept)


def test_a_default_prediction_in_either_place_comes_before_those_of_other_names(fresh) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model, key_added="other")
    hd.tl.predict(sdata, model, table="panel", key_added="hisdiff", rng=3)
    panel = sdata.tables["hisdiff"]
    judged = hd.tl.evaluate(sdata)
    expected = hd.tl.evaluate(panel, layer="hisdiff")
    np.testing.assert_allclose(judged["mse"].to_numpy(), expected["mse"].to_numpy())
    assert judged.attrs["summary"]["mean"] == expected.attrs["summary"]["mean"]


def test_what_it_would_overwrite_is_refused_before_work_starts(fresh) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model, resolution_um=60)
    for name in ("table", "truth"):
        with pytest.raises(ValueError, match="hisdiff did not write"):
            hd.tl.predict(sdata, model, table="panel", key_added=name)
    with pytest.raises(ValueError, match="another result of hisdiff"):
        hd.tl.predict(sdata, model, table="panel", key_added="ridge_60um")
    with pytest.raises(ValueError, match="at spots"):
        hd.tl.predict(sdata, model, table="panel", resolution_um=60)
    with pytest.raises(ValueError, match="Did you mean 'panel'"):
        hd.tl.predict(sdata, model, table="pannel")
    assert "ridge" not in sdata.tables


def test_a_layer_that_would_be_too_large_goes_to_a_panel_table_and_it_is_logged(fresh, monkeypatch, caplog) -> None:
    sdata, model = fresh
    table = sdata.tables["table"]
    monkeypatch.setattr("hisdiff._sdata._write.MAX_LAYER_BYTES", 4 * table.n_obs * (table.n_vars - 1))
    hd.tl.predict(sdata, model)
    assert "ridge" in sdata.tables["ridge"].layers
    assert "the prediction goes to table 'ridge'" in caplog.text
    with pytest.raises(ValueError, match="leave out table='layers'"):
        hd.tl.predict(sdata, model, table="layers")


def test_a_backed_object_has_it_in_its_store_at_once(fresh, tmp_path) -> None:
    sdata, model = fresh
    sdata.write(tmp_path / "toy.zarr")
    stored = sd.read_zarr(tmp_path / "toy.zarr")
    for rng in (0, 1):
        hd.tl.predict(stored, model, table="panel", rng=rng)
    again = sd.read_zarr(tmp_path / "toy.zarr")
    np.testing.assert_array_equal(
        again.tables["ridge"].layers["ridge_draw0"], stored.tables["ridge"].layers["ridge_draw0"]
    )
    assert hd.tl.evaluate(again).attrs["model"] == model.id


def test_a_store_holds_one_of_them_at_every_moment(fresh, tmp_path, monkeypatch) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model)
    sdata.write(tmp_path / "toy.zarr")
    read = lambda: sd.read_zarr(tmp_path / "toy.zarr")  # noqa: E731
    homes = lambda of: [key for key, table in of.tables.items() if "ridge" in table.layers]  # noqa: E731
    stored = read()
    stored.tables["table"].obs["mine"] = 1.0  # not saved, and not written with the prediction
    with monkeypatch.context() as patched:
        patched.setattr("hisdiff._sdata._journal.write_text", _full_disk)
        with pytest.raises(OSError, match="No space"):
            hd.tl.predict(stored, model, table="panel", rng=1)
    assert homes(stored) == homes(read()) == ["table"]
    hd.tl.predict(stored, model, table="panel", rng=1)
    again = read()
    assert homes(stored) == homes(again) == ["ridge"]
    assert "mine" not in again.tables["table"].obs
    assert "ridge" not in again.tables["table"].uns["hisdiff"]["predictions"]
    hd.tl.predict(again, model, rng=2)
    assert (homes(again), homes(read())) == (["table"], ["ridge"])  # layers are in memory until they are saved
    hd.io.save(again)
    assert homes(read()) == ["table"]
    assert not (tmp_path / "toy.zarr" / "tables" / "ridge").exists()
    assert read().has_consolidated_metadata()
    assert "ridge" not in read().attrs["hisdiff"]["written"]
    hd.io.save(read())


def test_what_a_killed_process_left_of_an_earlier_prediction_goes(fresh, tmp_path) -> None:
    sdata, model = fresh
    hd.tl.predict(sdata, model)
    sdata.write(tmp_path / "toy.zarr")
    killed = sd.read_zarr(tmp_path / "toy.zarr")
    hd.tl.predict(killed, model, table="panel", rng=1)  # the table is stored, and obs of the other one not yet
    again = sd.read_zarr(tmp_path / "toy.zarr")
    assert "ridge_uncertainty" in again.tables["table"].obs
    hd.tl.predict(again, model, table="panel", rng=1)
    assert "ridge_uncertainty" not in again.tables["table"].obs
    assert "ridge_uncertainty" in again.tables["ridge"].obs


def _full_disk(*args, **kwargs) -> None:
    raise OSError(28, "No space left on device")


def test_without_inplace_it_is_returned(fresh, both) -> None:
    sdata, model = fresh
    table = hd.tl.predict(sdata, model, table="panel", inplace=False)
    np.testing.assert_array_equal(table.X.toarray(), both[1].tables["ridge"].X.toarray())
    assert "ridge" not in sdata.tables


def test_sections_of_a_list_several_regions_and_lattices_each_get_theirs(fresh) -> None:
    sdata, model = fresh
    bare = hd.datasets.toy(seed=2, size_um=600)
    bare.tables.clear()
    bare.shapes.clear()
    hd.tl.predict([sdata, bare], model, table="panel")
    assert "ridge" in sdata.tables["ridge"].layers
    assert set(bare.tables["lattice"].var_names) == set(model.genes)  # of the panel only anyway
    parts = hd.datasets.toy(seed=3, n_sections=2, size_um=400)
    joined = sd.concatenate(parts, concatenate_tables=True)
    hd.tl.predict(joined, model, table="panel")
    panel = joined.tables["ridge"]
    assert np.isfinite(panel.layers["ridge"]).all()
    assert panel.obs["region"].nunique() == 2
    hd.tl.predict([sdata, joined], model, rng=5)  # one call for sections of which some have a panel table
    assert "ridge" not in sdata.tables
    assert "ridge" not in joined.tables


def test_sections_with_layers_and_with_a_panel_table_are_shown_and_judged_together(both) -> None:
    wide, narrow, model = both
    figure = hd.pl.gene_map([wide, narrow], str(model.genes[0]), layers=["ridge"])
    assert sum("predicted by ridge" in ax.get_title(loc="left") for ax in figure.axes) == 2
    assert hd.tl.evaluate(wide).attrs["summary"] == hd.tl.evaluate(narrow).attrs["summary"]
