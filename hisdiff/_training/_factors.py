r"""What is left of expression once its mean is known: common factors, gene-specific spread, and the noise of counting.

For a spot with conditional mean :math:`m` in a section of level :math:`b`,

.. math:: \mu = m + b + z L + \tau \odot \epsilon, \qquad
          y_g \sim \mathrm{Poisson}(\lambda(\mu_g)), \qquad x = \log_2(1 + y),

with scores :math:`z` of K factors, loadings :math:`L`, gene-specific sd :math:`\tau`, and :math:`\lambda(\mu)` the rate for
which :math:`E \log_2(1 + y) = \mu`. On the sections this was made for, counting explains nine tenths of what some ten
factors leave, so noise is not a thing to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._counting import count_moments, counting_variance, latent, mean_above_zero
from hisdiff._stats._pca import leading

if TYPE_CHECKING:
    from collections.abc import Mapping

# Rows that are worked on at once, and those that tell how much a gene varies on average.
_ROWS, _SOME = 1024, 500
# By how much variances of genes are scaled at most until counts vary as measured.
_RATIOS, _TURNS = (0.1, 4.0), 12
# Spots that tell how large scores are, and how much smaller they may become.
_MANY, _SIZES = 2000, (0.5, 1.0)
_MIN = 1e-12


@dataclass(frozen=True)
class Factors:
    """A model of residuals inside a section.

    Attributes
    ----------
    loadings
        ``(K, G)``, for scores of variance 1.
    specific
        ``(G,)`` sd of each gene beside factors and counting.
    """

    loadings: np.ndarray
    specific: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """``(G,)`` of both together."""
        return np.square(self.loadings).sum(axis=0) + np.square(self.specific)

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {"loadings": self.loadings, "specific": self.specific}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Factors:
        """Rebuild what ``state`` described."""
        return cls(arrays["loadings"], arrays["specific"])


def fit_factors(within: np.ndarray, held_out: np.ndarray, n_factors: int) -> tuple[Factors, np.ndarray, int]:
    """Split out-of-fold residuals into factors and noise.

    Parameters
    ----------
    within
        ``(n, G)`` residuals of log2(1 + count) at the cohort's library size, less the mean of each section.
    held_out
        ``(n, G)``, predicted out of fold.
    n_factors
        K, at most.

    Returns
    -------
    The factors; the scores of the training spots, ``(n, K)`` with variance 1; and how many factors, the leading ones, vary by more than
    unrelated genes do together by chance (Marchenko & Pastur, 1967). Scores of the others are mostly noise.
    """
    spread = within.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    k = max(1, min(n_factors, min(within.shape) // 4))
    n, rank = len(within), min(within.shape)
    scaled = within / spread
    squares, axes = leading(scaled, k)
    scores = scaled @ axes.T / np.sqrt(np.maximum(squares / n, _MIN))
    # Along every axis there is as much noise as along those that are left over (Tipping & Bishop, 1999).
    noise = max(float(np.einsum("ng,ng->", scaled, scaled) - squares.sum()), 0.0) / n / max(rank - k, 1)
    loadings = np.sqrt(np.maximum(squares[:, None] / n - noise, 0)) * axes * spread
    counting = _counting(held_out, scores, loadings)
    rest = within.var(axis=0) - np.square(loadings).sum(axis=0) - counting
    told = int((squares / n > np.square(1 + np.sqrt(within.shape[1] / n))).sum())
    return Factors(loadings, np.sqrt(np.maximum(rest, 0))), scores, max(1, told)


def matched(factors: Factors, held_out: np.ndarray, other: np.ndarray, wanted: np.ndarray) -> Factors:
    """Scale the variances of genes until counts vary as measured.

    Expression does not go below none. Where a normal level would, which is so for lowly expressed genes, part of its variance is lost. And
    what components of expression vary by is that of all genes together: some genes have less of ``other``, some more.

    Parameters
    ----------
    factors
        As found in residuals.
    held_out
        ``(n, G)``, predicted out of fold.
    other, wanted
        ``(G,)`` variance that levels have beside that of factors, and that of residuals, counting included.
    """
    center = held_out[:: -(-len(held_out) // _SOME)]
    own, ratio = np.maximum(factors.variance, _MIN), np.ones(len(wanted))
    for _ in range(_TURNS):  # steadily: what is added to a level adds no more than that to counts
        found = count_moments(center, np.sqrt(other + ratio * own)).variance.mean(axis=0)
        ratio = np.clip(ratio + (wanted - found) / own, *_RATIOS)
    return Factors(factors.loadings * np.sqrt(ratio), factors.specific * np.sqrt(ratio))


def sized(
    scores: np.ndarray, factors: Factors, found: Factors, held_out: np.ndarray, other: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Make scores smaller by as much as scaled loadings overdo it for them.

    Normal scores lose variance where there is little expression, for which loadings are raised. A state of one kind of cells varies little
    where these are few: its scores lose less, and with raised loadings genes would vary together by more than they do.

    Parameters
    ----------
    scores
        ``(n, K)`` of the training spots, of variance 1.
    factors, found
        Scaled, and as found in residuals.
    held_out
        ``(n, G)``, predicted out of fold.
    other
        ``(G,)`` variance that levels have beside that of factors.
    scale
        ``(G,)`` sd of each gene.
    """
    rows = slice(None, None, -(-len(scores) // _MANY))
    some = scores[rows]
    center = latent(held_out[rows], np.sqrt(other + factors.variance))
    sd = np.sqrt(other + np.square(factors.specific))
    # A unit along each factor is what a score of 1 has been found to stand for.
    along = found.loadings / np.square(scale)
    along /= np.maximum((along * found.loadings).sum(axis=1, keepdims=True), _MIN)
    size, without = np.ones(scores.shape[1]), mean_above_zero(center, sd) @ along.T
    for _ in range(_TURNS):
        moved = mean_above_zero(center + (size * some) @ factors.loadings, sd) @ along.T - without
        slope = (some * moved).mean(axis=0) / np.maximum(np.square(some).mean(axis=0), _MIN)
        size = np.clip(size / np.maximum(slope, _MIN), *_SIZES)
    return size * scores


def _counting(held_out: np.ndarray, scores: np.ndarray, loadings: np.ndarray) -> np.ndarray:
    """Return the variance of counting of each gene, on average over spots, ``(G,)``."""
    total = np.zeros(loadings.shape[1])
    for start in range(0, len(held_out), _ROWS):
        rows = slice(start, start + _ROWS)
        total += counting_variance(held_out[rows] + scores[rows] @ loadings).sum(axis=0)
    return total / len(held_out)
