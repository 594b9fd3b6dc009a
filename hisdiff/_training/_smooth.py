"""How much of what is left of expression varies smoothly in space, and over which distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

if TYPE_CHECKING:
    from hisdiff._training._spots import TrainingSpots

# Distances, in pitches, over which residuals may vary, and up to which pairs of spots tell.
_SMOOTH_PITCHES, _FARTHEST = (1.5, 2.1, 3.0, 4.2, 6.0), 6.0
# The correlation of smooth noise falls with the square of the distance in spacings, times this.
_FALL = 0.82
_MAX_SMOOTH = 0.95
# Spots of a section whose pairs are enough.
_ENOUGH = 500


def correlation(distance: np.ndarray) -> np.ndarray:
    """Return the correlation of smooth noise at distances in units of its spacing."""
    return np.exp(-np.square(distance) * _FALL)


def mixed(white: np.ndarray, smooth: np.ndarray, share: float) -> np.ndarray:
    """Return noise of variance 1, ``(n, K)``, of which a share varies smoothly in space."""
    return np.sqrt(1 - share) * white + np.sqrt(share) * smooth


def smoothness(spots: TrainingSpots, rows: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return which part of the variance of scores is shared by neighbors, and over which distance in um.

    The correlation of scores at spots some distance apart, weighted over factors, is compared with that of noise that is
    smooth over one of a few distances.
    """
    pitch = spots.pitch_um or 4 * spots.radius_um
    xy = spots.xy_um[rows] / pitch
    products, distances, inside = [], [], []
    for s in np.unique(spots.section[rows]):
        own = np.flatnonzero(spots.section[rows] == s)
        pairs = cKDTree(xy[own]).query_pairs(_FARTHEST, output_type="ndarray")
        a, b = own[pairs[:, 0]], own[pairs[:, 1]]
        products.append((scores[a] * scores[b]) @ weight / max(weight.sum(), 1e-12))
        distances.append(np.linalg.norm(xy[a] - xy[b], axis=1))
        some = xy[own[:: -(-len(own) // _ENOUGH)]]
        apart = pdist(some) if len(some) > 1 else np.full(1, np.inf)
        inside.append([np.full(len(a), correlation(apart / spacing).mean()) for spacing in _SMOOTH_PITCHES])
    product, distance = np.concatenate(products), np.concatenate(distances)
    if not len(product):
        return 0.0, _SMOOTH_PITCHES[0] * pitch
    fits = []
    for spacing, shared in zip(_SMOOTH_PITCHES, map(np.concatenate, zip(*inside))):
        # Scores are those around the mean of their section, which takes part of what is smooth along.
        shape = correlation(distance / spacing) - shared
        share = float(np.clip(shape @ product / (shape @ shape), 0, _MAX_SMOOTH))
        fits.append((np.square(product - share * shape).sum(), share, spacing * pitch))
    return min(fits)[1:]


def share_of_means(xy_um: np.ndarray, section: np.ndarray, spacing_um: float) -> float:
    """Return the variance of the mean of a section over that of a spot, for noise that is smooth over a distance.

    On average over sections, less what as many independent spots have.
    """
    shares = []
    for s in np.unique(section):
        own = xy_um[section == s]
        some = own[:: -(-len(own) // _ENOUGH)]
        if len(some) > 1:
            shares.append((1 - 1 / len(own)) * float(correlation(pdist(some) / spacing_um).mean()))
    return float(np.mean(shares)) if shares else 0.0
