"""One figure of the contents of an object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from matplotlib.collections import LineCollection

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._docs import documented
from hisdiff._sdata._annotation import regions_of
from hisdiff._sdata._genes import symbols_of
from hisdiff._sdata._locate import Elements, check_sdata, resolve_table
from hisdiff._sdata._provenance import panel_of, records
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff.pl import _canvas
from hisdiff.pl._accuracy import UNKNOWN_ACCURACY, expected_accuracy, is_unlike
from hisdiff.pl._contents import INDENT, Line, contents
from hisdiff.pl._marks import Footprints
from hisdiff.pl._style import BLUE, styled
from hisdiff.pl._values import best_genes, describe, is_measured, own_prediction, values_of
from hisdiff.pl._view import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._locate import Place
    from hisdiff._section import Box
    from hisdiff.pl._marks import Marks

PANEL_INCH = 3.0
LINE_INCH = 0.19
TEXT_INCH = 7.0
"""Least width of the figure, for the list of contents."""
NAME_INCH, LONGEST_NAME = 2.5, 32
"""Width of the first column of the list, and the characters that fit into it."""
MAX_RINGS = 3_000
"""Spots whose outlines are drawn on the image: more would hide it."""
OUTLINE_COLOR = "#1a1a1a"


@documented
@checked
@styled
def overview(
    sdata: SpatialData,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    image_alpha: float = 0.7,
) -> Figure:
    """Show the contents of an object: image, outline of the tissue, spots, counts, prediction, and a list of all elements.

    One row per section, cropped to the tissue, with as many panels as there is something to show: the image with the outline of the tissue and
    of the spots; total counts; the predicted gene with the best expected accuracy and the model that predicted it, at the spots and, in an object with one
    section, on the first grid it was predicted on. Below stand the images, shapes and
    tables with their sizes, the embedding, predictions and the model.

    Parameters
    ----------
    sdata
        Any object with at least an image.
    table_key, image_key
        Names of the table and the image; needed if there are several. Without a table, every image is a section.
    %(mpp)s
    %(cmap)s
    image_alpha
        Opacity of the image under coloured spots.

    Returns
    -------
    The Figure.

    Raises
    ------
    ValueError
        There is nothing to show, the scale of the image is unknown, or there are several tables to choose from.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> figure = hd.pl.overview(sdata)
    """
    return sections_figure(sdata, table_key, image_key, mpp, cmap, image_alpha, lines=contents(sdata))


def sections_figure(
    sdata: SpatialData,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    cmap: str = "viridis",
    image_alpha: float = 0.7,
    *,
    lines: Sequence[Line] = (),
) -> Figure:
    """Draw the sections of an object, and below them lines on its contents."""
    check_sdata(sdata)
    bounds = _sections(sdata, table_key, image_key, mpp)
    shown = [_panels(bound) for bound in bounds]
    if len(bounds) == 1:
        shown[0] += _fine_panels(bounds[0], mpp)
    boxes = [_box(bound) for bound in bounds]

    n_cols = max(1, *(len(panels) for panels in shown)) if shown else 1
    heights = [PANEL_INCH * min(1.6, (box[3] - box[1]) / (box[2] - box[0])) + 0.6 for box in boxes]
    heights += [LINE_INCH * (len(lines) + 1)] * bool(lines)
    size = (max((PANEL_INCH + 0.9) * n_cols, TEXT_INCH), sum(heights))
    figure, axes = _canvas.new_figure(len(heights), n_cols, figsize=size, layout="constrained")
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios(heights)
    for bound, box, panels, row in zip(bounds, boxes, shown, axes):
        pixels = None if bound.section.image is None else _canvas.read_underlay(bound.section.image, box)
        for panel, ax in zip(panels, row):
            _draw(ax, bound, box, panel, pixels, cmap, image_alpha)
        for ax in row[len(panels) :]:
            ax.set_axis_off()
    if lines:
        for ax in axes[-1]:
            ax.remove()
        _write(figure.add_subplot(grid[-1, :]), lines, size[0])
    return figure


@dataclass(frozen=True)
class Panel:
    """What one panel shows: a title and, unless it is the image alone, values at locations and their unit."""

    title: str
    marks: Marks | None = None
    values: np.ndarray | None = None
    unit: str = ""


def _sections(sdata: SpatialData, table_key: str | None, image_key: Any, mpp: float | None) -> list[Bound]:
    images = Elements(sdata).rgb_images()
    if resolve_table(sdata, table_key) is None and image_key is None and len(images) > 1:
        return [bound for key in images for bound in open_sections(sdata, Selection(image_key=key, mpp=mpp))]
    return open_sections(sdata, Selection(table_key, image_key, mpp=mpp))


def _panels(bound: Bound) -> list[Panel]:
    """Return the panels of a section: the image, total counts, and the gene that is predicted best."""
    panels = [Panel(bound.place.name)]
    table = bound.place.table
    if table is None:
        return panels
    spots = Footprints(needed(bound.section.spots))
    if is_measured(table):
        totals = np.asarray(table.X.sum(axis=1)).ravel()[bound.place.rows]
        info = describe(table, None, str(bound.place.table_key))
        panels.append(Panel("measured, all genes", spots, np.log2(1 + totals) if info.take_log else totals, info.unit))
    place = _of_results(bound.place)
    table = needed(place.table)
    stem = _stem(table)
    if stem is not None:
        info = describe(table, stem, str(place.table_key))
        column = int(table.var_names.get_loc(best_genes(table, 1, stem)[0]))
        gene = str(symbols_of(table)[column])
        values = values_of(place, {gene: column}, info)[gene]
        panels.append(
            Panel(f"{gene}, {info.label}{_expected(table, stem, column, bound.place.name)}", spots, values, info.unit)
        )
    return panels


def _of_results(place: Place) -> Place:
    """Return the place with the table that its predictions at spots are in."""
    panels = [key for key, table in place.sdata.tables.items() if panel_of(table) == place.table_key]
    if records(needed(place.table), _keys.PREDICTIONS) or not panels:
        return place
    return replace(place, table_key=_keys.STEM if _keys.STEM in panels else panels[0])


def _fine_panels(bound: Bound, mpp: float | None) -> list[Panel]:
    """Return a panel of the first table that is finer than the spots, with the same gene as at the spots."""
    sdata = bound.place.sdata
    spots = None if bound.place.table is None else _of_results(bound.place).table
    for key, table in sdata.tables.items():
        regions = regions_of(table)
        if own_prediction(table) is None or not regions or any(region not in sdata.labels for region in regions):
            continue
        view = view_of(sdata, Selection(key, bound.place.image_key, mpp=mpp))
        gene = _gene_at_spots(spots)
        if gene is None or gene not in table.var_names:
            gene = best_genes(table, 1)[0]
        info = describe(table, None, key)
        values = values_of(view.place, {gene: int(table.var_names.get_loc(gene))}, info)[gene]
        unlike = is_unlike(table, needed(info.stem), view.place.name)
        return [Panel(f"{gene}, {key}{UNKNOWN_ACCURACY if unlike else ''}", view.marks, values, info.unit)]
    return []


def _gene_at_spots(spots: AnnData | None) -> str | None:
    """Return the gene that is shown at the spots, None where nothing was predicted there."""
    stem = None if spots is None else _stem(spots)
    return None if spots is None or stem is None else best_genes(spots, 1, stem)[0]


def _stem(table: AnnData) -> str | None:
    """Return the prediction at spots that is shown: that of the default method where there is one."""
    made = [key for key in records(table, _keys.PREDICTIONS) if key in table.layers]
    return _keys.STEM if _keys.STEM in made else made[0] if made else None


def _expected(table: AnnData, stem: str, column: int, section: str) -> str:
    """Return the lines of a title on the accuracy to expect, and on the model."""
    model = records(table, _keys.PREDICTIONS)[stem].get("model")
    by = f"\nmodel {model}" if model else ""
    if is_unlike(table, stem, section):
        return f"{UNKNOWN_ACCURACY}{by}"
    accuracy = expected_accuracy(table, stem, column)
    return (f"\nbest of all: expected r = {accuracy:.2f}" if np.isfinite(accuracy) else "") + by


def _box(bound: Bound) -> Box:
    """Return the box that holds the tissue and the spots; all of the image where neither is known."""
    section = bound.section
    limits = None if section.image is None else section.image.bounds_um
    corners = [] if section.tissue is None else [section.tissue.bounds]
    if section.spots is not None:
        corners.append(_canvas.crop_box(section.spots, margin=0))
    if not corners:
        return needed(limits)
    x0, y0, x1, y1 = np.array(corners).T
    return _canvas.padded_box(np.array([x0.min(), y0.min()]), np.array([x1.max(), y1.max()]), limits)


def _draw(
    ax: Axes, bound: Bound, box: Box, panel: Panel, pixels: np.ndarray | None, cmap: str, image_alpha: float
) -> None:
    section = bound.section
    _canvas.frame(ax, box)
    ax.set_anchor("W")
    if pixels is not None:
        _canvas.draw_underlay(ax, pixels, box, 1.0 if panel.values is None else image_alpha)
    if panel.marks is not None and panel.values is not None:
        norm = _canvas.shared_norm([panel.values])
        drawn = panel.marks.draw(ax, panel.values, norm=norm, cmap=cmap, alpha=panel.marks.alpha)
        extend = _canvas.extend_of(norm, [panel.values])
        ax.figure.colorbar(drawn, ax=ax, label=panel.unit, extend=extend, fraction=0.04, pad=0.02, aspect=22)
    else:
        if section.tissue is not None:
            _outline(ax, section.tissue)
        if section.spots is not None and len(section.spots) <= MAX_RINGS:
            _canvas.ring_locations(ax, section.spots, BLUE).set_linewidth(0.6)
    _canvas.scale_bar(ax, box)
    ax.set_title(panel.title)


def _outline(ax: Axes, tissue: Any) -> None:
    rings = [ring for part in shapely.get_parts(tissue) for ring in (part.exterior, *part.interiors)]
    lines = LineCollection(
        [shapely.get_coordinates(ring) for ring in rings], colors=OUTLINE_COLOR, linewidths=1.0, zorder=3
    )
    ax.add_collection(lines, autolim=False)


def _write(ax: Axes, lines: Sequence[Line], width: float) -> None:
    """Write the list of contents, one line each, with what is known of a thing in a second column."""
    ax.set_axis_off()
    for row, (name, words) in enumerate(lines):
        y = 1 - (row + 0.5) / len(lines)
        name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        ax.text(0, y, name, fontsize="small", va="center", weight="normal" if name.startswith(INDENT) else "bold")
        ax.text(NAME_INCH / width, y, words, fontsize="small", va="center")
