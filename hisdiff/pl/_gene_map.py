"""Expression and annotations on the tissue: genes and columns of ``obs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff._arguments import checked
from hisdiff._check import names_of
from hisdiff._docs import documented
from hisdiff._sdata._selection import Selection
from hisdiff.pl import _canvas
from hisdiff.pl._maps import MapStyle, draw_maps
from hisdiff.pl._rows import row_of
from hisdiff.pl._style import styled
from hisdiff.pl._view import views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData


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

    One row per gene or column, and in it one panel for each section, table and layer. If every row has a single panel, they stand
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
    names = names_of(genes)
    if not names:
        raise ValueError("There is no gene to show: genes is empty.")
    selection = Selection(None, image_key, shapes_key, mpp=mpp)
    views = views_of(data, selection, table_key, layers, coordinate_system=coordinate_system, spot_scale=spot_scale)
    named: list[str | None] | None = names_of(layers)
    if named == []:
        raise ValueError("There is no layer to show: layers is empty.")
    scaling = {"cmap": cmap, "percentiles": _canvas.checked_percentiles(percentiles), "vmin": vmin, "vmax": vmax}
    rows = [row_of(views, name, named, scaling, palette) for name in names]
    style = MapStyle(alpha, image_alpha, crop, figsize, title)
    if ax is not None and (len(rows) > 1 or len(rows[0]) > 1):
        raise ValueError(f"ax= takes one panel, not {len(rows)} gene(s) x {len(rows[0])} layer(s); leave it out.")
    return draw_maps(rows, style, ax)
