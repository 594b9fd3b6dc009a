"""A kernel of features, and features whose inner products it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky

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
        return self.of_products(dense.product(a, b.T), np.square(a).sum(axis=1), np.square(b).sum(axis=1))

    def of_products(self, products: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the kernel, in place of inner products ``(n, m)`` of vectors with squared lengths ``(n,)`` and ``(m,)``."""
        if self.gamma is None:
            products *= self.linear
            return products
        height = max(1, _BLOCK_VALUES // max(len(other), 1))
        for start in range(0, len(own), height):
            inner = products[start : start + height]
            near = own[start : start + height, None] + other
            near -= 2 * inner
            np.maximum(near, 0, out=near)
            near *= -self.gamma
            np.exp(near, out=near)
            inner *= self.linear
            inner += near
        return products

    def diagonal(self, a: np.ndarray) -> np.ndarray:
        """Return the kernel of every row of ``(n, p)`` with itself, ``(n,)``."""
        return self.linear * np.square(a).sum(axis=1) + (self.gamma is not None)

    def whitening(self, landmarks: np.ndarray) -> np.ndarray:
        """Return ``(m, q)``: values at landmarks times this are features whose inner products are the kernel (Nystroem).

        With all training spots as landmarks that is exact. Upper triangular where the kernel has a Gaussian part.
        """
        if self.gamma is None:  # of no higher rank than there are features
            values, axes = dense.eigh(self.linear * (landmarks.T @ landmarks))
            keep = values > _FLAT * values[-1]
            return np.sqrt(self.linear) * landmarks @ (axes[:, keep] / values[keep])
        values = self(landmarks, landmarks)
        values.flat[:: len(values) + 1] += _FLAT * values.sum(axis=1).max()
        return dense.upper_inverse(cholesky(values, check_finite=False))

    def whitened(self, values: np.ndarray, whitening: np.ndarray) -> np.ndarray:
        """Return features of places from the kernel ``(n, m)`` between them and the landmarks, whose place they may take."""
        return values @ whitening if self.gamma is None else dense.times_upper(values, whitening)
