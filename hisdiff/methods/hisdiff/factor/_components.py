"""Regression on expanded features, component by component, averaged over what predicts left-out tissue about as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from hisdiff._stats import _dense as dense
from hisdiff._stats._ridge_path import Moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Spots that tell as much as one that stands alone: a spot and its eight neighbours share their tissue.
_NEIGHBORS = 9
# Errors below this part of the variance are rounding, and weights below this part of the whole make no difference.
_FLAT, _LITTLE = 1e-9, 1e-4


@dataclass(frozen=True)
class ComponentFit:
    """Slopes of each component, and how well they do on left-out tissue.

    Attributes
    ----------
    weights
        ``(q, r)`` for each expansion, its part of the average; zero for components that it tells nothing of.
    held_out
        ``(n, r)``, each spot predicted by a fit without its fold.
    explained
        Part of the variance on left-out tissue that is explained.
    """

    weights: list[np.ndarray]
    held_out: np.ndarray
    explained: float


def fit_components(
    expansions: Iterable[np.ndarray],
    targets: np.ndarray,
    fold: np.ndarray,
    weight: np.ndarray,
    penalties: Sequence[float],
) -> ComponentFit:
    r"""Average each component over expansions and penalties, and over not predicting it at all.

    With :math:`E` the squared error of one of them on left-out tissue, its part of the average is proportional to
    :math:`E^{-n / 18}`: the likelihood of normal errors of unknown variance, where a spot and its eight neighbours count
    as one, and n is the sum of weights. On a few hundred spots several penalties predict about as well, and to take the
    best is to follow chance; on many thousands one is left.

    Parameters
    ----------
    expansions
        ``(n, q)`` each, such as the features of kernels of different widths; one is in memory at a time. All is computed in their
        precision: in float32 slopes have four digits, and data do not settle more.
    targets
        ``(n, r)``, centred.
    fold, weight
        ``(n,)``.
    penalties
        What is averaged over.
    """
    n_folds = int(fold.max()) + 1
    rows = [np.flatnonzero(fold == f) for f in range(n_folds)]
    weights: list[np.ndarray] = []
    held_out = np.zeros_like(targets)
    nothing = _errors(targets, rows, weight)
    power, floor = weight.sum() / (2 * _NEIGHBORS), _FLAT * np.maximum(nothing, _FLAT)
    evidence = -power * np.log(np.maximum(nothing, floor))
    for expanded in expansions:
        slopes = np.zeros((expanded.shape[1], targets.shape[1]), dtype=expanded.dtype)
        if n_folds == 1:  # too few spots to leave any out: nothing is known to be predictable
            weights.append(slopes)
            continue
        parts = [Moments.of(expanded[own], targets[own].astype(expanded.dtype), weight[own]) for own in rows]
        everything = sum(parts[1:], parts[0])
        paths = [_path(everything - part, penalties) for part in parts]
        errors = np.sum(
            [_held_out_errors(path, part, expanded, own, weight) for path, part, own in zip(paths, parts, rows)], axis=0
        )
        of_each = -power * np.log(np.maximum(errors, floor))
        before, evidence = evidence, logsumexp(np.vstack([evidence[None], of_each]), axis=0)
        share, kept = np.exp(of_each - evidence), np.exp(before - evidence)
        share[share < _LITTLE], kept[kept < _LITTLE] = 0, 0
        held_out *= kept
        for earlier in weights:
            earlier *= kept.astype(earlier.dtype)
        told = np.flatnonzero(share.any(axis=0))
        for own, path in zip(rows, paths):
            average = np.einsum("pr,pqr->qr", share[:, told].astype(path.dtype), path[:, :, told])
            held_out[np.ix_(own, told)] += expanded[own] @ average
        for penalty, of_penalty in zip(penalties, share):
            use = np.flatnonzero(of_penalty)
            if len(use):
                found = _slopes(everything.xx, everything.xy[:, use], penalty)
                slopes[:, use] += of_penalty[use].astype(found.dtype) * found
        weights.append(slopes)
    left, total = _errors(targets - held_out, rows, weight).sum(), nothing.sum()
    return ComponentFit(weights, held_out, float(1 - left / max(total, 1e-12)))


def _errors(left: np.ndarray, rows: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Return the weighted sum of squares of each component, less the mean of each fold, ``(r,)``."""
    total = np.zeros(left.shape[1])
    for own in rows:
        total += weight[own] @ np.square(left[own] - np.average(left[own], axis=0, weights=weight[own]))
    return total


def _slopes(xx: np.ndarray, xy: np.ndarray, penalty: float) -> np.ndarray:
    """Fit without intercept: targets are centred, and kernels have none to penalise."""
    penalized = xx.copy()
    penalized.flat[:: len(xx) + 1] += penalty
    return dense.solve(penalized, xy)


def _path(training: Moments, penalties: Sequence[float]) -> np.ndarray:
    """Return the slopes of each component for every penalty, ``(len(penalties), q, r)``."""
    return np.stack([_slopes(training.xx, training.xy, penalty) for penalty in penalties])


def _held_out_errors(
    path: np.ndarray, held_out: Moments, expanded: np.ndarray, rows: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return squared errors of each component on left-out spots for every penalty, ``(len(penalties), r)``.

    The mean error is not counted: what a section has more or less of as a whole is no skill of the image. Errors come from moments, or,
    of fewer spots than there are features, from predictions, which is less work.
    """
    if len(rows) >= expanded.shape[1]:
        xx, xy, yy = held_out.centered()
        spreads = [(slopes * (xx @ slopes)).sum(axis=0) for slopes in path]
    else:
        xy, yy = held_out.centered_targets()
        root = np.sqrt(weight[rows], dtype=expanded.dtype)
        features = root[:, None] * expanded[rows]
        of_spots = [features @ slopes for slopes in path]
        spreads = [np.square(own).sum(axis=0) - np.square(root @ own) / held_out.n for own in of_spots]
    return np.stack([yy - 2 * (slopes * xy).sum(axis=0) + spread for slopes, spread in zip(path, spreads)])
