"""Ridge regression along a path of penalties, fitted and scored from second moments alone.

Sums over folds add up, so leaving a fold out is a subtraction, and neither fitting nor scoring grows with the number of
spots.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats import _dense as dense

if TYPE_CHECKING:
    from collections.abc import Sequence

# Variance below this part of the raw second moment is rounding.
_FLAT = 1e-10


@dataclass(frozen=True)
class Moments:
    """Sums over a set of spots.

    Attributes
    ----------
    n
        Number of spots, each as much as it weighs.
    x, y
        ``(p,)``, ``(G,)`` weighted sums of features and of targets.
    xx, xy, yy
        ``(p, p)``, ``(p, G)``, ``(G,)`` weighted sums of their products, and of squared targets.
    """

    n: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Moments:
        """Sum over spots with features ``(n, p)``, targets ``(n, G)`` and weights ``(n,)``, in the precision of the features."""
        root = np.sqrt(weights, dtype=features.dtype)
        x, y = root[:, None] * features, root[:, None] * targets
        # A matrix times its own transpose takes half the work of any other product.
        products = dense.product(x.T, x), dense.product(x.T, y)
        return cls(float(weights.sum()), root @ x, root @ y, *products, np.einsum("ng,ng->g", y, y))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(a + b for a, b in zip(astuple(self), astuple(other))))

    def __sub__(self, other: Moments) -> Moments:
        return Moments(*(a - b for a, b in zip(astuple(self), astuple(other))))

    def take(self, columns: np.ndarray) -> Moments:
        """Keep some of the features."""
        return Moments(self.n, self.x[columns], self.y, self.xx[np.ix_(columns, columns)], self.xy[columns], self.yy)

    def centered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return sums of products of deviations from the mean: ``(p, p)``, ``(p, G)``, ``(G,)``; zero for flat targets."""
        return self.xx - np.outer(self.x, self.x) / max(self.n, _FLAT), *self.centered_targets()

    def centered_targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return those of :meth:`centered` with targets in them: ``(p, G)``, ``(G,)``."""
        n = max(self.n, _FLAT)
        yy = self.yy - self.y**2 / n
        return self.xy - np.outer(self.x, self.y) / n, np.where(yy > _FLAT * np.maximum(self.yy, n), yy, 0)


def solve(moments: Moments, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit one ridge: slopes ``(p, G)`` and intercept ``(G,)``.

    The penalty is in units of the mean square length of a centred feature vector, so that it means the same for any
    number of features. The intercept is not penalised.
    """
    xx, xy, _ = moments.centered()
    slopes = dense.solve(xx + alpha * _unit(moments.n, xx) * np.eye(len(xx)), xy)
    return slopes, (moments.y - moments.x @ slopes) / moments.n


def held_out_correlations(training: Moments, held_out: Moments, alphas: Sequence[float]) -> np.ndarray:
    """Return the correlation of each gene on left-out spots for every penalty, ``(len(alphas), G)``.

    Zero where the prediction is flat, NaN where the measurement is.
    """
    xx, xy, _ = training.centered()
    eigenvalues, axes = dense.eigh(xx)
    eigenvalues = np.maximum(eigenvalues, 0)
    unit = _unit(training.n, xx)
    target = axes.T @ xy
    xx, xy, yy = held_out.centered()
    xx, xy = dense.product(dense.product(axes.T, xx), axes), axes.T @ xy
    result = np.empty((len(alphas), len(yy)))
    for row, alpha in zip(result, alphas):
        slopes = target / (eigenvalues + alpha * unit)[:, None]
        common = np.einsum("pg,pg->g", slopes, xy)
        spread = np.einsum("pg,pg->g", slopes, xx @ slopes)
        square = spread * yy
        row[:] = np.where(square > 0, common / np.sqrt(np.where(square > 0, square, 1)), 0)
    result[:, yy == 0] = np.nan
    return result


def _unit(n: float, xx: np.ndarray) -> float:
    length = float(np.trace(xx)) / max(n, _FLAT)
    return length if length > 0 else 1.0
