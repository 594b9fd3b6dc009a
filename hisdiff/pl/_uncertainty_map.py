"""The uncertainty of a prediction on the tissue: of places, or of genes beside their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import names_of
from hisdiff._docs import documented
from hisdiff._sdata._expression import own_prediction
from hisdiff._sdata._genes import find_gene
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._accuracy import is_unlike
from hisdiff.pl._coloring import gradient
from hisdiff.pl._maps import MapStyle, Panel, Row, draw_maps
from hisdiff.pl._rows import gene_row, prefix_of
from hisdiff.pl._style import WARNING, styled
from hisdiff.pl._values import describe, mean_and_spread, unknown
from hisdiff.pl._view import views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff.pl._view import View


@documented
@checked
@styled
def uncertainty_map(
    data: SpatialData | Sequence[SpatialData],
    genes: str | Sequence[str] | None = None,
    layer: str | None | Sequence[str | None] = None,
    *,
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    std_cmap: str = "magma",
    alpha: float | None = None,
    image_alpha: float = 0.7,
    percentiles: tuple[float, float] = (1.0, 99.0),
) -> Axes | Figure:
    """Show how little a model knows of each place, or the predicted mean of genes beside its standard deviation.

    Without genes: the predictive variance of the model's mean at each place, relative to left-out training tissue. Above 1 the
    image looks less like the training tissue than usual, and errors are larger; it says nothing of single genes. With genes:
    the standard deviation of what would be measured, most of it counting noise, which follows the mean.

    Spots whose patch lies outside the distribution of training patches are ringed: there the standard deviation is too small.
    Maps of several sections, tables and predictions stand side by side, on one colour scale.

    Parameters
    ----------
    data
        One section with an image and a prediction or several.
    genes
        Names in the table's ``var_names``; None for what all genes share.
    layer
        Name of the prediction, or several names; its standard deviation is the layer ``{layer}_std``. It is ignored for tables that
        hold a single prediction.
    table_key, image_key, shapes_key
        Names of the table, the image and the shapes; needed if there are several. A finer prediction is named, such as
        ``table_key="hisdiff_16um"``; several tables are shown side by side. ``shapes_key`` selects one section of a table with several.
    %(mpp)s
    cmap, std_cmap
        Colour maps of the mean and of the standard deviation.
    %(opacity)s
    percentiles
        Ends of each colour scale.

    Returns
    -------
    The Axes of the one map without genes, or the Figure, one row per gene.

    Raises
    ------
    KeyError
        A gene or layer does not exist, or the method does not tell what it does not know of a place; the message names the
        call that predicts.
    ValueError
        A gene is not modelled, or the table or image is ambiguous.

    Notes
    -----
    The standard deviation of the methods ``hisdiff`` (preset ``"fast"``) and ``ridge`` is in closed form. That of ``n`` draws has a relative error of about ``1 / sqrt(2 (n - 1))``, 18 % for 16 draws.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> ax = hd.pl.uncertainty_map(sdata, layer="ridge")
    >>> figure = hd.pl.uncertainty_map(sdata, ["TUM01", "IMM02"], "ridge")
    """
    selection = Selection(None, image_key, shapes_key, mpp=mpp)
    stems = [None] if layer is None else names_of(layer)
    if not stems:
        raise ValueError("There is no prediction to show: layer is empty.")
    views = views_of(data, selection, table_key, layer)
    ends = _canvas.checked_percentiles(percentiles)
    if genes is None:
        rows = [_row_of_places(views, stems, std_cmap, ends)]
    else:
        names = names_of(genes)
        if not names:
            raise ValueError("There is no gene to show: genes is empty.")
        infos = [
            [describe(view.table, name, view.what) for stem in stems for name in mean_and_spread(view.table, stem)]
            for view in views
        ]
        scaling = {"cmap": cmap, "percentiles": ends}
        rows = []
        for name in names:
            columns = [find_gene(view.table, name) for view in views]
            if all(column is None for column in columns):
                raise unknown(views[0].table, name, views[0].what)
            rows.append(gene_row(views, name, columns, infos, scaling, std_cmap))
    return draw_maps(rows, MapStyle(alpha, image_alpha))


def _row_of_places(
    views: Sequence[View], stems: Sequence[str | None], cmap: str, percentiles: tuple[float, float]
) -> Row:
    """Return the panels of what is not known of places."""
    found = []
    for view in views:
        for asked in stems:
            stem = mean_and_spread(view.table, asked)[0] or own_prediction(view.table) or _keys.STEM
            name = _keys.uncertainty(stem)
            if name not in view.table.obs:
                raise KeyError(
                    f"There is no obs[{name!r}] in table {view.what!r}; hd.tl.predict writes it with a model of the methods 'hisdiff' "
                    f"(preset 'fast') or 'ridge'. With genes= the spread of a prediction is shown."
                )
            found.append((view, stem, view.table.obs[name].to_numpy(dtype=float)[view.place.rows]))
    unit = "predictive variance of the mean,\nleft-out training tissue = 1"
    scale = gradient(unit, [values for *_, values in found], cmap, percentiles)
    row: Row = []
    for view, stem, values in found:
        label = f"{prefix_of(view, views)}what the model does not know{f' ({stem})' if len(stems) > 1 else ''}"
        title: dict[str, Any] = {"label": label}
        if is_unlike(view.table, stem, view.place.name):
            title = {"label": f"{label}\n(section unlike the training tissue)", "color": WARNING}
        row.append(Panel(view, values, scale, title))
    return row
