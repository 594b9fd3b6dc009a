from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse
from scipy.stats import spearmanr

import hisdiff as hd
from hisdiff._stats._structure import normalize_library_size


@pytest.fixture
def predicted(colored_sections, colored_model):
    """A section with a prediction of three kept draws, and the training sections."""
    *train, test = colored_sections
    hd.tl.predict(test, colored_model, n_draws=8, keep_draws=3)
    return test, train


@pytest.fixture
def section(make_section):
    return make_section(side=8)


def table(sdata):
    return sdata.tables["table"]


def test_the_matrix_is_that_of_scipy_on_library_size_normalised_counts(section) -> None:
    log2 = np.log2(1 + table(section).X.toarray())
    for normalize, values in (("library_size", normalize_library_size(log2)), (None, log2)):
        hd.tl.coexpression(section, layer="X", normalize=normalize)
        np.testing.assert_allclose(
            table(section).varp["hisdiff_coexpression"], spearmanr(values.round(4))[0], atol=1e-3
        )


def test_planted_kinds_are_the_modules_and_their_scores_tell_them_apart(section) -> None:
    hd.tl.coexpression(section, layer=None)
    module = table(section).var["hisdiff_module"]
    assert pd.crosstab(module, module.index.str[0]).to_numpy().tolist() in ([[6, 0], [0, 6]], [[0, 6], [6, 0]])
    scores = table(section).obsm["hisdiff_modules"]
    assert list(scores.columns) == ["M1", "M2"]
    assert np.corrcoef(scores.T)[0, 1] < -0.5
    hd.tl.coexpression(section, layer=None, modules="hierarchical")
    assert (table(section).var["hisdiff_module"] == module).all()


def test_several_draws_average_their_matrices(predicted) -> None:
    test, _ = predicted
    draws = [f"ridge_draw{i}" for i in range(3)]
    each = [hd.tl.coexpression(test, layer=draw, inplace=False).to_numpy() for draw in draws]
    np.testing.assert_allclose(
        hd.tl.coexpression(test, layer=draws, inplace=False), np.mean(each, axis=0), rtol=1e-5, atol=1e-6
    )


def test_genes_that_take_no_part_are_absent_and_in_no_module(section) -> None:
    genes = ["A02", "B01", "A00", "B03", "A04"]
    hd.tl.coexpression(section, genes, layer="X")
    matrix = table(section).varp["hisdiff_coexpression"]
    assert sparse.issparse(matrix)
    assert matrix.nnz == 25
    expected = hd.tl.coexpression(section, genes, layer="X", inplace=False)
    part = table(section)[:, genes]
    np.testing.assert_allclose(part.varp["hisdiff_coexpression"].toarray(), expected)
    assert table(section).var["hisdiff_module"].isna()[["A06", "B11"]].all()


def test_lee_uses_the_graph_of_squidpy_or_the_nearest(section, caplog) -> None:
    import squidpy as sq

    near = hd.tl.coexpression(section, layer="X", method="lee", inplace=False)
    assert "6 nearest" in caplog.text
    sq.gr.spatial_neighbors_grid(table(section), n_neighs=4)
    grid = hd.tl.coexpression(section, layer="X", method="lee", inplace=False)
    assert not np.allclose(near, grid)
    assert grid.loc["A08", "A10"] > 0.2 > -0.2 > grid.loc["A08", "B11"]


def test_significance_is_kept_beside_the_matrix(section) -> None:
    hd.tl.coexpression(section, layer="X", n_perms=200)
    fdr = table(section).varp["hisdiff_coexpression_fdr"]
    assert fdr.min() < 0.05
    assert (np.diag(fdr) == 1).all()
    hd.tl.coexpression(section, layer="X")
    assert "hisdiff_coexpression_fdr" not in table(section).varp


