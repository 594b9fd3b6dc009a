"""A kernel of features, and features whose inner products it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from hisdiff._stats import _dense as dense

# Directions of the landmarks' kernel below this part of the largest are rounding, and are left out, or shrunk.
_FLAT = 1e-8
# Values that are worked on at once: what fits a processor's cache is not fetched from memory over and over.
_BLOCK_VALUES = 2**16


@dataclass(frozen=True)
class Kernel:
    r"""Sum of a linear and a Gaussian kernel, :math:`k(a, b) = w\, a^\top b + \exp(-g |a - b|^2)`; linear alone without g.

    The linear part goes on where the Gaussian one fades: far from the training tissue, as in another patient.
    """

    linear: float
    gamma: float | None

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the kernel of ``(n, p)`` and ``(m, p)``, float64 ``(n, m)``."""
        values: np.ndarray = dense.product(a, b.T)
        if self.gamma is None:
            values *= self.linear
            return values
        own, other = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
        height = max(1, _BLOCK_VALUES // max(len(b), 1))
        for start in range(0, len(a), height):
            inner = values[start : start + height]
            near = own[start : start + height, None] + other
            near -= 2 * inner
            np.maximum(near, 0, out=near)
            near *= -self.gamma
            np.exp(near, out=near)
            inner *= self.linear
            inner += near
        return values

    def diagonal(self, a: np.ndarray) -> np.ndarray:
        """Return the kernel of every row of ``(n, p)`` with itself, ``(n,)``."""
        return self.linear * np.square(a).sum(axis=1) + (self.gamma is not None)

    def whitening(self, landmarks: np.ndarray) -> np.ndarray:
        """Return ``(m, q)``: values at landmarks times this are features whose inner products are the kernel (Nystroem).

        With all training spots as landmarks that is exact.
        """
        if self.gamma is None:  # of no higher rank than there are features
            values, axes = dense.eigh(self.linear * (landmarks.T @ landmarks))
            keep = values > _FLAT * values[-1]
            return np.sqrt(self.linear) * landmarks @ (axes[:, keep] / values[keep])
        values = self(landmarks, landmarks)
        values.flat[:: len(values) + 1] += _FLAT * values.sum(axis=1).max()
        return solve_triangular(cholesky(values, check_finite=False), np.eye(len(values)), check_finite=False)
