"""Where patches have to lie so that they show the whole of a footprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

from hisdiff._geometry._grid import outlines

if TYPE_CHECKING:
    from hisdiff._section import Locations

# Spots of all platforms are up to 110 um wide, and the usual patch 112 um: one patch does not cover anything wider than this.
_WIDE_UM = 150.0
# Between the patches of a wide footprint.
_PITCH_UM = 100.0


def is_wide(locations: Locations) -> np.ndarray:
    """Return which footprints are too wide for one patch around the centre, bool ``(n,)``."""
    if not (isinstance(locations.footprint, np.ndarray) and locations.footprint.dtype == object):
        return 2 * locations.radius_um > _WIDE_UM
    return _widths(outlines(locations)) > _WIDE_UM


def patch_centers(locations: Locations) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Return the centres of patches, and how the patches of a footprint are averaged.

    A footprint has one around its centre, but where it is much wider than spots are: then each of its parts has one, and
    parts that are wide themselves have several, side by side.

    Parameters
    ----------
    locations
        Places with their footprints.

    Returns
    -------
    ``(m, 2)`` centres in um, and csr ``(n, m)`` whose rows sum to 1: parts of a footprint count by their area.
    """
    wide = np.flatnonzero(is_wide(locations))
    if not len(wide):
        return locations.xy_um, sparse.identity(len(locations), format="csr")
    single = np.setdiff1d(np.arange(len(locations)), wide)
    parts, of = shapely.get_parts(outlines(locations.take(wide)), return_index=True)
    points, rows, weights = [locations.xy_um[single]], [single], [np.ones(len(single))]
    for part, row, large in zip(parts, wide[of], _widths(parts) > _WIDE_UM):
        own = _side_by_side(part) if large else shapely.get_coordinates(part.centroid)
        points.append(own)
        rows.append(np.full(len(own), row))
        weights.append(np.full(len(own), part.area / len(own)))
    row = np.concatenate(rows)
    share = sparse.csr_matrix((np.concatenate(weights), (row, np.arange(len(row)))), shape=(len(locations), len(row)))
    return np.concatenate(points), (sparse.diags(1 / np.asarray(share.sum(axis=1)).ravel()) @ share).tocsr()


def _widths(shapes: np.ndarray) -> np.ndarray:
    """Return the longer side of each bounding box."""
    x0, y0, x1, y1 = shapely.bounds(shapes).reshape(-1, 4).T
    return np.maximum(x1 - x0, y1 - y0)


def _side_by_side(part: shapely.Polygon) -> np.ndarray:
    """Return the points of a lattice around the centre of an outline that lie inside it, ``(m, 2)``, at least one."""
    center = shapely.get_coordinates(part.centroid)[0]
    reach = np.ceil(_widths(np.array([part]))[0] / _PITCH_UM)
    steps = np.arange(-reach, reach + 1) * _PITCH_UM
    lattice = center + np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    inside = lattice[shapely.contains_xy(part, *lattice.T)]
    return inside if len(inside) else shapely.get_coordinates(part.representative_point())
