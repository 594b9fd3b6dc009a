"""Which spots of a section to measure next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hisdiff._training._spread import Spread

# Spots over which the variance is taken, and those there are to choose from: their covariance is held whole.
_MAX_SPOTS = 3000


def greedy(
    spread: Spread, features: np.ndarray, n: int, measured: np.ndarray | None = None, known: np.ndarray | None = None
) -> np.ndarray:
    """Return rows of ``features`` ``(m, p)``, one after the other the one that makes the mean predictive variance least.

    Directions of expression share the covariance of the relation, so that one variance stands for all; the noise of a spot
    is that of the directions, each as much as it matters.

    Parameters
    ----------
    spread
        Of the cohort.
    features
        Of the spots of a section.
    n
        How many.
    measured
        ``(k, p)`` of spots that are known already, of this section or another; None for none.
    known
        Which of ``features`` are among them, ``(m,)``, and are not chosen; None for none.
    """
    open_rows = np.arange(len(features)) if known is None else np.flatnonzero(~known)
    step = max(1, -(-len(features) // max(_MAX_SPOTS, n)))
    rows = np.arange(len(features))[::step]
    rows = np.union1d(rows, open_rows[:n]) if np.isin(rows, open_rows).sum() < n else rows
    noise = _noise(spread)
    covariance = spread.relation.covariance(features[rows], features[rows])
    if measured is not None:
        between = spread.relation.covariance(features[rows], measured)
        of_measured = spread.relation.covariance(measured, measured) + noise * np.eye(len(measured))
        covariance -= between @ np.linalg.solve(of_measured, between.T)
    chosen: list[int] = []
    taken = ~np.isin(rows, open_rows)
    for _ in range(n):
        gain = np.square(covariance).sum(axis=0) / (np.diag(covariance) + noise)
        gain[taken] = -1
        best = int(np.argmax(gain))
        chosen.append(best)
        taken[best] = True
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / (column[best] + noise)
    return rows[chosen]


def _noise(spread: Spread) -> float:
    """Return the noise variance of one spot's information on the relation, in units in which it has the covariance C."""
    axes = spread.directions / spread.scale
    chance = np.square(spread.factors.loadings / spread.scale @ axes.T).sum(axis=0)
    chance += np.square(spread.factors.specific / spread.scale) @ np.square(axes.T)
    weight = spread.relation.scale
    return float(np.average(chance / np.maximum(weight, 1e-12), weights=weight))