def test_results_survive_writing_and_reading(section, tmp_path) -> None:
    hd.tl.coexpression(section, layer="X", n_perms=20)
    hd.tl.coexpression(section, ["A00", "A02", "B01"], layer="X", key_added="some")
    section.write(tmp_path / "s.zarr")
    table(section).write_h5ad(tmp_path / "t.h5ad")
    for back in (table(sd.read_zarr(tmp_path / "s.zarr")), ad.read_h5ad(tmp_path / "t.h5ad")):
        for key in ("hisdiff_coexpression", "hisdiff_coexpression_fdr"):
            np.testing.assert_array_equal(back.varp[key], table(section).varp[key])
        assert (back.varp["some_coexpression"] != table(section).varp["some_coexpression"]).nnz == 0
        pd.testing.assert_series_equal(back.var["hisdiff_module"], table(section).var["hisdiff_module"], check_categorical=False)  # fmt: skip
        np.testing.assert_array_equal(back.obsm["hisdiff_modules"], table(section).obsm["hisdiff_modules"])
        assert set(back.uns["hisdiff"]["coexpression"]) == {"hisdiff", "some"}


def test_no_module_at_all_can_be_written_too(section, tmp_path) -> None:
    rng = np.random.default_rng(0)
    table(section).X = sparse.csr_matrix(rng.poisson(5, (64, 12)).astype(np.float32))
    hd.tl.coexpression(section, layer="X", min_genes=13)
    assert table(section).var["hisdiff_module"].isna().all()
    table(section).write_h5ad(tmp_path / "t.h5ad")
    assert ad.read_h5ad(tmp_path / "t.h5ad").obsm["hisdiff_modules"].shape == (64, 0)


def test_the_same_seed_gives_the_same_and_nothing_is_written_out_of_place(section) -> None:
    before = set(table(section).varp), set(table(section).var), set(table(section).uns)
    first, second = (hd.tl.coexpression(section, layer="X", n_perms=20, rng=3, inplace=False) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert first.attrs["module"] == second.attrs["module"]
    np.testing.assert_array_equal(first.attrs["fdr"], second.attrs["fdr"])
    assert before == (set(table(section).varp), set(table(section).var), set(table(section).uns))


def test_constant_genes_and_empty_spots_are_stated_and_harmless(section, caplog) -> None:
    counts = table(section).X.toarray()
    counts[:, 4], counts[:3] = 0, 0
    table(section).X = sparse.csr_matrix(counts)
    hd.tl.coexpression(section, layer="X", n_perms=10)
    assert "1 genes are constant and get correlation 0: ['A04']" in caplog.text
    matrix = table(section).varp["hisdiff_coexpression"]
    assert not matrix[4].any()
    assert np.isfinite(matrix).all()
    assert table(section).var["hisdiff_module"].isna().tolist() == [i == 4 for i in range(12)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": "hisdiff"}, KeyError, "no layer 'hisdiff'; available: .'X'"),
        ({"layer": "X", "genes": ["A00", "Z"]}, KeyError, "no gene 'Z'"),
        ({"layer": "X", "method": "kendall"}, ValueError, "method is one of"),
        ({"layer": "X", "normalize": "cpm"}, ValueError, "normalize is one of"),
        ({"layer": "X", "modules": "louvain"}, ValueError, "modules is one of"),
        ({"layer": "X", "resolution": 0}, ValueError, "resolution"),
        ({"layer": "X", "n_perms": 2.5}, TypeError, "n_perms"),
        ({"layer": "X", "rng": -1}, ValueError, "rng"),
        ({"layer": "X", "table_key": "t"}, KeyError, "no table 't'"),
        ({"layer": "X", "key_added": "mine"}, ValueError, "hisdiff did not write"),
    ],
)
def test_mistakes_are_named_and_leave_the_object_alone(section, arguments, error, message) -> None:
    table(section).var["mine_module"] = "precious"
    before = repr(table(section))
    with pytest.raises(error, match=message):
        hd.tl.coexpression(section, **arguments)
    assert repr(table(section)) == before


