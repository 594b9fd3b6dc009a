r"""What is left of expression once its mean is known: common factors, gene-specific spread, and the noise of counting.

For a spot with conditional mean :math:`m`,

.. math:: \mu = m + b + z L + \tau \odot \epsilon, \qquad
          y_g \sim \mathrm{Poisson}(\lambda(\mu_g)), \qquad x = \log_2(1 + y),

with scores :math:`z` of K factors (what the flow draws), loadings :math:`L`, a section's common offset :math:`b`,
gene-specific sd :math:`\tau`, and :math:`\lambda(\mu)` the rate for which :math:`E \log_2(1 + y) = \mu`. On the sections
this was made for, counting explains nine tenths of what some ten factors leave, so noise is not a thing to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln, ndtr

if TYPE_CHECKING:
    from collections.abc import Mapping

_STEP = 1 / 16
_TOP = 14.0
"""Mean log2(1 + count) up to which the noise of counting is tabulated; above 16,000 counts it is below a hundredth."""
_LEVELS = 1024
# Nodes and weights of Gauss-Hermite quadrature for a standard normal variable.
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Factors:
    """A model of residuals.

    Attributes
    ----------
    loadings
        ``(K, G)``, for scores of variance 1.
    specific
        ``(G,)`` sd of each gene beside factors and counting.
    offsets
        ``(S, G)`` mean residual of each training section, summing to zero.
    """

    loadings: np.ndarray
    specific: np.ndarray
    offsets: np.ndarray

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {"factors/loadings": self.loadings, "factors/specific": self.specific, "factors/offsets": self.offsets}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Factors:
        """Rebuild what ``state`` described."""
        return cls(arrays["factors/loadings"], arrays["factors/specific"], arrays["factors/offsets"])

    def offset(self, normal: np.ndarray) -> np.ndarray:
        """Return the common offset of a section for standard normal ``(S,)``: of the spread among training sections."""
        return normal @ self.offsets / np.sqrt(max(len(self.offsets) - 1, 1))


def fit_factors(
    targets: np.ndarray, held_out: np.ndarray, section: np.ndarray, n_factors: int
) -> tuple[Factors, np.ndarray]:
    """Split out-of-fold residuals into factors and noise.

    Parameters
    ----------
    targets, held_out
        ``(n, G)``, log2(1 + count) at the cohort's library size, measured and predicted out of fold.
    section
        ``(n,)`` section of each spot, numbered from zero.
    n_factors
        K, at most.

    Returns
    -------
    The factors, and the scores of the training spots, ``(n, K)`` with variance 1.
    """
    residuals = targets - held_out
    n_sections = int(section.max()) + 1
    means = np.stack([residuals[section == s].mean(axis=0) for s in range(n_sections)])
    within = residuals - means[section]
    spread = within.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    k = max(1, min(n_factors, min(within.shape) // 4))
    u, s, axes = np.linalg.svd(within / spread, full_matrices=False)
    scores = u[:, :k] * np.sqrt(len(u))
    loadings = (s[:k, None] / np.sqrt(len(u))) * axes[:k] * spread
    rest = within - scores @ loadings
    # K scores per spot were fitted to the spot itself.
    variance = np.square(rest).mean(axis=0) * len(rest) / max(len(rest) - k, 1)
    counting = counting_variance(held_out + scores @ loadings).mean(axis=0)
    specific = np.sqrt(np.maximum(variance - counting, 0))
    return Factors(loadings, specific, means - means.mean(axis=0)), scores


# Counting noise


def counting_variance(mean: np.ndarray) -> np.ndarray:
    """Return the variance of log2(1 + Poisson) where its mean is ``mean``."""
    grid, _, variance = _poisson_moments()
    return np.interp(np.clip(mean, 0, _TOP), grid, variance)


def count_mean(mean: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return E log2(1 + Poisson) where rates are ``2 ** shift`` times those at which it is ``mean``."""
    mean = np.maximum(mean, 0)
    if shift == 0:
        return mean
    # Far up, log2(1 + count) follows the logarithm of the rate.
    inside = np.interp(np.minimum(mean, _TOP), _poisson_moments()[0], _means_at(round(float(shift), 6)))
    return inside + np.maximum(mean - _TOP, 0)


