"""How much steeper or flatter the leading component of expression is in a section than it is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Variance between sections: least, and what a single section counts for.
_MIN, _LONE = 1e-3, 1e-2


@dataclass(frozen=True)
class Slope:
    """By which part of what is predicted the leading component of a section is steeper, about its mean over the section.

    Attributes
    ----------
    mean, variance
        Expected, and of what is not known; 0 is as steep as predicted.
    """

    mean: float
    variance: float

    def level(self, along: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return what it adds to expression, ``(n, G)``, where the component is predicted to differ from its mean by ``(n,)``."""
        return np.multiply.outer(self.mean * along, direction)

    def level_variance(self, along: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Return the variance of ``level``."""
        return np.multiply.outer(self.variance * np.square(along), np.square(direction))

    def draw(self, rng: np.random.Generator) -> Slope:
        """Return one that is certain."""
        return Slope(self.mean + float(np.sqrt(self.variance) * rng.standard_normal()), 0.0)


def fit_slope(predicted: np.ndarray, left: np.ndarray, section: np.ndarray) -> float:
    """Return the variance of the slope over sections, by regressions of what is left on what was predicted.

    Parameters
    ----------
    predicted, left
        ``(n,)`` leading component as predicted by a fit without the spot's fold, and what that leaves of it.
    section
        ``(n,)``.
    """
    excess, weights = [], []
    for s in np.unique(section):
        x, y = (values[section == s] - values[section == s].mean() for values in (predicted, left))
        if len(x) < 3 or (square := float(x @ x)) <= 0:
            continue
        slope = float(x @ y) / square
        error = float(np.square(y - slope * x).sum()) / (len(x) - 2) / square
        excess.append(slope**2 - error)
        weights.append(1 / (error + _LONE) ** 2)
    if len(excess) < 2:
        return _LONE
    return max(float(np.average(excess, weights=weights)), _MIN)
