from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hisdiff as hd


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for method, level in (("hisdiff", 0.6), ("ridge", 0.5), ("random spots", 0.0)):
        for seed in range(3):
            metrics = {
                name: level + 0.02 * rng.normal()
                for name in ("pcc_all", "pcc_all_norm", "moran_mae", "coexpression_mae")
            }
            time = np.nan if method == "random spots" else 10 * (seed + 1)
            rows.append(
                {"method": method, "section": "C5", "seed": seed, **metrics, "fit_s": time, "energy_score": 10.0}
            )
    return pd.DataFrame(rows)


def test_every_metric_has_a_panel_with_the_means_of_the_methods(table) -> None:
    figure = hd.pl.comparison(table)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == [
        "Correlation, all genes", "Energy score", "Error of gene-gene\ncorrelations", "Error of Moran's I", "Fit, seconds",
    ]  # fmt: skip
    means = table.groupby("method", sort=False)["pcc_all"].mean().to_numpy()
    large = [line for line in shown[0].lines if line.get_markersize() == 6 and len(line.get_xdata()) == 1]
    np.testing.assert_allclose([line.get_xdata()[0] for line in large[:3]], means)
    assert len(large) == 6  # raw and library-size normalised
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["hisdiff", "ridge", "random spots"]
    assert [label.get_fontstyle() for label in shown[0].get_yticklabels()] == ["normal", "normal", "italic"]
    assert shown[-1].get_xscale() == "log"


def test_metrics_can_be_chosen_and_the_legend_is_there_only_where_it_says_something(table) -> None:
    figure = hd.pl.comparison(table, ["energy_score"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Energy score"]
    assert not figure.legends
    assert len(hd.pl.comparison(table, ["pcc_all"]).legends) == 1


def test_values_that_hardly_differ_have_plain_numbers_at_their_axis(table) -> None:
    table["peak_gb"] = 0.80790 + 1e-6 * np.arange(len(table))
    ax = hd.pl.comparison(table, ["peak_gb"]).axes[0]
    ax.figure.canvas.draw()
    assert ax.xaxis.get_offset_text().get_text() == ""
    numbers = [label.get_text() for label in ax.get_xticklabels()]
    assert numbers
    assert all(0.8 < float(number) < 0.82 and len(number) <= 6 for number in numbers)


def test_what_cannot_be_shown_is_refused(table) -> None:
    with pytest.raises(KeyError, match="no metric 'pcc_al'.*Did you mean 'pcc_all'"):
        hd.pl.comparison(table, ["pcc_al"])
    with pytest.raises(ValueError, match="hd.tl.compare"):
        hd.pl.comparison(table.drop(columns="method"))
    with pytest.raises(ValueError, match="no row"):
        hd.pl.comparison(table.iloc[:0])


def test_numbers_of_neighbouring_axes_do_not_touch(table) -> None:
    figure = hd.pl.comparison(table)
    figure.canvas.draw()
    reach = [[label.get_window_extent() for label in ax.get_xticklabels() if label.get_visible() and label.get_text()]
             for ax in figure.axes[:4]]  # fmt: skip
    assert all(len(labels) > 1 for labels in reach)
    gaps = [min(b.x0 for b in right) - max(a.x1 for a in left) for left, right in zip(reach, reach[1:])]
    assert min(gaps) > 0.15 * figure.dpi
