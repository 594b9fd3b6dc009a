from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff._sdata._layers import layer_names


@pytest.fixture
def sections(colored_sections):
    return colored_sections


@pytest.fixture
def model(colored_model):
    return colored_model


def layers(sdata, table: str = "table") -> set[str]:
    return set(layer_names(sdata.tables[table]))


def test_prediction_follows_the_planted_rule(sections, model) -> None:
    hd.tl.predict(sections[2], model)
    result = hd.tl.evaluate(sections[2], layer="ridge")
    assert result["pearson"].median() > 0.6
    assert not result.attrs["in_sample"]


def test_slots_shapes_types_and_record_are_those_of_the_contract(sections, model) -> None:
    test = sections[2]
    hd.tl.predict(test, model, n_draws=5, keep_draws=2, rng=7)
    table = test.tables["table"]
    assert layers(test) == {"ridge", "ridge_std", "ridge_draw0", "ridge_draw1"}
    for name in layers(test):
        assert table.layers[name].dtype == np.float32
        assert table.layers[name].shape == table.shape
    modelled = table.var["ridge_modelled"].to_numpy()
    assert set(table.var_names[modelled]) == set(model.genes)
    assert np.isfinite(table.layers["ridge"][:, modelled]).all()
    assert np.isnan(table.layers["ridge"][:, ~modelled]).all()
    assert table.obs["ridge_ood"].dtype == bool
    assert table.var["ridge_cv_pcc"].notna().to_numpy()[modelled].any()
    record = table.uns["hisdiff"]["predictions"]["ridge"]
    assert record["model"] == model.id
    assert (record["seed"], record["n_draws"], record["units"], record["method"]) == (7, 5, "log2", "ridge")
    assert (record["library_size_from"], record["uses_section_counts"]) == (["section"], False)
    assert record["in_sample"] is False


def test_the_same_seed_gives_the_same_result_and_another_one_another(sections, model) -> None:
    first, again, other = (hd.tl.predict(sections[2], model, rng=seed, inplace=False) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.layers["ridge_draw0"], again.layers["ridge_draw0"])
    assert np.abs(first.layers["ridge_draw0"] - other.layers["ridge_draw0"]).max() > 0


def test_without_inplace_the_result_is_returned_and_the_object_untouched(sections, model) -> None:
    result = hd.tl.predict(sections[2], model, inplace=False)
    assert layers(sections[2]) == set()
    assert list(result.var_names) == list(model.genes)
    assert list(result.obs_names) == list(sections[2].tables["table"].obs_names)
    hd.tl.predict(sections[2], model)
    assert result.uns["hisdiff"]["predictions"] == sections[2].tables["table"].uns["hisdiff"]["predictions"]


def test_without_inplace_a_missing_embedding_is_made_and_not_kept(sections, model, color_encoder, monkeypatch) -> None:
    expected = hd.tl.predict(sections[2], model, inplace=False)
    test = sections[2]
    table = test.tables["table"]
    del table.obsm["hisdiff_embedding"], table.uns["hisdiff"]
    del test.shapes["tissue_s2_image"]
    before = {*table.obsm, *table.uns, *test.shapes, *test.tables, *test.attrs}
    monkeypatch.setattr("hisdiff.encoders.get", lambda name: color_encoder)
    got = hd.tl.predict(test, model, inplace=False)
    assert {*table.obsm, *table.uns, *test.shapes, *test.tables, *test.attrs} == before
    np.testing.assert_array_equal(got.X, expected.X)


def test_the_order_of_genes_in_a_table_does_not_matter(sections, model) -> None:
    test = sections[2]
    straight = hd.tl.predict(test, model, inplace=False)
    table = test.tables["table"][:, ::-1].copy()
    del test.tables["table"]
    test.tables["table"] = table
    reverse = hd.tl.predict(test, model, inplace=False)
    np.testing.assert_allclose(reverse.to_df()[straight.var_names], straight.to_df(), rtol=1e-5)


