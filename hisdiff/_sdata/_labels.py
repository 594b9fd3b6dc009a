"""Tables on a labels element: which location each pixel shows, and where the locations are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import listing
from hisdiff._sdata._image import levels_of
from hisdiff._section import Locations

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


def label_raster(place: Place, to_um: np.ndarray, most_px: int) -> LabelRaster:
    """Return the labels that a table annotates, thinned out to at most ``most_px`` pixels a side.

    Parameters
    ----------
    to_um
        ``(3, 3)`` matrix from the element's own (x, y) to um.
    """
    levels = [level.data for level in levels_of(place.sdata.labels[place.region])]
    fine_enough = [level for level in levels if max(level.shape) >= most_px] or levels[:1]
    level = fine_enough[-1]
    step = -(-max(level.shape) // most_px)
    labels = np.asarray(level[::step, ::step])
    # A pixel of the thinned raster covers that many of the element's own; levels need not halve exactly.
    height, width = (full / len_ * step for full, len_ in zip(levels[0].shape, level.shape))
    return LabelRaster(_positions(labels, instances_of(place)), to_um @ np.diag([width, height, 1.0]))


def label_locations(place: Place, to_um: np.ndarray) -> Locations:
    """Return the labels that a table annotates as discs of their area about their centroid, in the order of its rows."""
    instances = instances_of(place)
    pixels = levels_of(place.sdata.labels[place.region])[0].data
    area, x, y = (np.zeros(len(instances)) for _ in range(3))
    for top in range(0, pixels.shape[0], _STRIP):
        found = _positions(np.asarray(pixels[top : top + _STRIP]), instances)
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
    centres = np.stack([x, y], axis=1) / area[:, None]
    pixel_um2 = abs(np.linalg.det(to_um[:2, :2]))
    return Locations(centres @ to_um[:2, :2].T + to_um[:2, 2], np.sqrt(area * pixel_um2 / np.pi))


def instances_of(place: Place) -> np.ndarray:
    """Return which label or shape each row of a section annotates, ``(n,)``."""
    table: Any = place.table
    return table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()[place.rows]


def _positions(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return the position of each label among the instances, int64; -1 where it is none of them."""
    order = np.argsort(instances)
    place = np.minimum(np.searchsorted(instances, labels, sorter=order), len(instances) - 1)
    return np.where(instances[order[place]] == labels, order[place], -1)
