"""Expression and annotations on the tissue: genes, columns of ``obs``, and the uncertainty of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._docs import documented
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._accuracy import is_unlike
from hisdiff.pl._coloring import gradient
from hisdiff.pl._maps import MapStyle, Panel, Row, draw_maps
from hisdiff.pl._rows import WARNING_COLOR, row_of, strange_of, title_of
from hisdiff.pl._style import styled
from hisdiff.pl._values import (
    columns_of,
    describe,
    mean_and_spread,
    own_prediction,
    values_of,
)
from hisdiff.pl._view import view_of, views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff.pl._view import View


@documented
@checked
@styled
def gene_map(
    data: SpatialData | Sequence[SpatialData],
    genes: str | Sequence[str],
    *,
    layers: str | None | Sequence[str | None] = None,
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    crop: tuple[float, float, float, float] | None = None,
    coordinate_system: str | None = None,
    cmap: str = "viridis",
    palette: Mapping[str, str] | Sequence[str] | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
    alpha: float | None = None,
    image_alpha: float = 0.7,
    spot_scale: float = 1.0,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show genes, or columns of ``obs``, on the tissue: measured beside predicted, spots beside bins, section beside section.

    One row per gene or column, and in it one panel for each section, table and layer; of a single panel per row, rows stand
    side by side. The panels of a row share one colour scale (bins of a finer table have their own: their counts are smaller),
    and all sections are drawn at one scale. Spots and shapes are drawn at their true size over the image, which is read at the
    resolution of the screen; the bins of a finer prediction, and any other labels, as one half-transparent raster.

    The title of a predicted panel gives the accuracy to expect of the gene (its correlation on left-out training tissue,
    library size taken out); below 0.1 it is marked in red. Of a section that is unlike the training tissue it is not known,
    and the title says so.

    Parameters
    ----------
    data
        One section with an image or several.
    genes
        Names of genes (of a table of Ensembl ids also symbols, where a column of ``var`` has them), or of columns of ``obs``:
        scores, uncertainty, regions, clusters, cell types. A gene comes before a column of the same name.
    layers
        Layer names; ``"X"`` is the table's X. Default: measured counts and the prediction, as far as they exist; X in a
        table of a finer prediction. Counts are shown as log2(1 + count), predictions on that scale as well.
    table_key, image_key, shapes_key
        Names of the table, the image and the shapes; needed if there are several. Several tables are shown side by side, such as
        ``table_key=["table", "hisdiff_16um"]``; ``shapes_key`` selects one section of a table with several.
    %(mpp)s
    %(crop)s
    coordinate_system
        Coordinate system of the image to draw in, such as one of aligned sections. None: micrometres from the corner of the image.
    %(cmap)s
    %(palette)s
    vmin, vmax
        Ends of the colour scale; None for the percentiles.
    percentiles
        Ends of the colour scale, over all panels of the row.
    %(opacity)s
    %(spot_scale)s
    %(map_figsize)s
    %(map_title)s
    %(ax)s

    Returns
    -------
    The Axes of a single panel, else the Figure.

    Raises
    ------
    KeyError
        A gene, column, layer or coordinate system does not exist; the message names the call that makes it.
    ValueError
        A gene is not modelled, the table or image is ambiguous, a column has too many categories, or ``vmin`` is not below ``vmax``.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> axes = hd.pl.gene_map(sdata, "TUM01")
    >>> hd.tl.predict(sdata, hd.tl.fit(sdata, method="ridge"))
    >>> figure = hd.pl.gene_map(sdata, ["TUM01", "IMM02"], layers=["X", "ridge", "ridge_draw0"])
    >>> hd.tl.predict(sdata, resolution_um=25)
    >>> figure = hd.pl.gene_map(sdata, "TUM01", table_key=["table", "ridge_25um"], crop=(100, 100, 400, 400))
    >>> axes = hd.pl.gene_map(sdata, "array_row")
    """
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        raise ValueError("There is no gene to show: genes is empty.")
    selection = Selection(None, image_key, shapes_key, mpp=mpp)
    views = views_of(data, selection, table_key, layers, coordinate_system=coordinate_system, spot_scale=spot_scale)
    named: list[str | None] | None = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    if named == []:
        raise ValueError("There is no layer to show: layers is empty.")
    scaling = {"cmap": cmap, "percentiles": _canvas.checked_percentiles(percentiles), "vmin": vmin, "vmax": vmax}
    rows = [row_of(views, name, named, scaling, palette) for name in names]
    style = MapStyle(alpha, image_alpha, crop, figsize, title)
    if ax is not None and (len(rows) > 1 or len(rows[0]) > 1):
        raise ValueError(f"ax= takes one panel, not {len(rows)} gene(s) x {len(rows[0])} layer(s); leave it out.")
    return draw_maps(rows, style, ax)


@documented
@checked
@styled
def uncertainty_map(
    sdata: SpatialData,
    genes: str | Sequence[str] | None = None,
    layer: str | None = None,
    *,
    table_key: str | None = None,
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

    Parameters
    ----------
    sdata
        A section with an image and a prediction.
    genes
        Names in the table's ``var_names``; None for what all genes share.
    layer
        Name of the prediction; its standard deviation is the layer ``{layer}_std``. It is ignored for tables that hold a single
        prediction.
    %(shown_place)s
        A finer prediction is named, such as ``table_key="hisdiff_16um"``.
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
        A gene is not modelled, or the table, image or section is ambiguous.

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
    view = view_of(sdata, Selection(table_key, image_key, shapes_key, mpp=mpp), layer)
    table, what = view.table, view.what
    if genes is None:
        stem = mean_and_spread(table, layer)[0] or own_prediction(table) or _keys.STEM
        return _of_places(view, stem, std_cmap, alpha, image_alpha, percentiles)
    infos = [describe(table, name, what) for name in mean_and_spread(table, layer)]
    ends = _canvas.checked_percentiles(percentiles)
    rows: list[Row] = []
    for gene, column in columns_of(table, genes, what).items():
        row: Row = []
        for info, colors in zip(infos, (cmap, std_cmap)):
            values = values_of(view.place, {gene: column}, info)[gene]
            strange = strange_of(view, info)
            title = title_of(view, gene, column, info, bool(strange.any()))
            row.append(Panel(view, values, gradient(info.unit, [values], colors, ends), title, info.label, strange))
        rows.append(row)
    return draw_maps(rows, MapStyle(alpha, image_alpha))


def _of_places(
    view: View,
    stem: str,
    cmap: str,
    alpha: float | None,
    image_alpha: float,
    percentiles: tuple[float, float],
) -> Axes | Figure:
    """Draw what is not known of places."""
    name = _keys.uncertainty(stem)
    if name not in view.table.obs:
        raise KeyError(
            f"There is no obs[{name!r}] in table {view.what!r}; hd.tl.predict writes it with a model of the methods 'hisdiff' "
            f"(preset 'fast') or 'ridge'. With genes= the spread of a prediction is shown."
        )
    values = view.table.obs[name].to_numpy(dtype=float)[view.place.rows]
    label = "predictive variance of the mean,\nleft-out training tissue = 1"
    scale = gradient(label, [values], cmap, _canvas.checked_percentiles(percentiles))
    unlike = is_unlike(view.table, stem, view.place.name)
    title = {"label": "what the model does not know" + ("\n(section unlike the training tissue)" if unlike else "")}
    panel = Panel(view, values, scale, title | ({"color": WARNING_COLOR} if unlike else {}))
    return draw_maps([[panel]], MapStyle(alpha, image_alpha))