def test_units_counts_turn_each_draw_into_counts(sections, model) -> None:
    logs = hd.tl.predict(sections[2], model, n_draws=3, keep_draws=3, inplace=False)
    counts = hd.tl.predict(sections[2], model, n_draws=3, keep_draws=3, units="counts", inplace=False)
    for i in range(3):
        np.testing.assert_allclose(
            counts.layers[f"ridge_draw{i}"], 2 ** logs.layers[f"ridge_draw{i}"] - 1, rtol=1e-4, atol=1e-4
        )


def test_the_model_of_an_object_is_found_through_its_record_also_after_zarr(sections, tmp_path) -> None:
    sdata = sections[0]
    model = hd.tl.fit(sdata, method="ridge")
    assert sdata.attrs["hisdiff"]["model"]["id"] == model.id
    sdata.write(tmp_path / "s.zarr")
    again = sd.read_zarr(tmp_path / "s.zarr")
    hd.tl.predict(again)
    assert again.tables["table"].uns["hisdiff"]["predictions"]["ridge"]["in_sample"]
    with pytest.raises(KeyError, match="No model was fitted on this object"):
        hd.tl.predict(sections[2])


def test_a_model_that_was_replaced_under_a_record_is_noticed(sections, tmp_path) -> None:
    hd.tl.fit(sections[0], method="ridge", save=tmp_path / "m")
    hd.tl.fit(sections[1], method="ridge", save=tmp_path / "m")
    with pytest.raises(ValueError, match="was fitted with"):
        hd.tl.predict(sections[0])


def test_missing_steps_are_run_with_defaults_and_said(make_section, caplog) -> None:
    sdata = make_section(side=5)
    with caplog.at_level("INFO", logger="hisdiff"):
        hd.tl.fit(sdata, method="ridge")
        hd.tl.predict(sdata)
    assert "running hd.pp.select_genes" in caplog.text
    assert "running hd.pp.embed with encoder 'texture'" in caplog.text
    assert "ridge" in layers(sdata)


def test_saved_and_loaded_models_predict_the_same(sections, model, tmp_path) -> None:
    model.save(tmp_path / "m")
    loaded = hd.models.load(tmp_path / "m")
    assert loaded.id == model.id
    np.testing.assert_array_equal(loaded.modules.raw, model.modules.raw)
    assert repr(loaded) == repr(model)
    a, b = (hd.tl.predict(sections[2], m, inplace=False) for m in (model, tmp_path / "m"))
    np.testing.assert_array_equal(a.X, b.X)


def test_a_section_with_only_an_image_is_predicted_on_a_lattice(sections, model, color_encoder) -> None:
    only = sd.SpatialData(images={"he": sections[2].images["s2_image"]})
    hd.pp.embed(only, color_encoder)
    hd.tl.predict(only, model)
    table = only.tables["lattice"]
    assert list(table.var_names) == list(model.genes)
    assert np.isfinite(table.layers["ridge"]).all()
    assert not table.uns["hisdiff"]["predictions"]["ridge"]["uses_section_counts"]
    hd.tl.predict(only, model)  # again


@pytest.fixture
def only_image(sections, color_encoder):
    only = sd.SpatialData(images={"he": sections[2].images["s2_image"]})
    hd.pp.embed(only, color_encoder)
    return only


