"""The noise of counting: moments and quantiles of log2(1 + Poisson), tabulated along its mean."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from scipy.special import gammaln, ndtr

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

_STEP = 1 / 16
_TOP = 14.0
"""Mean log2(1 + count) up to which the noise of counting is tabulated; above 16,000 counts it is below a hundredth."""
_LEVELS = 1024
# Nodes and weights of a quadrature for a standard normal variable, even ones since what is averaged has a bend at zero.
_POINTS = np.linspace(-6, 6, 121)
_WEIGHTS = np.exp(-np.square(_POINTS) / 2)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
# Means and sds at which moments of counts with an uncertain mean are tabulated.
_COARSE, _SD_STEP, _MAX_SD = 1 / 8, 1 / 8, 4.0
# In sds: how far below zero the centre of a level may lie, and how far above it the part below zero is negligible.
_DEEPEST, _CLEAR = -2.5, 4.0
# Nodes that are enough for what has no bend.
_FEW = 9
_MIN_SD = 1e-6
# log2 of counts that are treated as zero.
_FAINT = 1e-6
# Values of a block.
_CACHED = 2**15


def counting_variance(mean: np.ndarray) -> np.ndarray:
    """Return the variance of log2(1 + Poisson) where its mean is ``mean``."""
    grid, _, variance = _poisson_moments()
    return np.interp(np.clip(mean, 0, _TOP), grid, variance)


def _in_cache(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of arrays ``(n, G)``, value by value, work on blocks of rows that stay in a processor's cache."""

    @wraps(function)
    def blocked(*arrays: Any, **how: Any) -> Any:
        first = arrays[0]
        if np.ndim(first) != 2 or np.size(first) <= _CACHED:
            return function(*arrays, **how)
        n, height = len(first), max(1, _CACHED // first.shape[1])
        parts: list[Any] = [
            function(*(a[start : start + height] if np.ndim(a) == 2 and len(a) == n else a for a in arrays), **how)
            for start in range(0, n, height)
        ]
        if isinstance(parts[0], Moments):
            return Moments(*map(np.concatenate, zip(*parts)))
        return np.concatenate(parts)

    return blocked


@_in_cache
def count_mean(mean: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return E log2(1 + Poisson) where rates are ``2 ** shift`` times those at which it is ``mean``."""
    mean = np.maximum(mean, 0)
    if shift == 0:
        return mean
    # Far up, log2(1 + count) follows the logarithm of the rate.
    inside = np.interp(np.minimum(mean, _TOP), _poisson_moments()[0], _means_at(round(float(shift), 6)))
    return inside + np.maximum(mean - _TOP, 0)


@_in_cache
def count_rate(mean: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Return the expected count, ``2 ** shift`` times that at which E log2(1 + Poisson) is ``mean``."""
    inside = _along_grid(np.log2(1 + _poisson_moments()[1]), mean)
    return (np.exp2(inside + np.maximum(mean - _TOP, 0)) - 1) * 2.0**shift


def mean_of_rate(rate: np.ndarray) -> np.ndarray:
    """Return E log2(1 + Poisson) of rates; the inverse of ``count_rate``."""
    grid, rates, _ = _poisson_moments()
    top = rates[-1]
    return np.interp(rate, rates, grid) + np.log2(np.maximum(rate, top) / top)


class Moments(NamedTuple):
    """Mean and variance."""

    mean: np.ndarray
    variance: np.ndarray


@_in_cache
def latent(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return the centre of a normal level of which ``max(level, 0)`` has the given mean.

    Expression does not go below none: where it may vary by more than there is on average, the level lies below its mean.
    """
    mean = np.maximum(mean, 0)
    low = mean < _CLEAR * sd
    result = np.array(mean, dtype=np.result_type(mean, np.float32))
    wide = np.broadcast_to(sd, mean.shape)[low]
    at, of = _rectified()
    result[low] = wide * np.interp(mean[low] / wide, of, at)
    return result


@lru_cache(maxsize=1)
def _rectified() -> tuple[np.ndarray, np.ndarray]:
    """Return centres and the mean of ``max(center + normal, 0)`` for each."""
    center = np.linspace(_DEEPEST, _CLEAR, 400)
    return center, mean_above_zero(center, 1.0)


def mean_above_zero(center: np.ndarray, sd: np.ndarray | float) -> np.ndarray:
    """Return the mean of ``max(level, 0)`` of normal levels; the inverse of ``latent``."""
    sd = np.maximum(sd, _MIN_SD)
    return center * ndtr(center / sd) + sd * np.exp(-np.square(center / sd) / 2) / np.sqrt(2 * np.pi)


@_in_cache
def count_moments(mean: np.ndarray, sd: np.ndarray, shift: float = 0.0) -> Moments:
    """Return the moments of log2(1 + count) where the level of a location is itself uncertain, in closed form.

    Parameters
    ----------
    mean, sd
        ``(n, G)``: log2(1 + count) at the library size of the cohort is expected to be ``max(level, 0)``, of this mean,
        where the level is normal with this standard deviation.
    shift
        log2 of the library size wanted over that of the cohort.

    Returns
    -------
    float32 ``(n, G)`` each; without a shift the mean is the one given.
    """
    means, variances = _moment_tables(round(float(shift), 6))
    above = np.maximum(mean - _TOP, 0)
    place = _Place.of(mean, sd)
    return Moments((place.read(means) + above).astype(np.float32), place.read(variances).astype(np.float32))


@_in_cache
def rate_moments(mean: np.ndarray, sd: np.ndarray, shift: float = 0.0) -> Moments:
    """Return the moments of the expected count, without the noise of counting; arguments as for ``count_moments``."""
    log_mean, log_variance = _rate_tables()
    above = np.maximum(mean - _TOP, 0)
    place = _Place.of(mean, sd)
    rate = np.exp2(place.read(log_mean) + above) - _FAINT
    variance = np.exp2(place.read(log_variance) + 2 * above) - _FAINT
    return Moments(
        (np.maximum(rate, 0) * 2.0**shift).astype(np.float32),
        (np.maximum(variance, 0) * 4.0**shift).astype(np.float32),
    )


@_in_cache
def log_moments(mean: np.ndarray, sd: np.ndarray) -> Moments:
    """Return the moments of log2(1 + x) of log-normal x with this mean and standard deviation, float32."""
    mean = np.maximum(mean, 1e-9)
    spread = np.sqrt(np.log1p(np.square(sd / mean)))
    center = np.log(mean) - np.square(spread) / 2
    first, second = np.zeros((2, *mean.shape), dtype=np.float32)
    points, weights = np.polynomial.hermite_e.hermegauss(_FEW)
    for point, weight in zip(points, weights / weights.sum()):
        value = np.log2(1 + np.exp(center + point * spread))
        first += weight * value
        second += weight * np.square(value)
    return Moments(first, np.maximum(second - np.square(first), 0))


class _Place(NamedTuple):
    """Where means and sds lie in tables: rows, columns and the parts of the next ones."""

    row: np.ndarray
    column: np.ndarray
    along: np.ndarray
    across: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, sd: np.ndarray) -> _Place:
        row = np.clip(mean, 0, _TOP - 1e-6) / _COARSE
        column = np.clip(sd, 0, _MAX_SD - 1e-6) / _SD_STEP
        # In float32 the very top may be rounded up to the end of the table.
        first = np.minimum(row.astype(np.int32), round(_TOP / _COARSE) - 1)
        left = np.minimum(column.astype(np.int32), round(_MAX_SD / _SD_STEP) - 1)
        return cls(first, left, row - first, column - left)

    def read(self, table: np.ndarray) -> np.ndarray:
        flat, width = table.ravel(), table.shape[1]
        at = self.row * width + self.column
        low = flat[at] + self.across * (flat[at + 1] - flat[at])
        high = flat[at + width] + self.across * (flat[at + width + 1] - flat[at + width])
        return low + self.along * (high - low)


def _nodes() -> np.ndarray:
    """Return what levels of the means and sds of the tables are at the nodes of the quadrature, ``(means, sds, nodes)``."""
    means = np.arange(0, _TOP + _COARSE / 2, _COARSE)[:, None]
    sds = np.arange(0, _MAX_SD + _SD_STEP / 2, _SD_STEP)
    center = latent(np.broadcast_to(means, (len(means), len(sds))), sds)
    return np.maximum(center[..., None] + sds[:, None] * _POINTS, 0)


@lru_cache(maxsize=16)
def _moment_tables(shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of log2(1 + count), ``(means, sds)`` each."""
    at = _nodes()
    mean = count_mean(at, shift)
    grid, _, _ = _poisson_moments()
    inside = np.interp(np.clip(at, 0, _TOP), grid, _variances_at(shift))
    total = mean @ _WEIGHTS
    return total, (np.square(mean) + inside) @ _WEIGHTS - np.square(total)


@lru_cache(maxsize=1)
def _rate_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return log2 of mean and variance of the rate, ``(means, sds)`` each."""
    at = _nodes()
    rate = count_rate(at)
    mean = rate @ _WEIGHTS
    variance = np.maximum(np.square(rate) @ _WEIGHTS - np.square(mean), 0)
    return np.log2(mean + _FAINT), np.log2(variance + _FAINT)


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
    return count_at(mean, levels_of(normal), shift)


def levels_of(normal: np.ndarray) -> np.ndarray:
    """Return at which of the tabulated levels standard normal values lie, int16."""
    return np.minimum((ndtr(normal) * _LEVELS).astype(np.int16), _LEVELS - 1)


@_in_cache
def count_at(mean: np.ndarray, level: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """Draw as :func:`count`, with the levels of the normal values."""
    table = _quantiles(round(float(shift), 6)).ravel()
    place = np.clip(mean, 0, _TOP - 1e-6) / _STEP
    at = place.astype(np.int32)
    share = (place - at).astype(np.float32)
    at *= _LEVELS
    at += level
    low = table[at]
    at += _LEVELS
    return low + share * (table[at] - low) + np.maximum(mean - _TOP, 0).astype(np.float32)


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


def _variances_at(shift: float) -> np.ndarray:
    """Return the variance of log2(1 + Poisson) along the grid, rates scaled."""
    mean, square = _moments_of_rate(_poisson_moments()[1] * 2.0**shift)
    return np.maximum(square - mean**2, 0)


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
    """Return an interval outside which the probability is negligible."""
    width = 9 * np.sqrt(rate) + 12
    return max(rate - width, 0.0), rate + width


def _poisson_weights(counts: np.ndarray, rate: float) -> np.ndarray:
    weights = np.exp(counts * np.log(max(rate, 1e-300)) - rate - gammaln(counts + 1))
    return weights / weights.sum()
