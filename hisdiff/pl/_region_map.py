"""Regions, clusters and cell types on the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, names_of
from hisdiff._docs import documented
from hisdiff._sdata._selection import Selection
from hisdiff.pl._maps import MapStyle, draw_maps
from hisdiff.pl._rows import annotation_row
from hisdiff.pl._style import styled
from hisdiff.pl._view import tables_with, views_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

REGIONS = {
    _keys.REGION: ("marker region", "hd.tl.marker_regions"),
    _keys.TLS: ("TLS score", "hd.tl.tls_score"),
    _keys.EDGE_CORE_OF: ("edge and core", "hd.tl.edge_core"),
    _keys.CLUSTER: ("cluster", "hd.tl.cluster_cells"),
    _keys.CELL_TYPE: ("cell type", "hd.tl.cell_types"),
}
"""Columns that hisdiff writes by default: what a reader calls them, and the call that makes them."""


@documented
@checked
@styled
def region_map(
    data: SpatialData | Sequence[SpatialData],
    keys: str | Sequence[str] | None = None,
    *,
    table_key: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    crop: tuple[float, float, float, float] | None = None,
    coordinate_system: str | None = None,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    cmap: str = "viridis",
    alpha: float | None = None,
    image_alpha: float = 0.7,
    spot_scale: float = 1.0,
    figsize: tuple[float, float] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes | Figure:
    """Show regions, clusters or cell types on the tissue, with a legend.

    What :func:`hisdiff.tl.marker_regions`, ``tls_score``, ``edge_core``, ``cluster_cells`` and ``cell_types`` write is found by
    itself, in the table of the spots or in finer ones; any other column of ``obs`` is shown by its name.

    Parameters
    ----------
    data
        One section with an image or several.
    keys
        Columns of ``obs``; None for all of the default names that are there.
    table_key, image_key, shapes_key
        Names of the table, the image and the shapes; needed if there are several. None for the table that has the columns.
        Several tables are shown side by side.
    %(mpp)s
    %(crop)s
    coordinate_system
        Coordinate system of the image to draw in. None: micrometres from the corner of the image.
    %(palette)s
    cmap
        Colour map of scores.
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
        There is no such column; the message names the calls that make regions.
    ValueError
        The table or image is ambiguous, or a column has too many categories for a legend.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.marker_regions(sdata, ["TUM01", "TUM02", "TUM03"], layer="X")
    >>> axes = hd.pl.region_map(sdata)
    """
    wanted = names_of(keys)
    selection = Selection(None, image_key, shapes_key, mpp=mpp)

    def find(sdata: SpatialData) -> list[str]:
        return tables_with(sdata, wanted or REGIONS, lambda table, key: key in table.obs)

    views = views_of(data, selection, table_key, find=find, coordinate_system=coordinate_system, spot_scale=spot_scale)
    named = [key for key in REGIONS if any(key in view.table.obs for view in views)] if wanted is None else wanted
    for key in named or [_keys.REGION]:
        if not any(key in view.table.obs for view in views):
            raise KeyError(_missing(key, [column for view in views for column in view.table.obs]))
    scaling: dict[str, Any] = {"cmap": cmap, "percentiles": (1.0, 99.0)}
    rows = [annotation_row(views, key, REGIONS.get(key, (key, ""))[0], scaling, palette) for key in named]
    if ax is not None and (len(rows) > 1 or len(rows[0]) > 1):
        raise ValueError(f"ax= takes one panel, not {len(rows)} x {len(rows[0])}; leave it out.")
    return draw_maps(rows, MapStyle(alpha, image_alpha, crop, figsize, title), ax)


def _missing(key: str, columns: Sequence[str]) -> str:
    makers = ", ".join(call for _, call in REGIONS.values())
    return f"There is no column {key!r} in obs; available: {listing(dict.fromkeys(columns))}. Regions are made with {makers}."