def test_predictions_of_a_section_with_only_an_image_lie_side_by_side(sections, model, only_image, tmp_path) -> None:
    hd.tl.predict(only_image, model)
    hd.tl.coexpression(only_image, layer="ridge")
    first = only_image.tables["lattice"].copy()
    hd.tl.predict(only_image, model, key_added="again", units="counts", rng=3)
    only_image.write(tmp_path / "s.zarr")
    table = sd.read_zarr(tmp_path / "s.zarr").tables["lattice"]
    assert set(table.uns["hisdiff"]["predictions"]) == {"ridge", "again"}
    for name in ("ridge", "ridge_std", "ridge_draw0"):
        np.testing.assert_array_equal(table.layers[name], first.layers[name])
    np.testing.assert_array_equal(table.X, first.X)
    assert "hisdiff_coexpression" in table.varp
    # X is still the first one, in its units.
    of_x, of_layer = (hd.tl.coexpression(table, layer=name, inplace=False) for name in ("X", "ridge"))
    np.testing.assert_allclose(of_x, of_layer, atol=1e-6)


def test_a_lattice_gets_the_genes_of_another_panel_beside_its_own(sections, model, only_image) -> None:
    few, other = list(model.genes[:8]), list(model.genes[8:])
    hd.pp.select_genes(sections[:2], genes=few)
    hd.tl.predict(only_image, hd.tl.fit(sections[:2], method="ridge"))
    hd.tl.coexpression(only_image, layer="ridge")
    first = only_image.tables["lattice"].copy()
    hd.pp.select_genes(sections[:2], genes=[*few[:4], *other])
    hd.tl.predict(only_image, hd.tl.fit(sections[:2], method="ridge"), key_added="wide")
    table = only_image.tables["lattice"]
    assert list(table.var_names) == [*few, *other]
    kept = table[:, few]
    np.testing.assert_array_equal(kept.layers["ridge"], first.layers["ridge"])
    np.testing.assert_allclose(kept.varp["hisdiff_coexpression"].toarray(), first.varp["hisdiff_coexpression"])
    assert list(table.var_names[table.var["ridge_modelled"]]) == few
    assert set(table.var_names[table.var["wide_modelled"]]) == {*few[:4], *other}
    assert np.isnan(table[:, other].layers["ridge"]).all()
    assert hd.pl.coexpression(only_image).images


def test_the_only_prediction_of_a_lattice_gives_way_to_another_panel_and_it_is_said(
    sections, model, only_image, caplog
) -> None:
    hd.tl.predict(only_image, model)
    hd.tl.coexpression(only_image, layer="ridge")
    hd.pp.select_genes(sections[:2], genes=list(model.genes[:4]))
    hd.tl.predict(only_image, hd.tl.fit(sections[:2], method="ridge"))
    table = only_image.tables["lattice"]
    assert sorted(table.var_names) == sorted(model.genes[:4])
    assert "what was made of it are replaced" in caplog.text
    with pytest.raises(KeyError, match=r"no coexpression 'hisdiff'; available: \[\]"):
        hd.pl.coexpression(only_image)


def test_one_table_with_two_regions_is_two_sections(sections, model, color_encoder) -> None:
    a, b = sections[0], sections[2]
    both = merged(a, b)
    hd.pp.embed(both, color_encoder)
    hd.tl.predict(both, model)
    one = hd.tl.predict(b, model, inplace=False)
    rows = both.tables["table"].obs["region"].to_numpy() == "s2"
    panel = both.tables["table"][rows][:, list(model.genes)]
    np.testing.assert_allclose(panel.layers["ridge"], one[panel.obs_names].X, rtol=1e-4, atol=1e-4)
    assert len(both.tables["table"].uns["hisdiff"]["predictions"]["ridge"]["library_size"]) == 2


def test_sections_have_noise_of_their_own_whether_predicted_together_or_alone(sections, model, color_encoder) -> None:
    both = merged(sections[0], sections[2])
    hd.pp.embed(both, color_encoder)
    hd.tl.predict(both, model, keep_draws=1)
    table = both.tables["table"]
    genes = table.var["ridge_modelled"].to_numpy()
    away = (table.layers["ridge_draw0"] - table.layers["ridge"])[:, genes]
    first, other = (away[table.obs["region"] == name] for name in ("s0", "s2"))
    where = [sections[i].tables["table"].obsm["spatial"].tolist() for i in (0, 2)]
    rows = [(i, where[1].index(place)) for i, place in enumerate(where[0]) if place in where[1]]
    assert len(rows) > 20
    here, there = map(list, zip(*rows))
    assert abs(np.corrcoef(first[here].ravel(), other[there].ravel())[0, 1]) < 0.3
    hd.tl.predict(sections[2], model, keep_draws=1)
    alone = sections[2].tables["table"]
    np.testing.assert_allclose(
        alone.layers["ridge_draw0"], table.layers["ridge_draw0"][table.obs["region"] == "s2"], atol=1e-4
    )


