"""Spatial structure: how like its neighbours a location is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import block_diag, csr_matrix, diags
from scipy.spatial import cKDTree

from hisdiff._stats._accuracy import gene_blocks, known_mean, same_shape, standard_scores

if TYPE_CHECKING:
    from collections.abc import Callable

# Neighbours looked at beyond the k-th, which may lie as far away as it does (8 diagonals and more on a square lattice).
_TIES = 8
# Window of the structural similarity (Wang et al. 2004), in distances between neighbours: sd, and where it ends.
_WINDOW_SD, _WINDOW_END = 1.5, 5.0
# Its constants, as parts of the range of values.
_SSIM_MEAN, _SSIM_SPREAD = 0.01, 0.03


@dataclass(frozen=True)
class Layout:
    """How locations lie to one another; those of different sections are strangers.

    Attributes
    ----------
    xy
        ``(n, 2)``, in any unit.
    section
        ``(n,)`` label of each location's section.
    """

    xy: np.ndarray
    section: np.ndarray

    @classmethod
    def of(cls, xy: np.ndarray, section: np.ndarray | None = None) -> Layout:
        """Return the layout of locations ``(n, 2)``; ``section`` may be None for a single one."""
        return cls(xy, np.zeros(len(xy), dtype=int) if section is None else section)

    @cached_property
    def neighbors(self) -> csr_matrix:
        """Weights of ``knn_weights``, ``(n, n)``."""
        return self._each(knn_weights)

    @cached_property
    def windows(self) -> csr_matrix:
        """Weights of ``similarity_windows``, ``(n, n)``."""
        return self._each(similarity_windows)

    def _each(self, weights: Callable[[np.ndarray], csr_matrix]) -> csr_matrix:
        if not len(self.xy):
            return csr_matrix((0, 0))
        rows = [np.flatnonzero(self.section == name) for name in np.unique(self.section)]
        back = np.argsort(np.concatenate(rows))
        return csr_matrix(block_diag([weights(self.xy[of]) for of in rows], format="csr")[back][:, back])


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
    return known_mean(apart)


def similarity_windows(xy: np.ndarray) -> csr_matrix:
    """Return the Gaussian window around every location, csr ``(n, n)`` with rows that add up to 1.

    Its sd is 1.5 distances between neighbours and it ends at 5, so that on an array it is the usual window of images,
    but for the corners. Where the array ends or lacks spots, the window is made of the spots that are there.
    """
    n = len(xy)
    if n < 2:
        return csr_matrix(np.eye(n))
    tree = cKDTree(xy)
    pitch = max(float(np.median(tree.query(xy, k=2)[0][:, 1])), np.finfo(float).tiny)
    one, other = tree.query_pairs(_WINDOW_END * pitch * (1 + 1e-6), output_type="ndarray").T
    own = np.arange(n)
    rows, columns = np.concatenate([one, other, own]), np.concatenate([other, one, own])
    distance = np.linalg.norm(xy[rows] - xy[columns], axis=1) / pitch
    weights = csr_matrix((np.exp(-0.5 * np.square(distance / _WINDOW_SD)), (rows, columns)), shape=(n, n))
    return csr_matrix(diags(1 / np.asarray(weights.sum(axis=1)).ravel()) @ weights)


def ssim(measured: np.ndarray, predicted: np.ndarray, windows: csr_matrix) -> np.ndarray:
    """Return the structural similarity of the maps of every gene, ``(G,)``; NaN where the measured gene is constant.

    Mean over windows of the product of how alike the two maps are in level, contrast and pattern there (Wang et al.
    2004), 1 for equal maps. The range of values is that of the measured gene.

    Parameters
    ----------
    measured, predicted
        ``(n, G)``.
    windows
        ``(n, n)`` of ``similarity_windows``.
    """
    same_shape(measured, predicted)
    result = np.full(measured.shape[1], np.nan)
    for genes in gene_blocks(*measured.shape):
        m, p = measured[:, genes].astype(np.float64), predicted[:, genes].astype(np.float64)
        span = np.ptp(m, axis=0)
        level, spread = np.square(_SSIM_MEAN * span), np.square(_SSIM_SPREAD * span)
        mean_m, mean_p = windows @ m, windows @ p
        var_m, var_p = (windows @ np.square(x) - np.square(mean) for x, mean in ((m, mean_m), (p, mean_p)))
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = (2 * mean_m * mean_p + level) / (np.square(mean_m) + np.square(mean_p) + level)
            alike *= (2 * (windows @ (m * p) - mean_m * mean_p) + spread) / (var_m + var_p + spread)
        result[genes] = np.where(standard_scores(m).any(axis=0), alike.mean(axis=0), np.nan)
    return result