def test_one_spot_and_constant_sections_are_refused(section) -> None:
    with pytest.raises(ValueError, match="At least 3 locations"):
        hd.tl.coexpression(table(section)[:1].copy(), layer="X")
    flat = ad.AnnData(np.full((5, 4), 3.0))
    with pytest.raises(ValueError, match="All 4 genes are constant"):
        hd.tl.coexpression(flat, layer="X", normalize=None)
    with pytest.raises(KeyError, match="neither a graph"):
        hd.tl.coexpression(ad.AnnData(np.eye(5)), layer="X", method="lee")
    wide = ad.AnnData(np.ones((3, 10_001), dtype=np.float32))
    with pytest.raises(ValueError, match="10001 genes give a matrix of"):
        hd.tl.coexpression(wide, layer="X")


def test_a_layer_that_equals_the_measurement_agrees_perfectly(predicted) -> None:
    test, _ = predicted
    for name in ("ridge", "ridge_draw0", "ridge_draw1", "ridge_draw2"):
        table(test).layers[name] = np.log2(1 + table(test).X.toarray()).astype(np.float32)
    frame = hd.tl.coexpression_agreement(test).set_index("view")
    for view in ("mean", "draw", "draws"):
        metrics = frame.loc[view]
        assert metrics[["r", "r_norm", "module_ari", "module_ari_norm"]].to_list() == pytest.approx([1] * 4, abs=1e-3)
        assert metrics[["mae", "mae_norm"]].to_list() == pytest.approx([0, 0], abs=1e-3)
    assert frame.loc["resampled", "mae"] > 0


def test_means_smooth_and_draws_do_not(predicted) -> None:
    test, train = predicted
    frame = hd.tl.coexpression_agreement(test, layers="ridge", control=train, method="pearson")
    assert frame["view"].tolist() == ["mean", "draw", "draws", "random spots", "resampled"]
    metrics = frame.set_index("view")
    assert metrics.loc["draw", "mae"] < metrics.loc["mean", "mae"] / 2
    assert np.isfinite(frame.drop(columns=["layer", "view"]).to_numpy()).all()
    assert "r_norm" not in hd.tl.coexpression_agreement(test, normalize=None)


def test_agreement_names_what_is_missing(predicted, section) -> None:
    test, _ = predicted
    with pytest.raises(KeyError, match="no prediction to compare"):
        hd.tl.coexpression_agreement(section)
    with pytest.raises(KeyError, match="no layer 'gold'"):
        hd.tl.coexpression_agreement(test, layers=["ridge", "gold"])
    with pytest.raises(ValueError, match="layers is empty"):
        hd.tl.coexpression_agreement(test, layers=[])
    with pytest.raises(ValueError, match="method is one of"):
        hd.tl.coexpression_agreement(test, method="lee")


def test_without_a_layer_a_draw_of_the_only_prediction_is_taken_and_said(predicted, caplog) -> None:
    test, _ = predicted
    hd.tl.coexpression(test)
    assert table(test).uns["hisdiff"]["coexpression"]["hisdiff"]["layers"].tolist() == ["ridge_draw0"]
    assert "coexpression of 'ridge_draw0', one draw of the prediction; layer= chooses another" in caplog.text
    hd.tl.enrich(test, {"A": [f"A{i:02d}" for i in range(0, 12, 2)]}, method="zscore")
    assert table(test).uns["hisdiff"]["enrichment_record"]["layers"].tolist() == ["ridge_draw0"]
    names = [ax.get_title(loc="left") for ax in hd.pl.gene_pair(test, "A00", "B01").axes]
    assert any(name.startswith("draw0 of ridge") for name in names)


def test_among_several_predictions_without_the_default_method_one_is_to_be_named(predicted) -> None:
    test, train = predicted
    hd.tl.predict(test, hd.tl.fit(train, method="ridge"), key_added="other")
    with pytest.raises(ValueError, match=r"several predictions, \['ridge', 'other'\].*such as 'ridge_draw0'"):
        hd.tl.coexpression(test)
