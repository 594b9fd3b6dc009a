"""New points between the spots of a section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy.spatial import cKDTree

from hisdiff._geometry._blocks import is_hexagonal
from hisdiff._geometry._lattice import pitch_of

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

# Offsets (row, column) from a spot to the new points that belong to it.
_HEXAGONAL = np.array([(2 / 3, 0.0), (1 / 3, 1.0), (-1 / 3, 1.0)])
_SQUARE = np.array([(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
_DECIMALS = 6


def hexagonal_fill(array_ij: np.ndarray) -> np.ndarray:
    """Return the centroids of the triangles between the spots of a hexagonal array, three times as dense in all.

    Parameters
    ----------
    array_ij
        ``(n, 2)``, (row, column) with columns two apart along a row, and neighbouring rows one column aside, as in
        Visium.

    Returns
    -------
    float64 ``(m, 2)``, (row, column), each point once, spots themselves not among them.
    """
    return _filled(array_ij, _HEXAGONAL)


def square_fill(array_ij: np.ndarray) -> np.ndarray:
    """Return the points half way between the spots of a square array, four times as dense in all; see ``hexagonal_fill``."""
    return _filled(array_ij, _SQUARE)


def array_fill(array_ij: np.ndarray) -> np.ndarray:
    """Return ``hexagonal_fill`` or ``square_fill``, by the kind of the array."""
    return hexagonal_fill(array_ij) if is_hexagonal(array_ij) else square_fill(array_ij)


def _filled(array_ij: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    own = np.asarray(array_ij, dtype=float)
    new = np.round((own[:, None] + offsets).reshape(-1, 2), _DECIMALS)
    new = np.unique(new, axis=0)
    distance, _ = cKDTree(own).query(new)
    return new[distance > 10.0**-_DECIMALS]


def random_fill(
    xy_um: np.ndarray, density: float, rng: np.random.Generator, *, reach_um: float | None = None
) -> np.ndarray:
    """Return uniform random points near spots, so many that together with them they are ``density`` times as dense.

    The number drawn in the bounding box, 4 n (density - 1) / pi, assumes a round tissue in a square box.

    Parameters
    ----------
    xy_um
        ``(n, 2)`` spots.
    density
        Above 1.
    rng
        Source of the points.
    reach_um
        Points farther than this from every spot are dropped; None for the pitch of the spots.
    """
    if density <= 1:
        raise ValueError(f"density is above 1, not {density!r}.")
    n_points = int(np.ceil(4 * len(xy_um) * (density - 1) / np.pi))
    low, high = xy_um.min(axis=0), xy_um.max(axis=0)
    points = rng.uniform(low, high, (n_points, 2))
    reach = pitch_of(xy_um) if reach_um is None else reach_um
    return points[cKDTree(xy_um).query(points)[0] <= reach]


def array_to_um(array_ij: np.ndarray, xy_um: np.ndarray, points_ij: np.ndarray) -> np.ndarray:
    """Bring points from (row, column) of an array to (x, y) in um, by the best affine map of its spots."""
    design = np.column_stack([array_ij, np.ones(len(array_ij))]).astype(float)
    matrix, _, rank, _ = np.linalg.lstsq(design, xy_um, rcond=None)
    if rank < 3:
        raise ValueError("The spots lie on one line of the array, which does not tell where points beside it are.")
    return np.column_stack([points_ij, np.ones(len(points_ij))]) @ matrix


def inside(tissue: Polygon | MultiPolygon, xy_um: np.ndarray) -> np.ndarray:
    """Return which points lie in an outline, bool ``(n,)``."""
    return shapely.contains_xy(tissue, xy_um[:, 0], xy_um[:, 1])
