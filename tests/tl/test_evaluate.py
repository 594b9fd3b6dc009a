from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import hisdiff as hd
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._scorer import SCORES


@pytest.fixture
def predicted(colored_sections, colored_model):
    """A section with a prediction of four kept draws, and the training sections."""
    *train, test = colored_sections
    hd.tl.predict(test, colored_model, n_draws=8, keep_draws=4)
    return test, train


def test_there_is_one_row_per_modelled_gene_with_its_correlation(predicted) -> None:
    test, _ = predicted
    table = test.tables["table"]
    result = hd.tl.evaluate(test, layer="ridge")
    measured = np.log2(1 + table[:, result.index].X.toarray())
    np.testing.assert_allclose(result["pearson"], pearson(measured, table[:, result.index].layers["ridge"]), rtol=1e-6)
    assert list(result.columns) == ["pearson", "spearman", "mse", "mae", "pearson_norm"]
    assert result.index.name == "gene"


def test_a_perfect_prediction_scores_perfectly(predicted) -> None:
    test, _ = predicted
    table = test.tables["table"]
    truth = np.log2(1 + table.X.toarray()).astype(np.float32)
    for name in ("ridge", "ridge_draw0", "ridge_draw1", "ridge_draw2", "ridge_draw3"):
        table.layers[name] = truth
    summary = hd.tl.evaluate(test, layer="ridge").attrs["summary"]
    for view in ("mean", "mean_norm", "draw"):
        assert summary[view]["pcc_all"] == pytest.approx(1)
        for figure in ("mse", "mae", "rvd", "coexpression_mae", "moran_mae"):
            assert summary[view][figure] == pytest.approx(0, abs=1e-6)
    assert summary["mean"]["energy_score"] == pytest.approx(0, abs=1e-5)


def test_mean_draw_control_and_their_library_size_normalised_views_are_summarised(predicted) -> None:
    test, train = predicted
    summary = hd.tl.evaluate(test, layer="ridge", control=train).attrs["summary"]
    assert set(summary) == {"mean", "draw", "random_spots", "mean_norm", "draw_norm", "random_spots_norm"}
    assert summary["mean"]["pcc_all"] > summary["draw"]["pcc_all"] > summary["random_spots"]["pcc_all"]
    assert 0.6 < summary["mean"]["coverage_90"] <= 1
    assert "mean_norm" not in hd.tl.evaluate(test, layer="ridge", normalize=None).attrs["summary"]


def test_scores_of_draws_lie_above_their_floors(predicted) -> None:
    test, _ = predicted
    result = hd.tl.evaluate(test, layer="ridge")
    for view in ("mean", "mean_norm"):
        summary = result.attrs["summary"][view]
        for name in SCORES:
            assert summary[name] > summary[f"{name}_floor"] > 0
    assert result.attrs["notes"] == {}
    assert result.attrs["library_size_from"] == "section"


def test_one_draw_is_told_why_it_has_no_score(predicted, caplog) -> None:
    test, _ = predicted
    table = test.tables["table"]
    for i in (1, 2, 3):
        del table.layers[f"ridge_draw{i}"]
    result = hd.tl.evaluate(test, layer="ridge")
    assert set(result.attrs["notes"]) == set(SCORES)
    assert "1 was kept; predict with keep_draws=8" in result.attrs["notes"]["module_crps"]
    assert not set(SCORES) & set(result.attrs["summary"]["mean"])
    assert "keep_draws=8" in caplog.text
    table.layers["ridge_draw1"] = table.layers["ridge"]
    del table.varm["ridge_gene_modules"]
    assert "fit and predict again" in hd.tl.evaluate(test, layer="ridge").attrs["notes"]["module_crps"]


def test_truth_can_be_a_layer_or_another_table_in_any_order(predicted) -> None:
    test, _ = predicted
    expected = hd.tl.evaluate(test, layer="ridge")
    table = test.tables["table"]
    gold = ad.AnnData(table.X.copy(), obs=table.obs[[]].copy(), var=table.var[[]].copy())[::-1, ::-1].copy()
    test.tables["gold"] = gold
    table.layers["raw"] = table.X.copy()
    for truth in ("raw", "gold"):
        result = hd.tl.evaluate(test, layer="ridge", truth=truth, table_key="table")
        np.testing.assert_allclose(result["pearson"], expected["pearson"])


def test_the_only_prediction_is_meant_where_none_is_named(predicted) -> None:
    test, train = predicted
    assert hd.tl.evaluate(test).attrs["method"] == "ridge"
    model = hd.tl.fit(train, method="ridge")
    hd.tl.predict(test, model, key_added="other")
    for compare in (hd.tl.evaluate, hd.pl.evaluation):
        with pytest.raises(KeyError, match=r"several predictions, \['other', 'ridge'\].*layer="):
            compare(test)
    hd.tl.predict(test, model, resolution_um=50)
    for compare in (hd.tl.evaluate, hd.pl.evaluation):
        with pytest.raises(ValueError, match="prediction 'ridge' alone, with nothing measured"):
            compare(test, table_key="ridge_50um")


def test_an_anndata_is_enough(predicted) -> None:
    test, _ = predicted
    np.testing.assert_allclose(
        hd.tl.evaluate(test.tables["table"], layer="ridge")["mse"], hd.tl.evaluate(test, layer="ridge")["mse"]
    )


def test_figures_on_training_sections_are_marked_as_such(colored_sections, caplog) -> None:
    train = colored_sections[0]
    hd.tl.predict(train, hd.tl.fit(train, method="ridge"))
    result = hd.tl.evaluate(train, layer="ridge")
    assert result.attrs["in_sample"]
    assert "do not estimate the accuracy on new tissue" in caplog.text


def test_figures_of_a_method_that_was_given_the_counts_are_marked_as_such(colored_sections, caplog) -> None:
    test = colored_sections[2]
    hd.tl.predict(test, hd.tl.fit(test, method="tesla"), library_size=512)
    assert hd.tl.evaluate(test, layer="tesla").attrs["uses_section_counts"]
    assert "do not measure accuracy" in caplog.text


def test_a_single_draw_has_no_coverage(colored_sections) -> None:
    *train, test = colored_sections
    hd.tl.predict(test, hd.tl.fit(train, method="ridge", config="baseline"), n_draws=1)
    result = hd.tl.evaluate(test, layer="ridge")
    assert np.isnan(result.attrs["summary"]["mean"]["coverage_90"])
    assert "no spread" in result.attrs["notes"]["coverage_90"]


def test_messages_about_counts_name_the_argument_that_takes_them(predicted) -> None:
    test, train = predicted
    for sdata in (test, train[0]):
        table = sdata.tables["table"]
        table.layers["raw"] = table.X.copy()
        table.X = table.X.toarray() / 3
    with pytest.raises(ValueError, match="name it with truth= .*'raw'"):
        hd.tl.evaluate(test, layer="ridge")
    with pytest.raises(ValueError, match=r"the control's table, X.*put them into X"):
        hd.tl.evaluate(test, layer="ridge", truth="raw", control=train)


def test_a_section_with_only_an_image_has_nothing_to_be_judged_by(predicted, color_encoder) -> None:
    import spatialdata as sd

    _, train = predicted
    only = sd.SpatialData(images={"he": train[0].images["s0_image"]})
    hd.pp.embed(only, color_encoder)
    hd.tl.predict(only, hd.tl.fit(train, method="ridge"))
    for judge in (hd.tl.evaluate, hd.pl.evaluation):
        with pytest.raises(ValueError, match="nothing measured in X.*truth="):
            judge(only, layer="ridge")
