"""Two genes against each other, measured and predicted, with their maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._arguments import checked
from hisdiff._check import names_of, one_of
from hisdiff._docs import documented
from hisdiff._sdata._expression import X, read_expression
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._maps import shown_boxes
from hisdiff.pl._rows import prefix_of
from hisdiff.pl._style import BLUE, styled
from hisdiff.pl._values import LOG_COUNTS, default_layers, describe
from hisdiff.pl._view import views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff.pl._values import LayerInfo
    from hisdiff.pl._view import View


@documented
@checked
@styled
def gene_pair(
    data: SpatialData | Sequence[SpatialData],
    x: str,
    y: str,
    *,
    layers: str | None | Sequence[str | None] = None,
    normalize: str | None = "library_size",
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> Figure:
    """Show two genes against each other at every spot, and where each is high.

    One row per section and layer: the scatter, with Spearman's correlation, and the map of each gene. Scatters share their axes,
    and the maps of a gene their colour scale.

    Parameters
    ----------
    data
        One section with an image and a table or several.
    x, y
        Names of the genes.
    layers
        Layer names, one row each; None or ``"X"`` is the table's X. Default: measured counts and the first draw of the
        prediction, as far as they exist: the mean of draws is smooth, which inflates correlations.
    normalize
        ``"library_size"`` scales every spot to the same total count over the modelled genes, as in
        :func:`hisdiff.tl.coexpression`; None for no scaling.
    table_key, image_key, shapes_key
        Names of the table, the image and the shapes; needed if there are several. ``shapes_key`` selects one section of a table
        with several.
    %(mpp)s
    %(cmap)s
    image_alpha
        Opacity of the image under the spots.
    percentiles
        Ends of each gene's colour scale.

    Returns
    -------
    The Figure, with three panels per section and layer.

    Raises
    ------
    KeyError
        A gene or layer does not exist.
    ValueError
        A gene is not modelled, the genes are the same, or the table or image is ambiguous.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> figure = hd.pl.gene_pair(sdata, "TUM01", "IMM02")
    """
    if normalize is not None:
        one_of(normalize, ("library_size",), "normalize")
    if x == y:
        raise ValueError(f"Two different genes are needed, not {x!r} twice.")
    selection = Selection(None, image_key, shapes_key, mpp=mpp)
    views = views_of(data, selection, table_key, layers)
    ends = _canvas.checked_percentiles(percentiles)
    found = [(view, *each) for view in views for each in _values_of(view, (x, y), layers, normalize)]
    boxes = shown_boxes(views)
    norms = [_canvas.shared_norm([values[:, gene] for *_, values in found], ends) for gene in (0, 1)]
    low, high = (end([end(values, axis=0) for *_, values in found], axis=0) for end in (np.min, np.max))
    pad = 0.05 * np.maximum(high - low, 1e-3)
    unit = LOG_COUNTS + (", library-size normalised" if normalize else "")

    first = boxes[id(views[0])]
    aspect = (first[3] - first[1]) / (first[2] - first[0])
    size = (_canvas.MAP_INCH * 3 + 1.6, (_canvas.MAP_INCH * min(max(aspect, 0.8), 1.5) + 0.5) * len(found))
    figure, axes = _canvas.new_figure(len(found), 3, figsize=size, layout="constrained")
    for panels, (view, info, covered, values) in zip(axes, found):
        scatter, box, prefix = panels[0], boxes[id(view)], prefix_of(view, views)
        scatter.scatter(*values.T, s=12, color=BLUE, alpha=0.6, linewidths=0, rasterized=True)
        scatter.set(
            xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]), xlabel=x, ylabel=y
        )
        scatter.set_title(f"{prefix}{info.label}, {_correlation(values)}")
        scatter.set_box_aspect(1)
        for gene, name, panel, norm in zip((0, 1), (x, y), panels[1:], norms):
            _canvas.frame(panel, box)
            view.draw_image(panel, box, image_alpha)
            shown = np.full(len(covered), np.nan)
            shown[covered] = values[:, gene]
            drawn = view.marks.draw(panel, shown, norm=norm, cmap=cmap, alpha=view.marks.alpha)
            _canvas.scale_bar(panel, box)
            panel.set_title(f"{prefix}{name}, {info.label}")
            extend = _canvas.extend_of(norm, [other[:, gene] for *_, other in found])
            figure.colorbar(drawn, ax=panel, label=unit, extend=extend, fraction=0.045, pad=0.02, aspect=22)
    return figure


def _values_of(
    view: View, genes: tuple[str, str], layers: str | None | Sequence[str | None], normalize: str | None
) -> list[tuple[LayerInfo, np.ndarray, np.ndarray]]:
    """Return of each layer what it is, which locations of the view it covers, bool ``(n,)``, and its values there, ``(m, 2)``."""
    table = view.table
    wanted = default_layers(table, view.what, draw=True) if layers is None else names_of(layers)
    infos = [describe(table, layer, view.what) for layer in wanted]
    found = read_expression(table, [layer or X for layer in wanted], genes=list(genes), normalize=normalize)
    covered = np.isin(view.place.rows, found[0].rows)
    rows = np.isin(found[0].rows, view.place.rows)
    return [(info, covered, each.values()[rows].astype(float)) for info, each in zip(infos, found)]


def _correlation(values: np.ndarray) -> str:
    from scipy.stats import spearmanr

    if (np.ptp(values, axis=0) == 0).any():
        return "one gene is constant"
    return f"ρ = {spearmanr(*values.T)[0]:.2f}"
