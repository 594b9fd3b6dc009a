"""Scores of a whole predictive distribution: the energy score, the CRPS, and the coverage of intervals."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from hisdiff._stats._accuracy import gene_blocks, same_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = 0.9
"""Nominal coverage of the package's intervals."""
# Half the width of a 90 % interval in units of the sd of the normal law it belongs to.
_Z = float(ndtri((1 + LEVEL) / 2))
_MIN_STD = 1e-6
_BLOCK_VALUES = 2**23


def energy_score(draws: np.ndarray, measured: np.ndarray) -> np.ndarray:
    r"""Return the energy score of every location, ``(n,)``; lower is better.

    With draws :math:`X_1 \dots X_k` of the whole gene vector and the measured vector :math:`y`,

    .. math:: \frac1k \sum_i |X_i - y| - \frac{1}{2 k (k - 1)} \sum_{i \ne j} |X_i - X_j|

    in the Euclidean norm over the panel. A draw is never paired with itself, which makes the score an unbiased
    estimate of the one with infinitely many draws: predictions with different numbers of draws are compared fairly.
    It is a proper score of the joint distribution (Gneiting & Raftery 2007, eq. 22), so it rewards spread and
    correlation that are right, not only a right mean. A single draw is scored as a point, its distance to ``y``.

    Parameters
    ----------
    draws
        ``(k, n, G)``, log2(1 + count).
    measured
        ``(n, G)``, on the same scale.
    """
    if draws.ndim != 3 or draws.shape[1:] != measured.shape:
        raise ValueError(f"Draws are (k, n, G) for measured (n, G), not {draws.shape} and {measured.shape}.")
    k, n, n_genes = draws.shape
    scores = np.empty(n)
    step = max(1, _BLOCK_VALUES // max(k * n_genes, 1))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        # Differences to y keep the numbers small, so that distances by way of inner products lose no digits.
        off = np.moveaxis(draws[:, rows], 0, 1).astype(np.float64) - measured[rows, None, :]
        inner = off @ np.swapaxes(off, 1, 2)
        square = np.diagonal(inner, axis1=1, axis2=2)
        scores[rows] = np.sqrt(square).mean(axis=1)
        if k > 1:
            apart = np.sqrt(np.maximum(square[:, :, None] + square[:, None, :] - 2 * inner, 0))
            apart[:, np.arange(k), np.arange(k)] = 0
            scores[rows] -= apart.sum(axis=(1, 2)) / (2 * k * (k - 1))
    return scores


def crps(draws: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score of every value, ``(n, K)``; lower is better.

    It is the energy score of one value at a time, with the same pairs of draws: it rewards a law of each value that is
    right, whatever goes with it. A single draw is scored as a point, its distance to the measured value.

    Parameters
    ----------
    draws
        ``(k, n, K)``.
    measured
        ``(n, K)``, on the same scale.
    """
    if draws.ndim != 3 or draws.shape[1:] != measured.shape:
        raise ValueError(f"Draws are (k, n, K) for measured (n, K), not {draws.shape} and {measured.shape}.")
    k = len(draws)
    score = np.abs(draws - measured).mean(axis=0, dtype=np.float64)
    if k > 1:
        # In ascending order, draw i is the larger one of i pairs and the smaller one of k - 1 - i.
        rank = 2 * np.arange(k) - k + 1
        score -= np.tensordot(rank, np.sort(draws.astype(np.float64), axis=0), axes=1) / (k * (k - 1))
    return score


def interval(mean: np.ndarray, std: np.ndarray, factor: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper end of the 90 % interval max(0, mean -+ factor sd); ``factor`` is one number or ``(G,)``."""
    half = factor * std
    return np.maximum(mean - half, 0), np.maximum(mean + half, 0)


def coverage(measured: np.ndarray, mean: np.ndarray, std: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
    r"""Return how often the 90 % interval holds the measured counts, gene by gene, ``(G,)``.

    Counts are discrete, so an interval around a mostly absent gene holds zero nearly always and plain coverage would
    always be too high. The randomised probability integral transform (Czado et al. 2009) corrects this: the interval is
    that of the law :math:`F` of max(0, N(mean, (factor sd / 1.645)^2)), a count :math:`c` takes the share of it
    between :math:`c - 1/2` and :math:`c + 1/2` (a zero, all below 1/2), and
    :math:`u = F(c - 1/2) + v (F(c + 1/2) - F(c - 1/2))`, v uniform, is inside when .05 < u < .95. The mean over v
    is taken in closed form, so there is no seed. NaN where mean, sd or factor is.

    Parameters
    ----------
    measured
        ``(n, G)``, log2(1 + count).
    mean, std
        ``(n, G)``, of the draws on the same scale.
    factor
        Of the interval, one number or ``(G,)``.
    """
    return np.concatenate([part(factor) for part in _by_genes(measured, mean, std)])


def coverage_of(measured: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Callable[[np.ndarray | float], np.ndarray]:
    """Return :func:`coverage` as a function of the factor, for many of them: what does not depend on it is computed once."""
    parts = list(_by_genes(measured, mean, std))
    return lambda factor: np.concatenate([part(factor) for part in parts])


def _by_genes(
    measured: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> Iterator[Callable[[np.ndarray | float], np.ndarray]]:
    """Yield the coverage of blocks of genes as a function of the factor of all of them."""
    same_shape(measured, mean)
    same_shape(measured, std)
    for genes in gene_blocks(*measured.shape):
        counts = np.exp2(np.asarray(measured[:, genes], dtype=np.float64)) - 1
        # log2(1 + c -+ 1/2); everything below half a count is a zero.
        with np.errstate(divide="ignore"):
            lower = np.where(counts < 0.5, -np.inf, np.log2(np.maximum(counts + 0.5, 0)))
        low, high = lower - mean[:, genes], np.log2(counts + 1.5) - mean[:, genes]
        yield partial(_covered, low, high, std, genes)


def _covered(
    lower: np.ndarray, upper: np.ndarray, std: np.ndarray, genes: slice, factor: np.ndarray | float
) -> np.ndarray:
    """Return the coverage of a block of genes, whose ends are given around the mean, by intervals of a factor of all genes."""
    own = np.broadcast_to(np.asarray(factor, dtype=np.float64), std.shape[1:])[genes]
    return _inside(lower, upper, np.maximum(own * std[:, genes] / _Z, _MIN_STD)).mean(axis=0)


def _inside(lower: np.ndarray, upper: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the probability that the randomised PIT of a count lies in the central 90 %, under max(0, N(0, spread^2)) from its ends."""
    below, above = ndtr(lower / spread), ndtr(upper / spread)
    tail = (1 - LEVEL) / 2
    width = above - below
    share = (np.clip(above, tail, 1 - tail) - np.clip(below, tail, 1 - tail)) / np.where(width > 0, width, 1)
    # Far out in a tail both ends round to the same number: then u is that number.
    result = np.where(width > 0, share, (below > tail) & (below < 1 - tail))
    return np.where(np.isfinite(width), result, np.nan)
