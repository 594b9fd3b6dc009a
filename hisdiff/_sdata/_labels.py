"""Labels elements: which location each pixel shows, and where the labels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from hisdiff._check import listing
from hisdiff._sdata._affine import apply, area_of
from hisdiff._sdata._annotation import instances_of
from hisdiff._sdata._image import levels_of
from hisdiff._sdata._lazy import in_memory
from hisdiff._section import Locations, needed

if TYPE_CHECKING:
    from hisdiff._sdata._locate import Place

# Rows of pixels that are counted at once.
_STRIP = 1024


@dataclass(frozen=True)
class LabelRaster:
    """What the pixels of a labels element show.

    Attributes
    ----------
    location
        int ``(rows, columns)``: position of the location among those of the section, -1 where there is none.
    to_um
        ``(3, 3)`` matrix from (column, row), whole at the corners of pixels, to (x, y) in um.
    """

    location: np.ndarray
    to_um: np.ndarray


def label_raster(place: Place, to_um: np.ndarray, max_px: int) -> LabelRaster:
    """Return the labels that a table annotates, thinned out to at most ``max_px`` pixels a side.

    Parameters
    ----------
    to_um
        ``(3, 3)`` matrix from the element's own (x, y) to um.
    """
    levels = [level.data for level in levels_of(place.sdata.labels[needed(place.region)])]
    fine_enough = [level for level in levels if max(level.shape) >= max_px] or levels[:1]
    level = fine_enough[-1]
    step = -(-max(level.shape) // max_px)
    labels = in_memory(level[::step, ::step], f"Labels {place.region!r}")
    # A pixel of the thinned raster covers that many of the element's own; levels need not halve exactly.
    height, width = (full / len_ * step for full, len_ in zip(levels[0].shape, level.shape))
    instances = instances_of(needed(place.table))[place.rows]
    return LabelRaster(_positions(labels, instances), to_um @ np.diag([width, height, 1.0]))


def label_locations(place: Place, instances: np.ndarray, to_um: np.ndarray) -> Locations:
    """Return labels as discs of their area about their centroid, in the order of ``instances``, ``(n,)``."""
    pixels = levels_of(place.sdata.labels[needed(place.region)])[0].data
    area, x, y = (np.zeros(len(instances)) for _ in range(3))
    for top in range(0, pixels.shape[0], _STRIP):
        found = _positions(in_memory(pixels[top : top + _STRIP], f"Labels {place.region!r}"), instances)
        row, column = np.nonzero(found >= 0)
        which = found[row, column]
        area += np.bincount(which, minlength=len(area))
        x += np.bincount(which, column + 0.5, minlength=len(area))
        y += np.bincount(which, row + top + 0.5, minlength=len(area))
    if (area == 0).any():
        raise ValueError(
            f"{int((area == 0).sum())} of {len(area)} rows of table {place.table_key!r} have no pixel in {place.region!r}, "
            f"such as {listing(instances[area == 0], 4)}."
        )
    centers = np.stack([x, y], axis=1) / area[:, None]
    return Locations(apply(to_um, centers), np.sqrt(area * area_of(to_um) / np.pi))


def label_outlines(element: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of an element and the outline of each, along its pixels, in the element's own coordinates."""
    pixels = levels_of(element)[0].data
    runs = [
        _runs(in_memory(pixels[top : top + _STRIP], "A labels element"), top)
        for top in range(0, pixels.shape[0], _STRIP)
    ]
    label, row, first, last = (np.concatenate(part) for part in zip(*runs))
    order = np.argsort(label, kind="stable")
    boxes = shapely.box(first, row, last, row + 1)[order]
    names, starts, sizes = np.unique(label[order], return_index=True, return_counts=True)
    outlines = boxes[starts]
    for i in np.flatnonzero(sizes > 1):
        outlines[i] = shapely.coverage_union_all(boxes[starts[i] : starts[i] + sizes[i]])
    return names, outlines


def grid_bins(element: Any, to_um: np.ndarray) -> tuple[np.ndarray, Locations] | None:
    """Return labels that are the bins of a grid anchored at the origin of um, and where they are; None for others.

    Bins take a fraction of the room that as many outlines would.
    """
    side = to_um[0, 0]
    first = to_um[:2, 2] / side
    aligned = np.allclose(to_um[:2, :2], side * np.eye(2), rtol=0, atol=1e-9 * abs(side))
    if side <= 0 or not aligned or not np.allclose(first, np.round(first), rtol=0, atol=1e-6):
        return None
    pixels = in_memory(levels_of(element)[0].data, "A labels element")
    row, column = np.nonzero(pixels)
    names = pixels[row, column]
    if len(np.unique(names)) < len(names):
        return None
    ij = np.stack([row, column], axis=1) + np.round(first[::-1]).astype(np.int64)
    return names, Locations.bins(ij, float(side))


def _runs(pixels: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return label, row, first and last column (one past the end) of all runs of equal labels along rows, but for 0."""
    edge = np.ones((pixels.shape[0], pixels.shape[1] + 1), dtype=bool)
    edge[:, 1:-1] = pixels[:, 1:] != pixels[:, :-1]
    row, column = np.nonzero(edge)
    inside = column < pixels.shape[1]
    last = np.roll(column, -1)[inside]  # the next edge of the row ends the run
    row, first = row[inside], column[inside]
    label = pixels[row, first]
    there = label != 0
    return label[there], row[there] + top, first[there], last[there]


def _positions(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return the position of each label among the instances, int64; -1 where it is not among them."""
    order = np.argsort(instances)
    place = np.minimum(np.searchsorted(instances, labels, sorter=order), len(instances) - 1)
    return np.where(instances[order[place]] == labels, order[place], -1)
