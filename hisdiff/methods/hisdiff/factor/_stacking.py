"""How much weight each of several predictions of the same has in their average: as given, or learned on left-out tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from hisdiff._stats import _dense as dense
from hisdiff._training._folds import MANY_FOLDS

if TYPE_CHECKING:
    from collections.abc import Sequence

# Standard errors over folds by which they have to be.
_CLEARLY = 3.0


def stacked_weights(
    held_out: Sequence[np.ndarray],
    targets: np.ndarray,
    section: np.ndarray,
    fold: np.ndarray,
    weight: np.ndarray,
    usual: np.ndarray,
) -> np.ndarray:
    """Return the weight of each prediction, of zero or above (stacking; Breiman, 1996).

    Learned weights are judged on tissue that neither the predictions nor the weights have seen. Where they do not predict it clearly
    better than the usual ones, or there is too little of it to tell, those are returned.

    Parameters
    ----------
    held_out
        ``(n, r)`` each, every spot predicted by a fit without its fold.
    targets
        ``(n, r)``.
    section, fold, weight
        ``(n,)`` of the spots. The mean of a section is taken out of predictions and targets: it is no skill of the image.
    usual
        ``(k,)`` weights that are taken unless others are better.
    """
    n_folds = int(fold.max()) + 1
    if n_folds < MANY_FOLDS:
        return usual
    parts = [_moments(held_out, targets, section, weight, fold == f) for f in range(n_folds)]
    products, with_targets, _ = (sum(of[1:], start=of[0]) for of in zip(*parts))
    gains = []
    for own, own_targets, total in parts:
        learned = _nonnegative(products - own, with_targets - own_targets)
        errors = [total - 2 * w @ own_targets + w @ own @ w for w in (usual, learned)]
        gains.append((errors[0] - errors[1]) / max(total, 1e-12))
    clear = np.mean(gains) > _CLEARLY * np.std(gains, ddof=1) / np.sqrt(n_folds)
    return _nonnegative(products, with_targets) if clear else usual


def _moments(
    held_out: Sequence[np.ndarray], targets: np.ndarray, section: np.ndarray, weight: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return products of predictions with each other and with the targets, and of the targets, all less the means of sections."""
    k = len(held_out)
    products = np.zeros((k + 1, k + 1))
    for s in np.unique(section[rows]):
        own = rows & (section == s)
        root = np.sqrt(weight[own])[:, None]
        values = np.stack([of[own].astype(np.float64) for of in (*held_out, targets)])
        values -= np.average(values, axis=1, weights=weight[own])[:, None]
        flat = (root * values).reshape(k + 1, -1)
        products += flat @ flat.T
    return products[:k, :k], products[:k, k], float(products[k, k])


def _nonnegative(products: np.ndarray, with_targets: np.ndarray) -> np.ndarray:
    """Solve least squares for weights of zero or above, from its normal equations."""
    values, axes = dense.eigh(products)
    keep = values > 1e-10 * values[-1]
    root = np.sqrt(values[keep])
    return nnls(root[:, None] * axes[:, keep].T, axes[:, keep].T @ with_targets / root)[0]
