"""Spatial structure: how like its neighbours a location is."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from hisdiff._stats._accuracy import gene_blocks, same_shape, standard_scores

# Neighbours looked at beyond the k-th, which may lie as far away as it does (8 diagonals and more on a square lattice).
_TIES = 8


def knn_weights(xy: np.ndarray, k: int = 6) -> csr_matrix:
    """Return row-normalised weights of the ``k`` nearest neighbours, csr ``(n, n)`` with an empty diagonal.

    Neighbours as far away as the k-th belong as well, so that on a lattice the order of the rows decides nothing.
    """
    n = len(xy)
    use = min(k, n - 1)
    if use < 1:
        return csr_matrix((n, n))
    look = min(use + _TIES + 1, n)
    distance, index = cKDTree(xy).query(xy, k=look)
    distance[index == np.arange(n)[:, None]] = np.inf  # the location itself, which duplicates can push from first place
    limit = np.sort(distance, axis=1)[:, use - 1 : use]
    near = distance <= limit * (1 + 1e-6)
    weights = (near / near.sum(axis=1, keepdims=True))[near]
    pointers = np.concatenate([[0], np.cumsum(near.sum(axis=1))])
    return csr_matrix((weights, index[near], pointers), shape=(n, n))


def moran(values: np.ndarray, weights: csr_matrix) -> np.ndarray:
    """Return Moran's I of every gene, ``(G,)``; NaN for constant genes.

    Parameters
    ----------
    values
        ``(n, G)``.
    weights
        ``(n, n)``, such as ``knn_weights``.
    """
    result = np.full(values.shape[1], np.nan)
    total = weights.sum()
    if total == 0:
        return result
    for genes in gene_blocks(*values.shape):
        scores = standard_scores(values[:, genes])
        raw = len(values) / total * np.einsum("ng,ng->g", scores, weights @ scores)
        result[genes] = np.where(scores.any(axis=0), raw, np.nan)
    return result


def moran_mae(measured: np.ndarray, predicted: np.ndarray, weights: csr_matrix) -> float:
    """Return the mean over genes of |Moran's I predicted - measured|; genes constant in either are left out."""
    same_shape(measured, predicted)
    apart = np.abs(moran(measured, weights) - moran(predicted, weights))
    return float(apart[np.isfinite(apart)].mean()) if np.isfinite(apart).any() else float("nan")
