"""Accuracy of a prediction: measured against predicted, gene by gene, and mean and variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._docs import documented
from hisdiff._sdata._counts import truth_counts
from hisdiff._sdata._expression import judged_prediction
from hisdiff._sdata._provenance import in_sample_of
from hisdiff._sdata._results import prediction_table
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._structure import normalize_library_size
from hisdiff.pl import _canvas
from hisdiff.pl._style import BLUE, ORANGE, WARNING, styled
from hisdiff.pl._values import LOG_COUNTS

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

MEASURED, MEAN, DRAW = "0.2", BLUE, ORANGE
NORMALIZED = ORANGE


@documented
@checked
@styled
def evaluation(
    data: SpatialData | AnnData | pd.DataFrame,
    *,
    layer: str | None = None,
    truth: str | None = None,
    table_key: str | None = None,
) -> Figure:
    """Show how a prediction compares with the measurement.

    Four panels: measured against predicted values of all genes and spots, as a density; the correlations of the
    genes, as they are and after scaling every spot to the same total count; mean and variance of every gene, measured,
    in the mean of draws and in a single draw, with the genes in the order of the measurement.

    Parameters
    ----------
    data
        Object with a prediction of :func:`hisdiff.tl.predict` in units ``"log2"`` and measured counts; or the frame of
        :func:`hisdiff.tl.evaluate`, of which the correlations and the errors are shown.
    layer
        Stem of the prediction's layers; None for the only prediction of the table, or ``"hisdiff"`` among several. Ignored for
        a DataFrame.
    truth
        Layer with the raw counts; None for ``X``.
    %(table_key)s

    Returns
    -------
    The Figure.

    Raises
    ------
    KeyError
        If there is no such prediction; the message names the call that computes it.
    ValueError
        If the prediction is not in units ``"log2"``, or the truth does not hold counts.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=400)
    >>> hd.tl.predict(test, hd.tl.fit(train, method="ridge"))
    >>> figure = hd.pl.evaluation(test)
    """
    if isinstance(data, pd.DataFrame):
        return _of_frame(data)
    pair = pair_of(data, layer, truth, table_key)
    figure, axes = _canvas.new_figure(2, 2, figsize=(7.6, 6.4), layout="constrained")
    _density(axes[0, 0], pair)
    _histogram(
        axes[0, 1], pearson(pair.measured, pair.mean), pearson(*map(normalize_library_size, (pair.measured, pair.mean)))
    )
    _moments(axes[1, 0], pair, "mean")
    _moments(axes[1, 1], pair, "variance")
    if pair.in_sample:
        figure.suptitle(
            "The model was trained on these spots: this does not estimate the accuracy on new tissue", color=WARNING
        )
    elif pair.uses_counts:
        figure.suptitle("Made from the counts of these spots: this does not measure accuracy", color=WARNING)
    return figure


@dataclass(frozen=True)
class _Pair:
    """Measured and predicted values, ``(n, G)`` on log2(1 + count)."""

    measured: np.ndarray
    mean: np.ndarray
    draw: np.ndarray | None
    in_sample: bool
    uses_counts: bool


def pair_of(data: SpatialData | AnnData, layer: str | None, truth: str | None, table_key: str | None) -> _Pair:
    table = data
    if hasattr(data, "tables"):
        table_key = prediction_table(data, table_key, layer)
        if table_key is None:
            raise KeyError("The object has no table with a prediction; make one with hd.tl.predict(sdata).")
        table = data.tables[table_key]
    layer, record = judged_prediction(table, layer)
    counts = truth_counts(table, truth)
    columns = np.flatnonzero(table.var[_keys.modelled(layer)].to_numpy(dtype=bool))
    mean = np.asarray(table.layers[layer])[:, columns]
    rows = np.flatnonzero(np.isfinite(mean).all(axis=1))
    draw_key = _keys.draw(layer, 0)
    draw = np.asarray(table.layers[draw_key])[np.ix_(rows, columns)] if draw_key in table.layers else None
    measured = np.log2(1 + counts[rows][:, columns].toarray())
    return _Pair(measured, mean[rows], draw, bool(in_sample_of(record)), bool(record.get("uses_section_counts")))


def _of_frame(frame: pd.DataFrame) -> Figure:
    missing = [name for name in ("pearson", "mse") if name not in frame]
    if missing:
        raise ValueError(f"The frame lacks columns {missing}; a frame of hd.tl.evaluate has them.")
    figure, axes = _canvas.new_figure(1, 2, figsize=(7.6, 3.2), layout="constrained")
    _histogram(
        axes[0, 0], frame["pearson"].to_numpy(), frame["pearson_norm"].to_numpy() if "pearson_norm" in frame else None
    )
    ax = axes[0, 1]
    ax.scatter(frame["pearson"], frame["mse"], s=9, color=MEAN, linewidths=0, alpha=0.7, rasterized=True)
    for gene, row in frame.sort_values("pearson").iloc[[-3, -2, -1] if len(frame) > 3 else []].iterrows():
        ax.annotate(
            str(gene),
            (row["pearson"], row["mse"]),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize="x-small",
        )
    ax.set_xlabel("correlation of the gene (Pearson)")
    ax.set_ylabel("mean squared error")
    return figure


def _density(ax: Axes, pair: _Pair) -> None:
    top = float(max(pair.measured.max(), pair.mean.max(), 1.0))
    low = float(min(pair.mean.min(), 0.0))
    hexagons = ax.hexbin(
        pair.measured.ravel(), pair.mean.ravel(), gridsize=45, bins="log", mincnt=1, extent=(low, top, low, top),
        cmap="viridis", linewidths=0, rasterized=True,
    )  # fmt: skip
    ax.plot([low, top], [low, top], color="0.4", linewidth=0.8, linestyle="--")
    ax.set_aspect("equal")
    ax.set_xlabel(f"measured, {LOG_COUNTS}")
    ax.set_ylabel(f"predicted, {LOG_COUNTS}")
    ax.figure.colorbar(hexagons, ax=ax, label="spots x genes", fraction=0.046, pad=0.03)


def _histogram(ax: Axes, raw: np.ndarray, normalized: np.ndarray | None) -> None:
    bins = np.linspace(-1, 1, 41).tolist()
    for values, name, color in ((raw, "as it is", MEAN), (normalized, "library-size normalised", NORMALIZED)):
        if values is None or not np.isfinite(values).any():
            continue
        median = float(np.nanmedian(values))
        ax.hist(values[np.isfinite(values)], bins=bins, color=color, alpha=0.55, label=f"{name}: median {median:.2f}")
        ax.axvline(median, color=color, linewidth=1.2)
    finite = [v[np.isfinite(v)] for v in (raw, normalized) if v is not None]
    ax.set_xlim(min([-0.2, *(v.min() for v in finite if len(v))]) - 0.05, 1)
    ax.set_xlabel("correlation of the gene (Pearson)")
    ax.set_ylabel("genes")
    # Above the panel: bars may be anywhere in it.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _moments(ax: Axes, pair: _Pair, moment: str) -> None:
    over_spots = np.mean if moment == "mean" else np.var
    measured = over_spots(pair.measured, axis=0)
    order = np.argsort(measured, kind="stable")
    rank = np.arange(len(order))
    for values, name, color in ((pair.mean, "mean of draws", MEAN), (pair.draw, "single draw", DRAW)):
        if values is not None:
            ax.plot(rank, over_spots(values, axis=0)[order], ".", color=color, markersize=3, alpha=0.8, label=name)
    ax.plot(rank, measured[order], color=MEASURED, linewidth=1.4, label="measured")
    ax.set_xlabel(f"genes by measured {moment}")
    ax.set_ylabel(f"{moment} over spots, {LOG_COUNTS}")
    ax.legend(markerscale=2)
