"""Matrices of coexpression side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patches import Patch

from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._sdata._expression import table_of
from hisdiff._stats._modules import heatmap_order
from hisdiff.pl import _canvas
from hisdiff.pl._matrices import (
    NAMES,
    NO_MODULE,
    Matrix,
    color_of,
    common_genes,
    has_matrix,
    label_of,
    matrices_of,
    scaling_of,
)
from hisdiff.pl._style import styled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

MAX_LABELS = 36
"""Genes that a heatmap of the usual size can name."""
PANEL_INCH = 3.3


@documented
@checked
@styled
def coexpression(
    data: SpatialData | AnnData,
    keys: str | Sequence[str] | None = None,
    *,
    genes: Sequence[str] | None = None,
    table_key: str | None = None,
    cmap: str = "RdBu_r",
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show matrices of coexpression as heatmaps.

    The genes are in the order of the modules of the first matrix, in all panels. The strip beside each panel shows the
    panel's own modules, in the colour of the first panel's module that they share most genes with. All panels share one
    colour scale, centred at zero.

    Parameters
    ----------
    data
        Object on which :func:`hisdiff.tl.coexpression` was run.
    keys
        Stems of the matrices (``key_added``), such as ``["measured", "hisdiff", "ridge"]``; None for all.
    genes
        Genes to show; None for the genes that all matrices have.
    %(table_key)s
    cmap
        Diverging colour map.
    limit
        Ends of the colour scale; None for the 99.5th percentile of the absolute values off the diagonals.
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        If there is no such matrix or gene; the message names the call that computes it.
    ValueError
        If the matrices share fewer than two genes, or were made with different methods.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.coexpression(sdata, layer="X")
    >>> axes = hd.pl.coexpression(sdata)
    """
    table = table_of(data, table_key, "coexpression", holds=has_matrix)
    results = matrices_of(table, keys)
    if ax is not None and len(results) > 1:
        raise ValueError(f"ax= takes one panel, not {len(results)} matrices; leave it out.")
    if len({result.record["method"] for result in results}) > 1:
        raise ValueError(
            f"The matrices were made with different methods: {listing(r.record['method'] for r in results)}; choose with keys=."
        )
    if limit is not None:
        positive(limit, "limit")
    common = common_genes(results, genes)
    shown = [result.take(common) for result in results]
    order = heatmap_order(shown[0].matrix, shown[0].labels)
    shown = [result.take(np.array(common)[order].tolist()) for result in shown]
    shown = [shown[0], *(result.matched(shown[0].labels) for result in shown[1:])]
    norm, beyond = _norm([result.matrix for result in shown], limit)

    scalings = {scaling_of(result.record) for result in shown}
    if ax is None:
        named = len(common) <= MAX_LABELS
        size = (PANEL_INCH * len(shown) + (1.6 if named else 1.0), PANEL_INCH + 0.7)
        figure, axes = _canvas.new_figure(1, len(shown), figsize=size, layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.12)  # the strips stand left of the panels
        panels = axes[0]
    else:
        panels = np.array([ax])
    for i, (panel, result) in enumerate(zip(panels, shown)):
        drawn = panel.imshow(result.matrix, norm=norm, cmap=cmap, interpolation="nearest", rasterized=True)
        _strip(panel, result, with_names=i == 0)
        panel.set_title(result.title if len(scalings) == 1 else f"{result.title}, {scaling_of(result.record)}")
        panel.set_xticks([])
        panel.set_yticks([])
    bar = panels[-1].figure.colorbar(drawn, ax=panels.tolist(), extend="both" if beyond else "neither", fraction=0.04, pad=0.02, aspect=25)  # fmt: skip
    bar.set_label(label_of(shown[0].record) if len(scalings) == 1 else NAMES[shown[0].record["method"]])
    _legend(panels[0], shown)
    return panels[0] if len(shown) == 1 else panels[0].figure


def _norm(matrices: Sequence[np.ndarray], limit: float | None) -> tuple[Normalize, bool]:
    upper = np.triu_indices(len(matrices[0]), k=1)
    values = np.abs(np.concatenate([matrix[upper] for matrix in matrices]))
    if limit is None:
        limit = float(np.ceil(np.percentile(values, 99.5) * 20) / 20) or 1.0
    return Normalize(-limit, limit), bool(values.max() > limit)


def _strip(panel: Axes, result: Matrix, *, with_names: bool) -> None:
    strip = panel.inset_axes((-0.05, 0, 0.035, 1))
    strip.imshow(
        np.array([[to_rgb(color_of(label))] for label in result.labels]), aspect="auto", interpolation="nearest"
    )
    strip.set_xticks([])
    for spine in strip.spines.values():
        spine.set_visible(False)
    if with_names and len(result.genes) <= MAX_LABELS:
        strip.set_yticks(range(len(result.genes)), result.genes, fontsize="x-small")
        strip.tick_params(length=0, pad=2)
    else:
        strip.set_yticks([])


def _legend(panel: Axes, shown: Sequence[Matrix]) -> None:
    n_modules = max(int(result.labels.max(initial=-1)) + 1 for result in shown)
    n_first = int(shown[0].labels.max(initial=-1)) + 1
    if n_modules == 0:
        return
    handles = [
        Patch(color=color_of(i), label=f"M{i + 1}" if i < n_first else f"other {i - n_first + 1}")
        for i in range(n_modules)
    ]
    if any((result.labels < 0).any() for result in shown):
        handles.append(Patch(color=NO_MODULE, label="none"))
    title = f"modules, {len(shown[0].genes)} genes" + (f" (named as in {shown[0].title})" if len(shown) > 1 else "")
    panel.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=min(len(handles), 6),
                 handlelength=1, columnspacing=1, title=title, alignment="left",
                 borderpad=0)  # fmt: skip
