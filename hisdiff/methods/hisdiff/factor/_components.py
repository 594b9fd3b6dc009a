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
        ``(n, q)`` each, such as the features of kernels of different widths; one is in memory at a time.
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
    for expanded in expansions:
        slopes = np.zeros((expanded.shape[1], targets.shape[1]))
        weights.append(slopes)
        if n_folds == 1:  # too few spots to leave any out: nothing is known to be predictable
            continue
        parts = [Moments.of(expanded[fold == f], targets[fold == f], weight[fold == f]) for f in range(n_folds)]
        everything = sum(parts[1:], parts[0])
        errors = np.sum([_held_out_errors(everything - part, part, penalties) for part in parts], axis=0)
        choice, error = errors.argmin(axis=0), errors.min(axis=0)
        better = error < least
        for chosen in np.unique(choice[better]):
            use = better & (choice == chosen)
            for earlier in weights:
                earlier[:, use] = 0
            slopes[:, use] = _slopes(everything, penalties[chosen])[:, use]
            for f, part in enumerate(parts):
                held_out[np.ix_(fold == f, use)] = (
                    expanded[fold == f] @ _slopes(everything - part, penalties[chosen])[:, use]
                )
        least = np.where(better, error, least)
    explained = 0.0 if n_folds == 1 else float(1 - least.sum() / max(total, 1e-12))
    return ComponentFit(weights, held_out, explained)


def _slopes(moments: Moments, penalty: float) -> np.ndarray:
    """Fit without intercept: targets are centred, and kernels have none to penalise."""
    return dense.solve(moments.xx + penalty * np.eye(len(moments.xx)), moments.xy)


def _held_out_errors(training: Moments, held_out: Moments, penalties: Sequence[float]) -> np.ndarray:
    """Return squared errors of each component on left-out spots for every penalty, ``(len(penalties), r)``.

    The mean error is not counted: what a section has more or less of as a whole is no skill of the image.
    """
    eigenvalues, axes = dense.eigh(training.xx)
    eigenvalues = np.maximum(eigenvalues, 0)
    target = axes.T @ training.xy
    xx, xy, yy = held_out.centered()
    xx, xy = dense.product(dense.product(axes.T, xx), axes), axes.T @ xy
    result = np.empty((len(penalties), len(yy)))
    for row, penalty in zip(result, penalties):
        slopes = target / (eigenvalues + penalty)[:, None]
        row[:] = yy - 2 * np.einsum("pg,pg->g", slopes, xy) + np.einsum("pg,pg->g", slopes, xx @ slopes)
    return result