def merged(a, b):
    import anndata as ad
    from spatialdata.models import TableModel

    tables = [s.tables["table"].copy() for s in (a, b)]
    for table in tables:
        table.uns.clear()
        table.obsm.pop("hisdiff_embedding", None)
    table = TableModel.parse(
        ad.concat(tables, merge="same"), region=["s0", "s2"], region_key="region", instance_key="instance_id"
    )
    return sd.SpatialData(
        images={"s0_image": a.images["s0_image"], "s2_image": b.images["s2_image"]},
        shapes={"s0": a.shapes["s0"], "s2": b.shapes["s2"]},
        tables={"table": table},
    )


def test_running_twice_replaces_our_layers_and_drops_stale_draws(sections, model) -> None:
    test = sections[2]
    hd.tl.predict(test, model, keep_draws=3)
    hd.tl.predict(test, model, keep_draws=1)
    assert layers(test) == {"ridge", "ridge_std", "ridge_draw0"}


def test_a_layer_of_somebody_else_is_never_touched(sections, model) -> None:
    table = sections[2].tables["table"]
    table.layers["ridge"] = np.ones(table.shape, dtype=np.float32)
    with pytest.raises(ValueError, match="hisdiff did not write.*key_added"):
        hd.tl.predict(sections[2], model)
    assert (table.layers["ridge"] == 1).all()
    hd.tl.predict(sections[2], model, key_added="mine")
    assert {"mine", "mine_std", "mine_draw0"} <= layers(sections[2])


def test_genes_that_the_target_lacks_are_left_out_and_said(sections, model, caplog) -> None:
    test = sections[2]
    lost = str(model.genes[0])
    table = test.tables["table"][:, test.tables["table"].var_names != lost].copy()
    del test.tables["table"]
    test.tables["table"] = table
    hd.tl.predict(test, model)
    assert lost in caplog.text
    assert test.tables["table"].var["ridge_modelled"].sum() == len(model.genes) - 1


def test_library_size_can_be_set_and_is_the_sections_own_by_default(sections, model) -> None:
    hd.tl.predict(sections[2], model)
    record = sections[2].tables["table"].uns["hisdiff"]["predictions"]["ridge"]
    counts = sections[2].tables["table"][:, list(model.genes)].X.sum(axis=1)
    assert record["library_size"][0] == pytest.approx(float(np.median(np.asarray(counts))), rel=1e-4)
    hd.tl.predict(sections[2], model, library_size=8)
    record = sections[2].tables["table"].uns["hisdiff"]["predictions"]["ridge"]
    assert (record["library_size"], record["library_size_from"]) == ([8.0], ["given"])


def test_a_table_that_lacks_genes_is_predicted_at_the_library_size_of_the_whole_panel(colored_sections) -> None:
    *train, test = colored_sections
    model = hd.tl.fit(train, method="ridge")
    hd.tl.predict(test, model)
    table = test.tables["table"]
    order = np.argsort(np.asarray(table.X.sum(axis=0)).ravel())
    few = table[:, np.sort(order[: int(0.6 * table.n_vars)])].copy()
    whole = few.layers["ridge"].copy()
    test.tables["table"] = few
    hd.tl.predict(test, model)
    np.testing.assert_allclose(few.layers["ridge"].mean(), whole.mean(), rtol=0.05)


