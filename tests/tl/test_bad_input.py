"""Mistakes of users: each is an error before any work starts, and leaves the object as it was."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import sparse
from snapshot import snapshot

import hisdiff as hd


@pytest.fixture
def sdata(make_section, color_encoder):
    made = make_section()
    hd.pp.select_genes(made)
    hd.pp.embed(made, color_encoder)
    return made


def spoil_counts(value: float):
    def spoil(sdata) -> None:
        sdata.tables["table"].X.data[0] = value

    return spoil


def drop_image(sdata) -> None:
    del sdata.images["s1_image"]
    del sdata.tables["table"].obsm["hisdiff_embedding"]
    del sdata.tables["table"].uns["hisdiff"]


def select_nothing(sdata) -> None:
    sdata.tables["table"].var["hisdiff_selected"] = False


def repeat_a_gene(sdata) -> None:
    names = sdata.tables["table"].var_names.to_list()
    sdata.tables["table"].var_names = [names[1], *names[1:]]


def spoil_embedding(sdata) -> None:
    sdata.tables["table"].obsm["hisdiff_embedding"][2] = np.nan


def narrow_embedding(sdata) -> None:
    table = sdata.tables["table"]
    table.obsm["hisdiff_embedding"] = table.obsm["hisdiff_embedding"][:, :-1]


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_counts(np.nan), "NaN or infinite values in table 'table', X"),
        (spoil_counts(-2.0), "negative values in table 'table', X \\(lowest -2\\)"),
        (spoil_counts(1.5), "not whole numbers in table 'table', X, such as 1.5"),
        (drop_image, "no image for 's1'"),
        (select_nothing, "No gene is selected"),
        (repeat_a_gene, "more than once, such as \\['B01'\\]"),
        (spoil_embedding, "embedding of 's1' has NaN"),
        (narrow_embedding, "embedding of 's1' has [0-9]+ values a spot, and its record is of"),
    ],
)
def test_fit_refuses_sections_that_cannot_be_fitted(sdata, spoil, message) -> None:
    spoil(sdata)
    before = snapshot(sdata)
    with pytest.raises(ValueError, match=message):
        hd.tl.fit(sdata, method="ridge")
    assert snapshot(sdata) == before


@pytest.mark.parametrize("spoil", [spoil_embedding, narrow_embedding])
def test_comparisons_refuse_a_test_section_that_cannot_be_predicted(make_section, color_encoder, sdata, spoil) -> None:
    other = make_section("s2", seed=1)
    hd.pp.embed(other, color_encoder)
    spoil(sdata)
    for compare in (
        lambda: hd.tl.compare(other, sdata, ["ridge"]),
        lambda: hd.tl.cross_validate([sdata, other], ["ridge"]),
    ):
        with pytest.raises(ValueError, match="embedding of 's1' has"):
            compare()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "rigde"}, ValueError, "method is one of .*Did you mean 'ridge'"),
        ({"method": "ridge", "config": "fats"}, ValueError, "fast"),
        ({"method": "ridge", "config": {"alhpa": 1}}, (ValueError, TypeError, KeyError), "alhpa"),
        ({"method": "ridge", "config": 3}, TypeError, "config is"),
        ({"method": "ridge", "layer": "counts"}, KeyError, "no layer of table 'table' 'counts'"),
        ({"method": "ridge", "rng": -1}, ValueError, "rng"),
        ({"method": "ridge", "mpp": 0.1}, ValueError, "contradicts"),
        ({"method": "ridge", "table_key": "x"}, KeyError, "no table 'x'"),
    ],
)
def test_fit_refuses_wrong_arguments_and_says_what_there_is(sdata, arguments, error, message) -> None:
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        hd.tl.fit(sdata, **arguments)
    assert snapshot(sdata) == before


def test_fit_refuses_no_section_the_same_one_twice_and_one_that_is_also_validation(sdata) -> None:
    with pytest.raises(ValueError, match="no section"):
        hd.tl.fit([])
    with pytest.raises(ValueError, match="twice"):
        hd.tl.fit([sdata, sdata])
    with pytest.raises(ValueError, match="among the training"):
        hd.tl.fit([sdata], validation=sdata)


def test_fit_refuses_sections_that_were_prepared_differently(make_section, color_encoder, sdata) -> None:
    other = make_section("s2", seed=1)
    hd.pp.select_genes(other)
    hd.pp.embed(other, color_encoder, patch_um=40)
    with pytest.raises(ValueError, match="embedded differently"):
        hd.tl.fit([sdata, other], method="ridge")
    hd.pp.embed(other, color_encoder)
    hd.pp.select_genes(other, genes=["A00"])
    with pytest.raises(ValueError, match="different selections of genes"):
        hd.tl.fit([sdata, other], method="ridge")


@pytest.fixture
def model(sdata):
    return hd.tl.fit(sdata, method="ridge")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_draws": 0}, ValueError, "n_draws"),
        ({"n_draws": 2.5}, TypeError, "n_draws"),
        ({"keep_draws": 17}, ValueError, "keep_draws=17 is more than n_draws=16"),
        ({"units": "log"}, ValueError, "units is one of"),
        ({"layer": "raw"}, KeyError, "no layer"),
        ({"n_steps": -1}, ValueError, "n_steps"),
        ({"n_steps": 5}, ValueError, "method 'ridge' has none"),
    ],
)
def test_predict_refuses_wrong_arguments(sdata, model, arguments, error, message) -> None:
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        hd.tl.predict(sdata, model, **arguments)
    assert snapshot(sdata) == before


def test_predict_refuses_an_embedding_of_another_encoder_and_says_how_to_mend_it(
    make_section, color_encoder, model
) -> None:
    other = make_section("s2")
    hd.pp.embed(other, color_encoder, patch_um=40)
    before = snapshot(other)
    with pytest.raises(ValueError, match="patch 40 um.*hd.pp.embed"):
        hd.tl.predict(other, model)
    assert snapshot(other) == before


def test_predict_refuses_a_table_of_other_gene_names(make_section, color_encoder, model) -> None:
    other = make_section("s2", genes=[f"ENSG{i}" for i in range(12)])
    hd.pp.embed(other, color_encoder)
    before = snapshot(other)
    with pytest.raises(ValueError, match="Only 0 of the model's .* symbols"):
        hd.tl.predict(other, model)
    assert snapshot(other) == before


def test_predict_refuses_folders_that_hold_no_model(sdata, tmp_path) -> None:
    before = snapshot(sdata)
    with pytest.raises(FileNotFoundError):
        hd.tl.predict(sdata, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not the folder of a hisdiff model"):
        hd.tl.predict(sdata, tmp_path)
    with pytest.raises(TypeError, match="model is a Model"):
        hd.tl.predict(sdata, 3)
    assert snapshot(sdata) == before


def test_a_truncated_or_pickled_model_is_refused(sdata, model, tmp_path) -> None:
    model.save(tmp_path / "m")
    weights = tmp_path / "m" / "weights.safetensors"
    whole, before = weights.read_bytes(), snapshot(sdata)
    for content, message in ((whole[:-20], "truncated"), (pickle.dumps({"slopes": [1.0]}), "truncated")):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            hd.tl.predict(sdata, tmp_path / "m")
    assert snapshot(sdata) == before


def test_files_of_different_models_in_one_folder_are_refused(sdata, model, tmp_path) -> None:
    model.save(tmp_path / "m")
    (tmp_path / "m" / "genes.txt").write_text("\n".join(reversed(model.genes)) + "\n")
    with pytest.raises(ValueError, match="do not belong together"):
        hd.models.load(tmp_path / "m")


def test_a_section_without_counts_cannot_be_fitted(make_section, color_encoder) -> None:
    import spatialdata as sd

    only = sd.SpatialData(images={"he": make_section().images["s1_image"]})
    hd.pp.embed(only, color_encoder)
    with pytest.raises(ValueError, match="no counts"):
        hd.tl.fit(only, method="ridge")


@pytest.mark.parametrize("kind", [sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int64)])
def test_any_storage_of_counts_fits_the_same_model(make_section, color_encoder, sdata, kind) -> None:
    expected = hd.tl.fit(sdata, method="ridge").id
    sdata.tables["table"].X = kind(sdata.tables["table"].X)
    assert hd.tl.fit(sdata, method="ridge").id == expected


def test_stored_embeddings_are_enough_to_fit_where_the_image_was_left_behind(sdata) -> None:
    expected = hd.tl.fit(sdata, method="ridge").fitted.state()[0]["mean/slopes"]
    del sdata.images["s1_image"]
    np.testing.assert_allclose(hd.tl.fit(sdata, method="ridge").fitted.state()[0]["mean/slopes"], expected)


def test_empty_spots_and_constant_genes_are_no_obstacle(sdata) -> None:
    table = sdata.tables["table"]
    dense = table.X.toarray()
    dense[:4], dense[:, 3] = 0, 7
    table.X = sparse.csr_matrix(dense)
    hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata)
    assert np.isfinite(table.layers["ridge"][:, table.var["ridge_modelled"]]).all()


def test_fewer_spots_than_the_context_are_handled(make_section, color_encoder) -> None:
    sdata = make_section(side=3)
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata, color_encoder)
    hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata)
    assert "ridge" in sdata.tables["table"].layers


def test_evaluate_names_what_is_missing(sdata, model) -> None:
    before = snapshot(sdata)
    with pytest.raises(KeyError, match="no prediction 'hisdiff'"):
        hd.tl.evaluate(sdata)
    assert snapshot(sdata) == before
    hd.tl.predict(sdata, model, units="counts")
    with pytest.raises(ValueError, match="predict with units='log2'"):
        hd.tl.evaluate(sdata, layer="ridge")
    hd.tl.predict(sdata, model)
    with pytest.raises(KeyError, match="no layer or table 'gold'"):
        hd.tl.evaluate(sdata, layer="ridge", truth="gold")
    with pytest.raises(ValueError, match="normalize"):
        hd.tl.evaluate(sdata, layer="ridge", normalize="cpm")


@pytest.mark.parametrize("config", [{"sampler": "ddpm"}, {"preset": "dit", "width": 50, "heads": 8}])
def test_settings_that_do_not_go_together_are_refused_before_the_fit(sdata, config) -> None:
    with pytest.raises(ValueError, match="ddpm|heads"):
        hd.tl.fit(sdata, config=config)


def test_names_that_a_fine_table_needs_are_checked_first(sdata, monkeypatch) -> None:
    from hisdiff.tl import _predict_fine

    model = hd.tl.fit(sdata, method="ridge")
    shapes = sdata.shapes["s1"].iloc[:2].copy()
    sdata.shapes["float"] = shapes.set_axis([0.5, 1.5])
    sdata.shapes["off"] = shapes.assign(geometry=shapes.geometry.translate(9000, 0))
    monkeypatch.setattr(_predict_fine, "fine_predictor", None)  # nothing is computed
    with pytest.raises(ValueError, match="integers or strings"):
        hd.tl.predict(sdata, model, at="float")
    with pytest.raises(ValueError, match="2 of 2 locations of 'off' lie outside image"):
        hd.tl.predict(sdata, model, at="off")
    sdata.tables["table"].obs_names = ["a"] * sdata.tables["table"].n_obs
    with pytest.raises(ValueError, match="obs_names_make_unique"):
        hd.tl.predict(sdata, model, resolution_um=40)


def test_a_symbol_of_the_panel_that_two_columns_have_is_refused(sdata) -> None:
    model = hd.tl.fit(sdata, method="ridge")
    table = sdata.tables["table"]
    symbols = table.var_names.to_numpy(str).copy()
    symbols[1] = symbols[0]
    table.var["gene_symbols"] = symbols
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    with pytest.raises(ValueError, match="more than once"):
        hd.tl.predict(sdata, model)
