"""What a method learns about itself from out-of-fold predictions: accuracy, and how wide its intervals must be."""

from __future__ import annotations

import numpy as np

from hisdiff._stats._accuracy import pearson
from hisdiff._stats._proper import LEVEL, coverage
from hisdiff.methods._base import Knowledge

_FACTORS = np.geomspace(0.4, 8, 61)
# Sampling variance of log k_g is about this over n: an interval end is a quantile, var(quantile) = p (1 - p) / (n f^2)
# with p = .9 and f k = .34 the density of |z| at the end of a normal 90 % interval, times its place.
_LOG_VARIANCE = LEVEL * (1 - LEVEL) / 0.34**2
# Spots that are worth asking; more make the factors no better than the data's own section-to-section differences.
_MAX_ROWS = 5000


def knowledge_of(measured: np.ndarray, mean: np.ndarray, std: np.ndarray, sections: np.ndarray) -> Knowledge:
    """Summarise out-of-fold predictions.

    Parameters
    ----------
    measured
        ``(n, G)``, log2(1 + count) at training spots.
    mean, std
        ``(n, G)``, predicted for the same spots by fits that had not seen them, from at least two draws.
    sections
        ``(n,)`` section of each spot. Correlations are taken inside sections and averaged, weighted by spots, since
        differences between sections are no skill.
    """
    names, index = np.unique(sections, return_inverse=True)
    correlations = np.stack([pearson(measured[index == i], mean[index == i]) for i in range(len(names))])
    weights = np.where(np.isfinite(correlations), np.bincount(index)[:, None], 0)
    total = weights.sum(axis=0)
    cv_pcc = np.where(total > 0, (weights * np.nan_to_num(correlations)).sum(axis=0) / np.maximum(total, 1), np.nan)
    return Knowledge(cv_pcc=cv_pcc, interval_factor=interval_factor(measured, mean, std))


def interval_factor(measured: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the factor k_g of each gene for which max(0, mean -+ k_g sd) covers 90 % of the measured counts, ``(G,)``.

    Coverage is that of the randomised PIT (``hisdiff._stats._proper.coverage``). A factor from few spots is uncertain,
    so the logarithm of each gene's own is drawn towards that of all genes together, as far as their spread is no more
    than sampling would give (empirical Bayes).

    Parameters
    ----------
    measured, mean, std
        ``(n, G)``, log2(1 + count): measured, and predicted out of fold.
    """
    if len(measured) > _MAX_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(measured), _MAX_ROWS, replace=False))
        measured, mean, std = measured[rows], mean[rows], std[rows]
    if len(measured) == 0 or measured.shape[1] == 0:
        return np.ones(measured.shape[1])
    covered = np.stack([coverage(measured, mean, std, factor) for factor in _FACTORS])
    pooled = _crossing(covered.mean(axis=1, keepdims=True))[0]
    if np.isnan(pooled):
        # No factor brings all genes together to the level; the one that comes nearest is the best there is.
        pooled = _FACTORS[np.abs(covered.mean(axis=1) - LEVEL).argmin()]
    apart = np.log(_crossing(covered) / pooled)
    told = np.isfinite(apart)
    noise = _LOG_VARIANCE / len(measured)
    spread = max(float(np.mean(apart[told] ** 2)) - noise, 0) if told.any() else 0.0
    return pooled * np.exp(np.where(told, spread / (spread + noise) * apart, 0))


def _crossing(covered: np.ndarray) -> np.ndarray:
    """Return the factor at which each column of coverages first reaches the level, interpolated; ``(columns,)``.

    NaN for a column that is above it from the start or never reaches it: a gene with hardly any counts, whose zeros
    are covered nine times in ten whatever the factor, tells nothing about it.
    """
    reached = covered >= LEVEL
    last = reached.argmax(axis=0)
    first = np.maximum(last - 1, 0)
    columns = np.arange(covered.shape[1])
    low, high = covered[first, columns], covered[last, columns]
    share = (LEVEL - low) / np.where(high > low, high - low, 1)
    factor = np.exp(np.log(_FACTORS[first]) * (1 - share) + np.log(_FACTORS[last]) * share)
    return np.where(last > 0, factor, np.nan)
