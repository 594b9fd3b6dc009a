"""Methods side by side: accuracy, structure, time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, NullFormatter

from hisdiff._arguments import checked
from hisdiff._check import listing, present
from hisdiff.pl import _canvas
from hisdiff.pl._evaluation import MEAN, NORMALIZED
from hisdiff.pl._style import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RAW, _NORM = ("", "as it is", MEAN, -0.14), ("_norm", "library-size normalised", NORMALIZED, 0.14)
_COLUMNS = 4
# Width of an axis over its values.
_NARROWEST = 0.005


@dataclass(frozen=True)
class _Panel:
    title: str
    better: str
    log: bool = False


_PANELS = {
    "pcc_all": _Panel("Correlation, all genes", "higher"),
    "pcc_within": _Panel("Correlation inside pseudo-spots", "higher"),
    "pcc_50": _Panel("Correlation, best 50 genes", "higher"),
    "pcc_200": _Panel("Correlation, best 200 genes", "higher"),
    "ssim": _Panel("Structural similarity", "higher"),
    "draw_pcc_all": _Panel("Correlation of a single draw", "higher"),
    "energy_score": _Panel("Energy score", "lower"),
    "module_crps": _Panel("CRPS of gene modules", "lower"),
    "module_energy_score": _Panel("Energy score of\ngene modules", "lower"),
    "module_crps_centered": _Panel("CRPS of gene modules\ninside sections", "lower"),
    "module_energy_score_centered": _Panel("Energy score of modules\ninside sections", "lower"),
    "coexpression_mae": _Panel("Error of gene-gene\ncorrelations", "lower"),
    "moran_mae": _Panel("Error of Moran's I", "lower"),
    "rvd": _Panel("Relative variance distance", "lower", log=True),
    "mse": _Panel("Mean squared error", "lower"),
    "mae": _Panel("Mean absolute error", "lower"),
    "coverage_90": _Panel("Coverage of the\n90 % interval", "nearer 0.9"),
    "fit_s": _Panel("Fit, seconds", "lower", log=True),
    "predict_s": _Panel("Predict, seconds", "lower", log=True),
    "peak_gb": _Panel("Peak memory, GB", "lower"),
}
_USUAL = (
    "pcc_all",
    "pcc_within",
    "energy_score",
    "module_crps",
    "coexpression_mae",
    "moran_mae",
    "fit_s",
    "predict_s",
    "peak_gb",
)


@checked
@styled
def comparison(table: pd.DataFrame, metrics: Sequence[str] | None = None) -> Figure:
    """Show a table of :func:`hisdiff.tl.compare`, one panel per metric and one line per method.

    Small points are sections and seeds, the large one is their mean. Metrics that also exist after scaling every spot to
    the same total count are shown both ways; rows that no method made are in italics.

    Parameters
    ----------
    table
        Result of ``hd.tl.compare``, or several of them concatenated.
    metrics
        Columns to show; None for accuracy, scores of draws, structure, time and memory.

    Returns
    -------
    The Figure.

    Raises
    ------
    KeyError
        If the table lacks a metric.
    ValueError
        If it is not such a table, or has no row.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=500)
    >>> table = hd.tl.compare(train, test, ["ridge"], n_seeds=1)
    >>> figure = hd.pl.comparison(table)
    """
    if not isinstance(table, pd.DataFrame) or "method" not in table:
        raise ValueError("table is the frame that hd.tl.compare(train, test) returns; it has a column 'method'.")
    if not len(table):
        raise ValueError("The table has no row.")
    known = [name for name in _PANELS if name in table]
    names = [name for name in _USUAL if name in known] if metrics is None else list(metrics)
    for name in names:
        present(name, known, "metric")
    if not names:
        raise ValueError(f"There is no metric to show; the table has {listing(table.columns)}.")
    methods = list(dict.fromkeys(table["method"]))
    n_rows, n_columns = -(-len(names) // _COLUMNS), min(len(names), _COLUMNS)
    size = (1.4 + 2.3 * n_columns, n_rows * (1.0 + 0.34 * len(methods)) + 0.3)
    figure, axes = _canvas.new_figure(n_rows, n_columns, figsize=size, layout="constrained")
    # Numbers at the ends of neighbouring axes would read as one.
    figure.set_layout_engine("constrained", w_pad=0.1)
    for i, (ax, name) in enumerate(zip(axes.flat, names)):
        _draw(ax, table, methods, name, labeled=i % n_columns == 0)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    both = [color for suffix, _, color, _ in (_NORM,) if any(f"{name}{suffix}" in table for name in names)]
    if both:
        handles = [axes.flat[0].plot([], [], "o", color=color, label=label)[0] for _, label, color, _ in (_RAW, _NORM)]
        figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


def _draw(ax: Axes, table: pd.DataFrame, methods: Sequence[str], name: str, *, labeled: bool) -> None:
    views = [view for view in (_RAW, _NORM) if name + view[0] in table]
    for suffix, _, color, shift in views:
        for y, method in enumerate(methods):
            values = table.loc[table["method"] == method, name + suffix].to_numpy(dtype=float)
            values = values[np.isfinite(values)]
            height = y + (shift if len(views) > 1 else 0)
            ax.plot(values, np.full(len(values), height), "o", color=color, markersize=2.5, alpha=0.4, linewidth=0)
            if len(values):
                ax.plot(values.mean(), height, "o", color=color, markersize=6)
    panel = _PANELS[name]
    if panel.log:
        _whole_decades(ax, table[[name + suffix for suffix, *_ in views]].to_numpy(dtype=float))
    else:
        _not_narrower(ax)
        ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    ax.set_title(panel.title)
    ax.set_xlabel(f"{panel.better} is better", fontsize="small", color="0.35")
    ax.set_yticks(range(len(methods)), methods if labeled else [""] * len(methods))
    controls = set(table.loc[table["fit_s"].isna(), "method"]) if "fit_s" in table else set()
    for label, method in zip(ax.get_yticklabels(), methods):
        label.set_fontstyle("italic" if method in controls else "normal")
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _not_narrower(ax: Axes) -> None:
    """Widen an axis that is narrower than a small part of its values: smaller differences mean nothing, and need long numbers."""
    low, high = ax.get_xlim()
    short = _NARROWEST * max(abs(low), abs(high)) - (high - low)
    if short > 0:
        ax.set_xlim(low - short / 2, high + short / 2)


def _whole_decades(ax: Axes, values: np.ndarray) -> None:
    """Make the axis logarithmic, with plain numbers at powers of ten; less than a decade would have one tick or none."""
    ax.set_xscale("log")
    values = values[np.isfinite(values) & (values > 0)]
    if len(values):
        ax.set_xlim(10.0 ** np.floor(np.log10(values.min()) - 0.02), 10.0 ** np.ceil(np.log10(values.max()) + 0.02))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
