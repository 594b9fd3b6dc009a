"""Grids of square bins anchored at the origin of ``um``, and how much of a bin lies in a footprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

from hisdiff._geometry._lattice import inside

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    from hisdiff._section import Locations

BLOCK = 64
"""Side of a block of bins: the unit of tiles, of rows of a table on a grid, and of noise."""

# Segments of a quarter of a disc: its area is right to one in two thousand.
_QUARTER_SEGMENTS = 32
# Of the disc that lies inside such a polygon, radius over that of the disc.
_INSCRIBED = np.cos(np.pi / (4 * _QUARTER_SEGMENTS))


def bins_within(tissue: Polygon | MultiPolygon, resolution_um: float) -> np.ndarray:
    """Return the bins whose centre lies inside an outline, int64 ``(n, 2)`` as (row, column), block by block.

    Bin ``(i, j)`` spans ``[j r, (j + 1) r)`` in x and ``[i r, (i + 1) r)`` in y, so that cropping a section does not
    move its bins.
    """
    x0, y0, x1, y1 = tissue.bounds
    rows = np.arange(np.floor(y0 / resolution_um), np.ceil(y1 / resolution_um), dtype=np.int64)
    columns = np.arange(np.floor(x0 / resolution_um), np.ceil(x1 / resolution_um), dtype=np.int64)
    xs = (columns + 0.5) * resolution_um
    found = []
    for start in range(0, len(rows), BLOCK):  # a slide has too many bins to test all at once
        some = rows[start : start + BLOCK]
        y, x = np.meshgrid((some + 0.5) * resolution_um, xs, indexing="ij")
        i, j = np.nonzero(inside(tissue, x, y))
        found.append(np.stack([some[i], columns[j]], axis=1))
    return by_block(np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64))


def by_block(ij: np.ndarray) -> np.ndarray:
    """Order bins by block, row by row of blocks, and row by row inside a block."""
    block = ij // BLOCK
    return ij[np.lexsort((ij[:, 1], ij[:, 0], block[:, 1], block[:, 0]))]


def block_slices(ij: np.ndarray) -> list[slice]:
    """Return the rows of each block of bins that are ordered by block."""
    if not len(ij):
        return []
    block = ij // BLOCK
    starts = np.flatnonzero((block[1:] != block[:-1]).any(axis=1)) + 1
    edges = np.concatenate([[0], starts, [len(ij)]])
    return [slice(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:])]


def bins_touching(footprints: Locations, resolution_um: float) -> np.ndarray:
    """Return the bins that the bounding box of any footprint touches, int64 ``(n, 2)``, sorted."""
    return np.unique(_candidates(footprints, resolution_um)[1], axis=0)


def overlap(footprints: Locations, ij: np.ndarray, resolution_um: float) -> sparse.csr_matrix:
    """Return the part of each bin's area that lies in each footprint, csr ``(len(footprints), len(ij))`` in 0..1.

    Parameters
    ----------
    footprints
        Discs or outlines.
    ij
        ``(n, 2)`` bins as (row, column), each once.
    resolution_um
        Side of a bin.
    """
    shapes = outlines(footprints)
    which, bins = _candidates(footprints, resolution_um)
    columns = _rows_in(bins, ij)
    which, columns = which[columns >= 0], columns[columns >= 0]
    corner = ij[columns][:, ::-1] * resolution_um
    share, cut = _shares_known(footprints, which, corner, resolution_um)
    boxes = shapely.box(*corner[cut].T, *(corner[cut] + resolution_um).T)
    share[cut] = shapely.area(shapely.intersection(shapes[which[cut]], boxes)) / resolution_um**2
    result = sparse.csr_matrix((share, (which, columns)), shape=(len(shapes), len(ij)))
    result.eliminate_zeros()
    return result


def _shares_known(
    footprints: Locations, which: np.ndarray, corner: np.ndarray, resolution_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of bins that lie wholly inside or outside discs, and the rows of pairs that have to be cut out."""
    share = np.zeros(len(which))
    if not _are_discs(footprints):
        return share, np.arange(len(which))
    low = corner - footprints.xy_um[which]
    high = low + resolution_um
    nearest, farthest = np.maximum(np.maximum(low, -high), 0), np.maximum(np.abs(low), np.abs(high))
    near, far = np.hypot(*nearest.T), np.hypot(*farthest.T)
    radius = footprints.radius_um[which]
    inside = far <= radius * _INSCRIBED
    share[inside] = 1
    return share, np.flatnonzero(~inside & (near < radius))


def _candidates(footprints: Locations, resolution_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of a footprint's row and a bin ``(n, 2)`` of its bounding box."""
    sides = bounds(footprints) / resolution_um
    first = np.floor(sides[:, :2] + 1e-9).astype(np.int64)
    size = np.maximum(np.ceil(sides[:, 2:] - 1e-9).astype(np.int64) - first, 1)
    count = size.prod(axis=1)
    which = np.repeat(np.arange(len(sides)), count)
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(place, size[which, 0])
    return which, np.stack([first[which, 1] + row, first[which, 0] + column], axis=1)


def _rows_in(wanted: np.ndarray, ij: np.ndarray) -> np.ndarray:
    """Return the row of ``ij`` that each wanted bin has, -1 where it has none."""
    if not len(ij) or not len(wanted):
        return np.full(len(wanted), -1)
    least = np.minimum(wanted.min(axis=0), ij.min(axis=0))
    width = max(wanted[:, 1].max(), ij[:, 1].max()) - least[1] + 1
    keys, asked = ((a[:, 0] - least[0]) * width + a[:, 1] - least[1] for a in (ij, wanted))
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, asked, sorter=order), len(keys) - 1)
    return np.where(keys[order[place]] == asked, order[place], -1)


def outlines(footprints: Locations) -> np.ndarray:
    """Return footprints as polygons in um, ``(n,)``; squares for the bins of a grid."""
    if footprints.bin_um is not None:
        half = footprints.bin_um / 2
        x, y = footprints.xy_um.T
        return shapely.box(x - half, y - half, x + half, y + half)
    if _are_discs(footprints):
        return discs(footprints.xy_um, footprints.radius_um)
    return np.asarray(footprints.footprint)


def bounds(footprints: Locations) -> np.ndarray:
    """Return the box around each footprint, ``(n, 4)`` as (x0, y0, x1, y1) in um."""
    if footprints.bin_um is None and not _are_discs(footprints):
        return shapely.bounds(footprints.footprint).reshape(-1, 4)
    reach = footprints.radius_um[:, None] if footprints.bin_um is None else footprints.bin_um / 2
    return np.concatenate([footprints.xy_um - reach, footprints.xy_um + reach], axis=1)


def _are_discs(footprints: Locations) -> bool:
    return footprints.bin_um is None and np.asarray(footprints.footprint).dtype != object


def discs(xy: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Return discs around points ``(n, 2)`` as polygons, ``(n,)``."""
    return shapely.buffer(shapely.points(xy), radius, quad_segs=_QUARTER_SEGMENTS)