def test_predictions_whose_names_begin_alike_lie_side_by_side(colored_sections) -> None:
    *train, test = colored_sections
    model = hd.tl.fit(train, method="ridge")
    for key in ("a", "a_drawn", "a"):
        hd.tl.predict(test, model, key_added=key)
    assert {"a", "a_draw0", "a_drawn", "a_drawn_draw0"} <= set(test.tables["table"].layers)


def test_a_section_of_one_spot_leaves_pitch_and_library_size_of_the_cohort_known(make_section, color_encoder) -> None:
    sections = [make_section(f"s{i}", seed=i) for i in (1, 2)]
    hd.pp.select_genes(sections)
    sections[1].tables["table"] = sections[1].tables["table"][:1].copy()
    hd.pp.embed(sections, color_encoder)
    model = hd.tl.fit(sections, method="ridge")
    assert model.cohort.pitch_um == pytest.approx(100)
    assert np.isfinite(model.cohort.library_size)


def test_sections_with_symbols_and_with_ids_are_fitted_together(make_section, color_encoder) -> None:
    sections = [make_section(f"s{i}", seed=i) for i in (1, 2)]
    table = sections[1].tables["table"]
    table.var["gene_symbols"] = table.var_names.to_numpy(str)
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    hd.pp.select_genes(sections)
    hd.pp.embed(sections, color_encoder)
    model = hd.tl.fit(sections, method="ridge")
    assert list(model.genes) == sorted(sections[0].tables["table"].var_names)


def test_predictions_of_a_section_with_an_image_only_lie_side_by_side(make_section) -> None:
    train = make_section()
    hd.pp.select_genes(train)
    model = hd.tl.fit(train, method="ridge")
    bare = sd.SpatialData(images={"he": make_section("s2", seed=2).images["s2_image"]})
    hd.tl.predict(bare, model)
    hd.tl.coexpression(bare, layer="ridge_draw0")
    first = bare.tables["lattice"].X.copy()
    hd.tl.predict(bare, model, key_added="second", units="counts")
    table = bare.tables["lattice"]
    assert {"ridge", "ridge_draw0", "second", "second_draw0"} <= set(table.layers)
    assert "hisdiff_coexpression" in table.varp
    np.testing.assert_array_equal(table.X, first)


def test_one_draw_has_no_coverage(colored_sections) -> None:
    *train, test = colored_sections
    hd.tl.predict(test, hd.tl.fit(train, method="ridge", config="baseline"), n_draws=1)
    assert np.isnan(hd.tl.evaluate(test, layer="ridge").attrs["summary"]["mean"]["coverage_90"])


def test_a_cropped_section_is_predicted_on_its_image_only(make_section) -> None:
    test = make_section()
    hd.pp.select_genes(test)
    hd.pp.tissue_mask(test)
    model = hd.tl.fit(test, method="ridge")
    box = {"min_coordinate": [100, 100], "max_coordinate": [450, 500], "target_coordinate_system": "global"}
    crop = sd.bounding_box_query(test, axes=("x", "y"), **box)
    hd.tl.predict(crop, model, resolution_um=50)
    (image,) = crop.images.values()
    assert image["scale0"]["image"].shape[1:] == (400, 350)
    xy = crop.tables["ridge_50um"].obsm["spatial"]  # pixels of the crop
    assert len(xy) == 7 * 8
    assert (xy > 0).all()
    assert (xy < [350, 400]).all()
    hd.pl.overview(crop)
    again = sd.bounding_box_query(crop, axes=("x", "y"), **box)  # its fine table annotates a list of one region
    hd.pl.overview(again)


@pytest.mark.parametrize(
    ("library_size", "error"), [(0, ValueError), (1e30, ValueError), (-1, ValueError), (np.nan, ValueError),
                         ("10", TypeError), (True, TypeError)]
)  # fmt: skip
def test_a_library_size_that_is_no_count_is_refused_before_anything_is_written(
    sections, model, library_size, error
) -> None:
    with pytest.raises(error, match="library_size"):
        hd.tl.predict(sections[2], model, library_size=library_size)
    assert layers(sections[2]) == set()


