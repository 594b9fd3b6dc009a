"""Rows of maps that share a scale: what :func:`hisdiff.pl.gene_map`, ``region_map`` and ``uncertainty_map`` draw."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import positive
from hisdiff.pl import _canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hisdiff._section import Box
    from hisdiff.pl._coloring import Scale
    from hisdiff.pl._view import View

LETTERS_PER_INCH = 13
NO_BREAK = "\N{NO-BREAK SPACE}"
RING_COLOR = "#00d5ff"  # neither in the stain nor in the colour maps


@dataclass(frozen=True)
class Panel:
    """One map.

    Attributes
    ----------
    values
        ``(n,)`` at the locations of the view; NaN is left out.
    scale
        How they become colours; panels of a row with the same scale share its explanation.
    title
        Keywords of ``set_title``.
    layer
        What the title says of section, table and layer, without the gene.
    ringed
        Locations that are outlined, bool ``(n,)``, or None.
    """

    view: View
    values: np.ndarray
    scale: Scale
    title: dict[str, str] = field(default_factory=dict)
    layer: str = ""
    ringed: np.ndarray | None = None


@dataclass(frozen=True)
class MapStyle:
    """What all panels of a figure have in common.

    Attributes
    ----------
    alpha
        Opacity of locations, None for what suits them.
    crop
        What is shown, in units of the coordinate system that is drawn; None for all locations.
    """

    alpha: float | None = None
    image_alpha: float = 0.7
    crop: Sequence[float] | None = None
    figsize: tuple[float, float] | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        for side in self.figsize or ():
            positive(side, "A side of figsize")


Row = list["Panel | None"]


def draw_maps(rows: list[Row], style: MapStyle, ax: Axes | None = None) -> Axes | Figure:
    """Draw rows of maps: the Axes of a single one, else the Figure.

    Everything that can be wrong is wrong before: an error leaves no empty figure.
    """
    if all(sum(panel is not None for panel in row) == 1 for row in rows):  # there is nothing to align
        rows = [[panel for panel in row if panel is not None] for row in rows]
    n_cols = max(len(row) for row in rows)
    single = len(rows) == n_cols == 1
    boxes = shown_boxes([panel.view for row in rows for panel in row if panel is not None], style.crop)
    if ax is None:
        widest = max(sum(scale.width for scale in _scales(row)) for row in rows)
        figure, axes = _canvas.map_panels(len(rows), n_cols, next(iter(boxes.values())), widest, style.figsize)
    else:
        axes = np.array([[ax]])
    for row, places in zip(rows, axes):
        last: dict[int, tuple[Axes, Any, Scale]] = {}
        for panel, place in zip(row, places):
            if panel is None:
                place.set_axis_off()
                continue
            last[id(panel.scale)] = (place, _draw(place, panel, boxes[id(panel.view)], style), panel.scale)
        for place in places[len(row) :]:
            place.set_axis_off()
        for place, drawn, scale in last.values():
            scale.explain(place, drawn)
    if single:
        if style.title is not None:
            axes[0, 0].set_title(style.title, color="black")
        return axes[0, 0]
    if style.title is not None:
        figure.suptitle(style.title, x=0.01, ha="left")
    return figure


def _draw(ax: Axes, panel: Panel, box: Box, style: MapStyle) -> Any:
    view = panel.view
    _canvas.frame(ax, box)
    view.draw_image(ax, box, style.image_alpha)
    alpha = view.marks.alpha if style.alpha is None else style.alpha
    drawn = view.marks.draw(ax, panel.values, alpha=alpha, **panel.scale.style)
    _canvas.scale_bar(ax, box)
    if panel.ringed is not None and panel.ringed.any():
        view.marks.ring(ax, panel.ringed, RING_COLOR)
    if panel.title:
        title = ax.set_title(_wrapped(panel.title["label"], box))
        if "color" in panel.title:
            title.set_color(panel.title["color"])
    return drawn


def _wrapped(title: str, box: Box) -> str:
    """Return a title in lines that fit over a map of a box; a short remark in brackets stays in one piece."""
    width = int(LETTERS_PER_INCH * _canvas.map_width(box))
    whole = re.sub(r"\([^()]{,30}\)", lambda remark: remark[0].replace(" ", NO_BREAK), title)
    return "\n".join(textwrap.fill(line, width) for line in whole.split("\n")).replace(NO_BREAK, " ")


def _scales(row: Row) -> list[Scale]:
    return list({id(panel.scale): panel.scale for panel in row if panel is not None}.values())


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def shown_boxes(views: Sequence[View], crop: Sequence[float] | None = None) -> dict[int, Box]:
    """Return what is shown in each view: tables of one section the same part, all sections at the same scale."""
    if crop is not None:
        cropped = {id(view): view.crop_um(crop) for view in views}
        if not any(_overlap(cropped[id(view)], view.bounds) for view in views):
            spans = ", ".join(f"{value / views[0].unit_um:g}" for value in views[0].bounds)
            raise ValueError(
                f"crop={tuple(crop)} shows nothing: the image of {views[0].section_name!r} spans ({spans})."
            )
        return cropped
    regions: dict[Any, set[Any]] = {}
    for view in views:
        regions.setdefault((view.section, view.what), set()).add(view.place.region)
    shared = {section for (section, _), names in regions.items() if len(names) > 1}  # several sections on one image
    boxes: dict[Any, Box] = {}
    for view in views:
        key = (view.section, view.place.region if view.section in shared else None)
        own, known = view.box, boxes.get(key)
        boxes[key] = own if known is None else (
            min(own[0], known[0]), min(own[1], known[1]), max(own[2], known[2]), max(own[3], known[3]),
        )  # fmt: skip
    if len(boxes) > 1:
        width = max(box[2] - box[0] for box in boxes.values()) / 2
        height = max(box[3] - box[1] for box in boxes.values()) / 2
        centers = {key: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for key, box in boxes.items()}
        boxes = {key: (x - width, y - height, x + width, y + height) for key, (x, y) in centers.items()}
    return {id(view): boxes[view.section, view.place.region if view.section in shared else None] for view in views}
