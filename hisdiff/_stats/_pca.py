"""Principal axes of embeddings."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import eigsh
from sklearn.decomposition import PCA

from hisdiff._stats import _dense as dense

# A column whose sd is below this part of its mean varies by rounding alone.
_FLAT = 1e-6
# Rows of a symmetric matrix above which a few of its eigenvectors are found one by one.
_LANCZOS = 1500
# Rows that are held in float64 at once: more than a product needs to be fast.
_ROWS = 8192


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
    return leading(values, k)[1]


def leading(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading squared singular values ``(<= k,)`` of ``(n, G)`` and right singular vectors as rows, ``(<= k, G)``.

    They are the eigenvalues and -vectors of the smaller Gram matrix, which is many times faster to take apart. Of two opposite
    directions it is the one whose values add up to more than zero.
    """
    n, width = values.shape
    k = max(1, min(k, n, width))
    if width <= n:
        small = np.zeros((width, width))
        for start in range(0, n, _ROWS):
            block = np.asarray(values[start : start + _ROWS], dtype=np.float64)
            small += dense.product(block.T, block)
    else:
        values = np.asarray(values, dtype=np.float64)
        small = dense.product(values, values.T)
    squares, vectors = _leading_eigen(small, k)
    axes = vectors.T
    if width > n:
        # What is flat has no direction of its own; it gets none.
        length = np.sqrt(np.where(squares > 1e-12 * max(squares[0], 1e-300), squares, np.inf))
        axes = (vectors / length).T @ values
    return squares, axes * np.where(axes.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)


def _leading_eigen(gram: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues, decreasing and none below zero, and their vectors as columns."""
    if len(gram) > _LANCZOS and k < len(gram) // 10:
        squares, vectors = eigsh(gram, k, v0=np.ones(len(gram)))
    else:
        squares, vectors = dense.eigh(gram)
    order = np.argsort(squares)[::-1][:k]
    return np.maximum(squares[order], 0), vectors[:, order]
