"""Whether a section is like the cohort, so that the accuracy on left-out sections applies to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from hisdiff._section import needed
from hisdiff._training._features import Features
from hisdiff._training._folds import tissue_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff._training._spots import TrainingSpots

_BLOCKS = 5
# Sections differ more than blocks of their tissue do, by their stain if nothing else; by so much in those it was tried on.
_BETWEEN = 1.5
# Weight of the blocks, in sections.
_PRIOR_FREEDOM = 4.0
_LEVEL = 0.99
_MIN_WIDTH = 0.05
_PENALTY = 1.0
_MIN = 1e-12


@dataclass(frozen=True)
class Transfer:
    """The predictive variance of a linear model of the training features, and its law over sections that it has not seen.

    Attributes
    ----------
    features
        Of raw and standardized embeddings side by side: the first see another stain or scanner, the second another tissue.
    root
        ``(p, p)``; the variance at features f is the square length of f times this.
    center
        Mean over left-out sections (patients, where there are several) of log of the mean variance over their spots.
    bound
        By how much log of a section's mean variance exceeds ``center`` once in a hundred times.
    """

    features: Features
    root: np.ndarray
    center: float
    bound: float

    def distance(self, values: np.ndarray) -> float:
        """Return how far a section with features ``(n, p)`` is from the cohort; above 1 it is unlike, NaN where it has no place."""
        if not len(values):
            return float("nan")
        return float((_log_mean(values @ self.root) - self.center) / self.bound)

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays, plain = self.features.state()
        return arrays | {"root": self.root}, {"features": plain, "center": self.center, "bound": self.bound}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Transfer:
        """Rebuild what ``state`` described."""
        features = Features.from_state(arrays, settings["features"])
        return cls(features, arrays["root"], settings["center"], settings["bound"])


def fit_transfer(spots: TrainingSpots, features: Features, values: np.ndarray) -> Transfer:
    """Fit on training spots with features ``(n, p)``: each fold is left out once."""
    logs, blocks = [], []
    for fold in np.unique(spots.fold):
        own = spots.fold == fold
        # The mean of all spots is in part that of those left out: seen from there, the others would lie on their other side.
        center = values[~own].mean(axis=0) if (~own).any() else values.mean(axis=0)
        others = values[~own] - center
        away = (values - center) @ _root(others.T @ others)
        logs.append(_log_mean(away[own]))
        blocks.append(_spread_over_blocks(spots, away, own))
    width = _BETWEEN * np.sqrt(np.mean(np.square(blocks)))
    n = len(logs) if len(spots.sections) > 1 else 1
    between = np.var(logs, ddof=1) * (n - 1) if n > 1 else 0.0
    freedom = _PRIOR_FREEDOM + n - 1
    scale = np.sqrt((_PRIOR_FREEDOM * width**2 + between) / freedom * (1 + 1 / n))
    bound = float(student.ppf(_LEVEL, freedom) * max(scale, _MIN_WIDTH))
    # The model of all sections has more tissue than those that left one out: what they span is known better, the rest is not.
    folds = len(logs)
    center = float(np.mean(logs)) - (np.log(folds / (folds - 1)) / 2 if folds > 1 else 0.0)
    return Transfer(features, _root(values.T @ values), center, bound)


def _root(gram: np.ndarray) -> np.ndarray:
    """Return the root of the posterior covariance of a linear model, ``(p, p)``."""
    values, axes = np.linalg.eigh(gram)
    return axes * np.sqrt(_PENALTY / (np.maximum(values, 0) + _PENALTY))


def _log_mean(rooted: np.ndarray) -> float:
    return float(np.log(max(np.square(rooted).sum(axis=1).mean(), _MIN)))


def _spread_over_blocks(spots: TrainingSpots, rooted: np.ndarray, own: np.ndarray) -> float:
    """Return the sd of log of the mean variance over blocks of tissue of left-out sections; NaN-free."""
    apart: list[float] = []
    first = 0
    for section, kept in zip(spots.sections, spots.kept):
        rows = np.arange(first, first + len(kept))
        first += len(kept)
        if not own[rows].any():
            continue
        block = tissue_blocks(needed(section.spots).xy_um[kept], max(2, min(_BLOCKS, len(rows) // 2)))
        logs = np.array([_log_mean(rooted[rows[block == b]]) for b in np.unique(block)])
        apart.extend(logs - logs.mean())
    n = max(len(apart), 2)
    return float(np.sqrt(np.sum(np.square(apart)) / (n - 1)))
