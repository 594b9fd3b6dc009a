"""Lattices inside a tissue outline, and nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon


# Far more than rounding, far less than matters; along no edge between pixels.
_NUDGE_UM = (1e-6, 1.618e-6)


def lattice_points(tissue: Polygon | MultiPolygon, pitch_um: float) -> np.ndarray:
    """Return the points of a square lattice that lie inside an outline.

    The lattice is anchored at the origin of the coordinate system, not at the outline, so that cropping a section
    does not move it.

    Returns
    -------
    float64 ``(n, 2)`` as (x, y), row by row.
    """
    x0, y0, x1, y1 = tissue.bounds
    xs = (np.arange(np.floor(x0 / pitch_um), np.ceil(x1 / pitch_um)) + 0.5) * pitch_um
    ys = (np.arange(np.floor(y0 / pitch_um), np.ceil(y1 / pitch_um)) + 0.5) * pitch_um
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    return grid[inside(tissue, grid[:, 0], grid[:, 1])]


def inside(outline: Polygon | MultiPolygon, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points lie inside an outline, bool; of those on its border the ones with the inside to their lower right.

    Outlines follow the pixels of an image, and points of a grid often lie exactly on them: without a side to fall to,
    rounding would decide, and an outline that was stored and read would have other points than the one that was found.
    """
    shapely.prepare(outline)
    return shapely.contains_xy(outline, x + _NUDGE_UM[0], y + _NUDGE_UM[1])


class Nearest:
    """Points among which the nearest ones of places are looked up.

    Ties are broken by position, from above and from the left, so that the order of points has no influence.
    """

    def __init__(self, points: np.ndarray) -> None:
        self._row = np.lexsort(np.transpose(points))
        self._tree = cKDTree(points[self._row]) if len(points) else None
        self._last: tuple[np.ndarray | None, int, np.ndarray] = None, 0, np.empty(0)

    def __call__(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Return the rows of the ``k`` nearest points of each query, nearest first; the same array of queries is looked up once.

        Returns
        -------
        int64 ``(n, k)``, read-only, filled with -1 where there are fewer than ``k`` points.
        """
        of, width, known = self._last
        if of is not queries or width != k:
            known = self._found(queries, k)
            known.flags.writeable = False
            self._last = queries, k, known
        return known

    def _found(self, queries: np.ndarray, k: int) -> np.ndarray:
        found = np.full((len(queries), k), -1, dtype=np.int64)
        use = min(k, len(self._row))
        if self._tree is None or len(queries) == 0:
            return found
        # A few more than requested, since several points may have the distance of the last one.
        extra = min(use + 8, len(self._row))
        distance, index = self._tree.query(queries, k=np.arange(1, extra + 1))
        order = np.lexsort((index, np.round(distance, 6)), axis=1)
        found[:, :use] = self._row[np.take_along_axis(index, order, axis=1)[:, :use]]
        return found


def nearest(queries: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the ``k`` nearest points of each query; see :class:`Nearest`."""
    return Nearest(points)(queries, k)


def pitch_of(points: np.ndarray) -> float:
    """Return the median distance of points to their nearest neighbour."""
    if len(points) < 2:
        return float("nan")
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))
