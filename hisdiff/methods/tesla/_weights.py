"""Weights of spots for a superpixel, which decrease with distance in position and colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist

from hisdiff._geometry import nearest

Kernel = Literal["power", "exponential"]
# Pairs whose distances are all computed for the quantile, and how many are drawn where there are more.
_EXACT_PAIRS = 4_000_000
_SAMPLED_PAIRS = 1_000_000
# A distance at the threshold may come out a rounding error larger on the other side of the comparison.
_ROUNDING = 1 + 1e-12


def distance_threshold(superpixels: np.ndarray, spots: np.ndarray, n_neighbors: int) -> float:
    """Return the quantile at ``n_neighbors / n_spots`` of all distances between superpixels and spots.

    From a million pairs drawn with a fixed seed where there are more than four million.

    Parameters
    ----------
    superpixels, spots
        ``(P, 3)`` and ``(N, 3)``, x, y and z in um.
    n_neighbors
        Spots that a superpixel has at most.
    """
    level = min(n_neighbors / len(spots), 1.0)
    if len(superpixels) * len(spots) <= _EXACT_PAIRS:
        return float(np.quantile(cdist(superpixels, spots), level))
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, len(points), _SAMPLED_PAIRS) for points in (superpixels, spots))
    return float(np.quantile(np.linalg.norm(superpixels[first] - spots[second], axis=1), level))


def neighbors_of(points: np.ndarray, spots: np.ndarray, n_neighbors: int, *, without_self: bool = False) -> np.ndarray:
    """Return the rows of the nearest spots of each point, int64 ``(n, n_neighbors)``, -1 where there are fewer.

    ``without_self``: the points are the spots, and none is its own neighbour.
    """
    if not without_self:
        return nearest(points, spots, n_neighbors)
    rows = nearest(points, spots, n_neighbors + 1)
    own = rows == np.arange(len(points))[:, None]
    # Of spots in one place, a spot itself may not be among the first.
    own[~own.any(axis=1), -1] = True
    return rows[~own].reshape(len(points), n_neighbors)


def neighbor_weights(
    points: np.ndarray,
    spots: np.ndarray,
    rows: np.ndarray,
    *,
    threshold: float,
    offset: float,
    kernel: Kernel,
    power: float,
) -> sparse.csr_matrix:
    """Return the weights of neighbours, csr ``(n, N)``; rows add up to 1, or to 0 where no neighbour is near enough.

    Parameters
    ----------
    points, spots
        ``(n, 3)`` and ``(N, 3)`` in um.
    rows
        ``(n, k)`` neighbours of each point (``neighbors_of``).
    threshold
        Farthest distance of a neighbour, in um.
    offset
        Added to distances, so that a spot in the very place does not weigh infinitely more; in um.
    kernel, power
        ``"power"``: ``delta ** -power`` of the distance relative to the nearest neighbour's; ``"exponential"``:
        ``exp(-delta)``.
    """
    distance = np.linalg.norm(points[:, None] - spots[rows], axis=2)
    used = (rows >= 0) & (distance <= threshold * _ROUNDING)
    distance = np.where(used, distance + offset, np.inf)
    smallest = np.where(used.any(axis=1), distance.min(axis=1, initial=np.inf), 1.0)
    delta = distance / smallest[:, None]
    raw = delta**-power if kernel == "power" else np.exp(-delta)
    weights = raw / np.maximum(raw.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    starts = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return sparse.csr_matrix((weights[used], rows[used], starts), shape=(len(points), len(spots)))
