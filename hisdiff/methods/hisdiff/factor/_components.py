"""Regression on expanded features, component by component: each takes the expansion and the penalty that predict it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats import _dense as dense
from hisdiff._stats._ridge_path import Moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class ComponentFit:
    """Slopes of each component, and how well they do on left-out tissue.

    Attributes
    ----------
    weights
        ``(q, r)`` for each expansion; zero for the components that took another one, or none.
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
    """Choose expansion and penalty of each component, by squared error on left-out tissue.

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
        What there is to choose from.
    """
    n_folds = int(fold.max()) + 1
    weights: list[np.ndarray] = []
    held_out = np.zeros_like(targets)
    # An expansion has to predict better than zero weight.
    least = np.zeros(targets.shape[1])
    for f in range(n_folds):
        own, w = targets[fold == f], weight[fold == f]
        least += w @ np.square(own - np.average(own, axis=0, weights=w))
    total = least.sum()
    rows = [np.flatnonzero(fold == f) for f in range(n_folds)]
    for expanded in expansions:
        slopes = np.zeros((expanded.shape[1], targets.shape[1]), dtype=expanded.dtype)
        weights.append(slopes)
        if n_folds == 1:  # too few spots to leave any out: nothing is known to be predictable
            continue
        parts = [Moments.of(expanded[own], targets[own].astype(expanded.dtype), weight[own]) for own in rows]
        everything = sum(parts[1:], parts[0])
        paths = [_path(everything - part, penalties) for part in parts]
        errors = np.sum(
            [_held_out_errors(path, part, expanded, own, weight) for path, part, own in zip(paths, parts, rows)], axis=0
        )
        choice, error = errors.argmin(axis=0), errors.min(axis=0)
        better = np.flatnonzero(error < least)
        for earlier in weights:
            earlier[:, better] = 0
        for own, path in zip(rows, paths):
            held_out[np.ix_(own, better)] = expanded[own] @ path[choice[better], :, better].T
        for chosen in np.unique(choice[better]):
            use = better[choice[better] == chosen]
            slopes[:, use] = _slopes(everything.xx, everything.xy[:, use], penalties[chosen])
        least = np.minimum(error, least)
    explained = 0.0 if n_folds == 1 else float(1 - least.sum() / max(total, 1e-12))
    return ComponentFit(weights, held_out, explained)


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
