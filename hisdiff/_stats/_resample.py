"""Resampling: intervals of a difference between two methods, the control that ignores the image, counting noise, halves of the molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class BootstrapInterval(NamedTuple):
    """An estimate on the data at hand, with the ends of its percentile interval."""

    estimate: float
    low: float
    high: float


def paired_bootstrap(
    statistic: Callable[[np.ndarray], float],
    n_locations: int,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Return a percentile bootstrap interval over locations.

    Parameters
    ----------
    statistic
        Takes rows, int64 ``(n_locations,)`` with repeats, and gives one number. For the difference between two methods
        it computes both on the *same* rows, which is what makes the comparison paired: how easy a location is cancels.
    n_locations
        Number of rows to draw from.
    n_resamples
        Number of resamples.
    level
        Of the interval.
    seed
        Of the resampling.
    """
    generator = np.random.default_rng(seed)
    rows = generator.integers(n_locations, size=(n_resamples, n_locations))
    values = np.array([statistic(row) for row in rows], dtype=np.float64)
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(float(statistic(np.arange(n_locations))), float(low), float(high))


def block_weights(blocks: np.ndarray, n_resamples: int, seed: int = 0) -> np.ndarray:
    """Return how often each location is in each resample of blocks of neighbors, ``(n_resamples, n)``.

    Neighbors err together, so that resampling single locations gives intervals that are too narrow.

    Parameters
    ----------
    blocks
        ``(n,)`` label of the block of each location; as many blocks as there are are drawn, with replacement.
    """
    names, block = np.unique(blocks, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    return drawn[:, block.ravel()].astype(np.float64)


def random_spots(training: np.ndarray, n_locations: int, n_draws: int, seed: int = 0) -> np.ndarray:
    """Draw measured training spots at random, the image ignored: ``(n_draws, n_locations, G)``.

    These draws have every property of real spots but the right place. A figure that they reach says nothing about skill.

    Parameters
    ----------
    training
        ``(m, G)`` measured values of the training spots.
    n_locations, n_draws
        How many.
    seed
        Of the choice; draw ``j`` does not depend on how many there are.
    """
    if len(training) == 0:
        raise ValueError("There is no training spot to draw from.")
    rows = [np.random.default_rng([seed, draw]).integers(len(training), size=n_locations) for draw in range(n_draws)]
    return training[np.stack(rows)]


def half_molecules(counts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Deal the molecules of every location into two halves; return log2(1 + twice the count) of each, ``(n, G)``.

    Given the rates of a location, the two are independent (Poisson thinning).
    """
    counts = np.rint(counts).astype(np.int64)
    half = np.random.default_rng(seed).binomial(counts, 0.5)
    return np.log2(1 + 2.0 * half), np.log2(1 + 2.0 * (counts - half))


def with_counting_noise(log2_expected: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a Poisson count around each expected count, both as log2(1 + count); draw ``j`` has noise of its own.

    Parameters
    ----------
    log2_expected
        ``(n_draws, n, G)``; NaN and what is below zero count as zero.
    seed
        Of the noise; that of a draw does not depend on how many there are.
    """
    counts = np.exp2(np.maximum(np.nan_to_num(log2_expected), 0, dtype=np.float64)) - 1
    drawn = [np.random.default_rng([seed, j]).poisson(one) for j, one in enumerate(counts)]
    return np.log2(1 + np.stack(drawn))
