import numpy as np
import pandas as pd
import pytest

import hisdiff as hd


@pytest.fixture
def sdata(make_section):
    """A section whose predicted mean is half of the measured value, and whose draw is the measured value."""
    sdata = make_section(mpp=2.0)
    table = sdata.tables["table"]
    measured = np.log2(1 + table.X.toarray()).astype(np.float32)
    mean, draw = measured / 2, measured.copy()
    mean[:, -1] = draw[:, -1] = np.nan
    table.layers["hisdiff"], table.layers["hisdiff_draw0"] = mean, draw
    table.var["hisdiff_modelled"] = np.arange(table.n_vars) < table.n_vars - 1
    table.uns["hisdiff"] = {"predictions": {"hisdiff": {"units": "log2", "in_sample": False}}}
    return sdata


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    columns = {"pearson": rng.uniform(0, 1, 30), "pearson_norm": rng.uniform(0, 0.5, 30), "mse": rng.uniform(0, 2, 30)}
    return pd.DataFrame(columns, index=[f"G{i}" for i in range(30)])


def panels(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def curves(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_density_counts_every_modelled_gene_at_every_spot(sdata):
    density = panels(hd.pl.evaluation(sdata))[0]
    assert density.collections[0].get_array().sum() == 36 * 11
    assert density.get_aspect() == 1


def test_histogram_counts_every_gene_and_names_the_median(sdata):
    histogram = panels(hd.pl.evaluation(sdata))[1]
    heights = [sum(patch.get_height() for patch in container) for container in histogram.containers]
    assert heights == [11, 11]
    assert histogram.get_legend().get_texts()[0].get_text() == "as it is: median 1.00"


def test_mean_and_variance_are_those_of_the_layers_in_the_order_of_the_measurement(sdata):
    mean, variance = map(curves, panels(hd.pl.evaluation(sdata))[2:])
    assert (np.diff(mean["measured"]) >= 0).all()
    np.testing.assert_allclose(mean["mean of draws"], mean["measured"] / 2, rtol=1e-5)
    np.testing.assert_allclose(variance["mean of draws"], variance["measured"] / 4, rtol=1e-4)
    np.testing.assert_allclose(variance["single draw"], variance["measured"], rtol=1e-4)


def test_without_a_draw_only_the_mean_is_compared(sdata):
    del sdata.tables["table"].layers["hisdiff_draw0"]
    assert set(curves(panels(hd.pl.evaluation(sdata))[2])) == {"mean of draws", "measured"}


def test_a_table_is_as_good_as_the_object_that_holds_it(sdata):
    of_object, of_table = (panels(hd.pl.evaluation(data))[3] for data in (sdata, sdata.tables["table"]))
    np.testing.assert_array_equal(curves(of_object)["measured"], curves(of_table)["measured"])


def test_counts_may_be_in_a_layer(sdata):
    table = sdata.tables["table"]
    table.layers["counts"] = table.X
    table.X = np.log1p(table.X)
    assert len(panels(hd.pl.evaluation(sdata, truth="counts"))) == 4
    with pytest.raises(ValueError, match="raw counts"):
        hd.pl.evaluation(sdata)


def test_spots_without_a_prediction_are_left_out(sdata):
    sdata.tables["table"].layers["hisdiff"][:6] = np.nan
    assert panels(hd.pl.evaluation(sdata))[0].collections[0].get_array().sum() == 30 * 11


def test_figures_on_training_spots_carry_a_warning(sdata):
    assert hd.pl.evaluation(sdata).get_suptitle() == ""
    sdata.tables["table"].uns["hisdiff"]["predictions"]["hisdiff"]["in_sample"] = True
    assert "trained on these spots" in hd.pl.evaluation(sdata).get_suptitle()


def test_frame_of_evaluate_shows_correlations_and_errors(frame):
    histogram, errors = panels(hd.pl.evaluation(frame))
    assert [sum(patch.get_height() for patch in container) for container in histogram.containers] == [30, 30]
    np.testing.assert_array_equal(errors.collections[0].get_offsets(), frame[["pearson", "mse"]])
    best = frame["pearson"].idxmax()
    assert best in {text.get_text() for text in errors.texts}


def test_genes_without_a_correlation_are_left_out(frame):
    frame.loc["G3", "pearson"] = np.nan
    assert sum(patch.get_height() for patch in panels(hd.pl.evaluation(frame))[0].containers[0]) == 29


def test_mistakes_are_said(sdata, frame, make_section):
    with pytest.raises(KeyError, match=r"no prediction 'hisdiff'.*hd\.tl\.predict"):
        hd.pl.evaluation(make_section(mpp=2.0))
    with pytest.raises(KeyError, match="no prediction 'ridge'; available: .'hisdiff'"):
        hd.pl.evaluation(sdata, layer="ridge")
    with pytest.raises(ValueError, match="lacks columns .'mse'"):
        hd.pl.evaluation(frame[["pearson"]])
    sdata.tables["table"].uns["hisdiff"]["predictions"]["hisdiff"]["units"] = "counts"
    with pytest.raises(ValueError, match="units 'counts'"):
        hd.pl.evaluation(sdata)
