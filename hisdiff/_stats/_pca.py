"""Principal axes of embeddings."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

# A column whose sd is below this part of its mean varies by rounding alone.
_FLAT = 1e-6


def column_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd of the columns of ``(n, D)``, float64; 1 in place of the sd of a flat column."""
    center, scale = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    scale[scale <= _FLAT * np.maximum(np.abs(center), _FLAT)] = 1
    return center, scale


def principal_axes(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading axes of centred ``(n, D)`` as columns ``(D, k)``, and the sd along them ``(k,)``.

    There are at most ``min(n - 1, D)`` axes, and always one; rows that are all equal have arbitrary axes of sd zero.
    """
    k = max(1, min(k, len(values) - 1, values.shape[1]))
    if not np.ptp(values, axis=0).any():
        return np.eye(values.shape[1], k), np.zeros(k)
    pca = PCA(k, random_state=0).fit(values)
    return pca.components_.T, np.sqrt(pca.explained_variance_)


def right_axes(values: np.ndarray, k: int) -> np.ndarray:
    """Return the leading right singular vectors of ``(n, G)`` as rows, ``(<= k, G)``, from the smaller Gram matrix."""
    n, width = values.shape
    k = max(1, min(k, n, width))
    if width <= n:
        return np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :k].T
    squares, left = np.linalg.eigh(values @ values.T)
    squares, left = squares[::-1][:k], left[:, ::-1][:, :k]
    # What is flat has no direction of its own; it gets none.
    length = np.sqrt(np.where(squares > 1e-12 * max(squares[0], 1e-300), squares, np.inf))
    return (left / length).T @ values