def count_rate(mean: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return the expected count, ``2 ** shift`` times that at which E log2(1 + Poisson) is ``mean``."""
    inside = _along_grid(np.log2(1 + _poisson_moments()[1]), mean)
    return (np.exp2(inside + np.maximum(mean - _TOP, 0)) - 1) * 2.0**shift


def expected_rate(mean: np.ndarray, sd: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return E ``count_rate(mean + sd * normal, shift)`` for means ``(n, G)`` and sds ``(G,)``."""
    levels = np.arange(0, _TOP + _STEP / 2, _STEP)
    table = sum(w * count_rate(levels[:, None] + p * sd) for p, w in zip(_POINTS, _WEIGHTS))
    inside = _along_grid(np.log2(1 + table), mean)
    return (np.exp2(inside + np.maximum(mean - _TOP, 0)) - 1) * 2.0**shift


def _along_grid(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Interpolate what is tabulated at means of the grid, ``(m,)`` or ``(m, G)``, at means ``(..., G)``."""
    place = np.clip(mean, 0, _TOP - 1e-6) / _STEP
    row = place.astype(np.int64)
    columns = () if values.ndim == 1 else (np.arange(values.shape[1]),)
    low, high = values[(row, *columns)], values[(row + 1, *columns)]
    return low + (place - row) * (high - low)


def count(mean: np.ndarray, normal: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Draw log2(1 + count) by inverting the Poisson distribution at standard normal values.

    Parameters
    ----------
    mean
        ``(n, G)``, E log2(1 + count) at the library size of the cohort.
    normal
        ``(n, G)``.
    shift
        log2 of the library size wanted over that of the cohort.

    Notes
    -----
    Quantiles are tabulated at 1,024 levels and 1/16 of log2, and interpolated along the mean.
    """
    table = _quantiles(round(float(shift), 6))
    level = np.minimum((ndtr(normal) * _LEVELS).astype(np.int64), _LEVELS - 1)
    place = np.clip(mean, 0, _TOP - 1e-6) / _STEP
    row = place.astype(np.int64)
    share = (place - row).astype(np.float32)
    low, high = table[row, level], table[row + 1, level]
    return low + share * (high - low) + np.maximum(mean - _TOP, 0).astype(np.float32)


@lru_cache(maxsize=1)
def _poisson_moments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a grid of means of log2(1 + count), and rate and variance there."""
    rates = np.concatenate([[0.0], np.geomspace(1e-4, 2.0 ** (_TOP + 0.5), 1500)])
    mean, square = _moments_of_rate(rates)
    grid = np.arange(0, _TOP + _STEP / 2, _STEP)
    return grid, np.interp(grid, mean, rates), np.interp(grid, mean, np.maximum(square - mean**2, 0))


@lru_cache(maxsize=64)
def _means_at(shift: float) -> np.ndarray:
    """Return E log2(1 + Poisson) along the grid, rates scaled."""
    return _moments_of_rate(_poisson_moments()[1] * 2.0**shift)[0]


def _moments_of_rate(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return E and E of the square of log2(1 + Poisson(rate))."""
    mean, square = np.empty_like(rates), np.empty_like(rates)
    for i, rate in enumerate(rates):
        # Sums over many counts need no more than some hundred nodes.
        counts = np.unique(np.round(np.linspace(*_support(rate), 600)))
        weight, value = _poisson_weights(counts, rate), np.log2(1 + counts)
        mean[i], square[i] = weight @ value, weight @ value**2
    return mean, square


@lru_cache(maxsize=8)
def _quantiles(shift: float) -> np.ndarray:
    """Return log2(1 + count) at each mean of the grid and each level, float32."""
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    rates = _poisson_moments()[1] * 2.0**shift
    table = np.empty((len(rates), _LEVELS), dtype=np.float32)
    for row, rate in zip(table, rates):
        low, high = _support(rate)
        counts = np.arange(np.floor(low), np.ceil(high) + 1)
        below = np.cumsum(_poisson_weights(counts, rate))
        row[:] = np.log2(1 + counts[np.searchsorted(below, levels).clip(max=len(counts) - 1)])
    return table


def _support(rate: float) -> tuple[float, float]:
    """Return an interval outside which there is nothing to speak of."""
    width = 9 * np.sqrt(rate) + 12
    return max(rate - width, 0.0), rate + width


def _poisson_weights(counts: np.ndarray, rate: float) -> np.ndarray:
    weights = np.exp(counts * np.log(max(rate, 1e-300)) - rate - gammaln(counts + 1))
    return weights / weights.sum()