@pytest.mark.parametrize(
    ("name", "error"),
    [("my pred/x", ValueError), ("X", ValueError), ("", ValueError), (["a"], TypeError), ("__a", ValueError)],
)
def test_a_name_that_cannot_be_written_or_reached_is_refused(sections, model, name, error) -> None:
    with pytest.raises(error, match="key_added"):
        hd.tl.predict(sections[2], model, key_added=name)
    assert layers(sections[2]) == set()


def in_sample(sdata) -> object:
    return sdata.tables["table"].uns["hisdiff"]["predictions"]["ridge"]["in_sample"]


def test_whether_the_model_knows_a_section_is_unknown_where_genes_or_counts_are_missing(
    sections, model, tmp_path
) -> None:
    train = sections[0]
    table = train.tables["table"]
    table.layers["raw"] = table.X.copy()
    table.X = (table.X.toarray() - 1.5).astype(np.float32)
    hd.tl.predict(train, model)
    assert in_sample(train) == "unknown"
    hd.tl.predict(train, model, layer="raw")
    assert in_sample(train) is True
    fewer = table[:, list(model.genes[1:])].copy()
    del train.tables["table"]
    train.tables["table"] = fewer
    hd.tl.predict(train, model, layer="raw")
    train.write(tmp_path / "s.zarr")
    assert in_sample(sd.read_zarr(tmp_path / "s.zarr")) == "unknown"
    assert hd.tl.evaluate(train, layer="ridge", truth="raw").attrs["in_sample"] is None


def test_counts_of_one_gene_do_not_make_a_section_a_known_one(sections) -> None:
    hd.pp.select_genes(sections, genes=[sections[0].tables["table"].var_names[-1]])
    model = hd.tl.fit(sections[:2], method="ridge")
    hd.tl.predict(sections, model)
    assert [in_sample(sdata) for sdata in sections] == ["unknown"] * 3
    result = hd.tl.evaluate(sections[2], layer="ridge")
    assert np.isnan(result["pearson_norm"]).all()
    assert np.isnan(result.attrs["summary"]["mean_norm"]["mse"])


def test_a_record_says_what_was_made_not_what_was_asked_for(sections) -> None:
    test = sections[2]
    hd.tl.predict(test, hd.tl.fit(test, method="tesla"), n_draws=8, library_size=64)
    hd.tl.predict(test, hd.tl.fit(sections[:2], config={"max_steps": 5, "n_steps": 3, "fine": False}), n_draws=2)
    made = test.tables["table"].uns["hisdiff"]["predictions"]
    assert [(r["n_draws"], r["n_steps"]) for r in (made["tesla"], made["hisdiff"])] == [(1, 0), (2, 3)]
    assert made["tesla"]["uses_section_counts"]  # whatever the library size
    assert not made["hisdiff"]["uses_section_counts"]


def test_the_name_of_a_method_is_no_model(sections) -> None:
    with pytest.raises(ValueError, match=r"name of a method.*fit\(sections, method='ridge'\)"):
        hd.tl.predict(sections[2], "ridge")


def test_the_order_of_rows_decides_nothing(sections, model) -> None:
    train, second, test = sections
    expected = hd.tl.predict(test, model, inplace=False)
    rows = np.random.default_rng(0).permutation(test.tables["table"].n_obs)
    for sdata in (train, test):
        sdata.tables["table"] = sdata.tables.pop("table")[rows].copy()
    assert hd.tl.fit([train, second], method="ridge").id == model.id
    found = hd.tl.predict(test, model, inplace=False)
    for name in ("ridge", "ridge_draw0"):
        np.testing.assert_array_equal(found.layers[name], expected.layers[name][rows])
