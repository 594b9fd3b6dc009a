"""Matrices of coexpression from expression that is read in blocks of genes, and their significance by permutation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import false_discovery_control

from hisdiff._cores import cpu_share
from hisdiff._log import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy.sparse import csr_matrix

# Values of a block that is sorted or multiplied at once (64 MB in float32).
_BLOCK_VALUES = 2**24
# A gene whose sd is below this part of its mean (or of 1) is constant: what is left is rounding in float32.
_CONSTANT = 1e-6
# Decimals of log2(1 + count) that ranks look at: equal values differ by rounding after library size is taken out.
_DECIMALS = 4


def unit_columns(read: Callable[[slice], np.ndarray], n_locations: int, n_genes: int, *, ranked: bool) -> np.ndarray:
    """Centre every gene and scale it to length 1, so that a product of two columns is their correlation.

    Parameters
    ----------
    read
        Gives ``(n_locations, width)`` finite values of a block of genes.
    ranked
        Take the ranks of the values first, ties (within 1e-4) at their mean rank.

    Returns
    -------
    float32 ``(n_locations, n_genes)``; constant genes are zero.
    """
    result = np.zeros((n_locations, n_genes), dtype=np.float32)
    workers = min(4, cpu_share())
    width = max(1, min(64, _BLOCK_VALUES // max(n_locations, 1) // workers))

    def fill(genes: slice) -> None:
        values = np.ascontiguousarray(read(genes).T)
        if ranked:
            values = mean_ranks(np.round(values, _DECIMALS))
        values = values.astype(np.float64, copy=False)
        mean = values.mean(axis=1, keepdims=True)
        values = values - mean
        length = np.sqrt(np.einsum("gn,gn->g", values, values))[:, None]
        flat = length <= _CONSTANT * np.maximum(np.abs(mean), 1) * np.sqrt(n_locations)
        result[:, genes] = np.where(flat, 0, values / np.where(flat, 1, length)).T

    blocks = [slice(start, min(start + width, n_genes)) for start in range(0, n_genes, width)]
    # Sorting releases the interpreter's lock.
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, blocks))
    return result


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks within each row of ``(g, n)`` from 0 on, ties at their mean; float32.

    Twice as fast as ``scipy.stats.rankdata``, which sorts stably; equal values get one rank either way.
    """
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    first = np.ones(values.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], values.size)
    # Positions count through all rows; a tie never crosses a row, since every row starts one.
    ranks = np.repeat((starts + ends - 1) / 2 - starts // values.shape[1] * values.shape[1], ends - starts)
    result = np.empty(values.shape, dtype=np.float32)
    np.put_along_axis(result, order, ranks.astype(np.float32).reshape(values.shape), axis=1)
    return result


def correlations(units: np.ndarray) -> np.ndarray:
    """Return ``(G, G)`` products of the columns of ``unit_columns``, float32; rows of constant genes are zero."""
    return np.clip(_products(units, lambda rows: units[rows]), -1, 1)


def lee(units: np.ndarray, weights: csr_matrix) -> np.ndarray:
    """Return Lee's bivariate spatial association L of all pairs of genes, float32 ``(G, G)``.

    L = n / sum_i (sum_j w_ij)^2 * sum_i (sum_j w_ij x_j) (sum_j w_ij y_j) / (|x| |y|), x and y centred (Lee 2001,
    Journal of Geographical Systems 3, 369): the correlation between what the neighbours have of one gene and of another.

    Parameters
    ----------
    units
        Of ``unit_columns``, not ranked.
    weights
        csr ``(n, n)``, rows adding up to 1 (0 for a location without neighbours).
    """
    totals = float((np.asarray(weights.sum(axis=1)).ravel() ** 2).sum())
    if totals == 0:
        return np.zeros((units.shape[1],) * 2, dtype=np.float32)
    scaled = (weights * np.sqrt(len(units) / totals)).astype(np.float32).tocsr()
    return _products(units, lambda rows: scaled[rows] @ units)


def _products(units: np.ndarray, read: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Return the sum over blocks of locations of block' block, ``(G, G)``."""
    n_locations, n_genes = units.shape
    result = np.zeros((n_genes, n_genes), dtype=np.float32)
    height = max(1, _BLOCK_VALUES // max(n_genes, 1))
    for start in range(0, n_locations, height):
        block = read(slice(start, start + height))
        result += block.T @ block
    return result


def permutation_fdr(
    layers: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray],
    observed: np.ndarray,
    n_perms: int,
    seed: int,
) -> np.ndarray:
    """Return false discovery rates of all pairs of genes, float32 ``(G, G)``.

    Every gene is permuted over the locations on its own, in the same way in all layers (draws of one prediction are no
    independent samples). p = (1 + number of permutations with |statistic| not below the observed) / (1 + permutations),
    then Benjamini and Hochberg over the pairs of genes that vary. Pairs with a constant gene and the diagonal are 1.

    Parameters
    ----------
    layers
        ``(n, G)`` of ``unit_columns`` for each layer.
    statistic
        From such an array to ``(G, G)``.
    observed
        Mean of the statistic over the layers.
    """
    n, n_genes = layers[0].shape
    exceed = np.zeros((n_genes, n_genes), dtype=np.int32)
    level = np.abs(observed) * (1 - 1e-6)  # what is equal but for rounding counts
    for i in progress(range(n_perms), desc=f"coexpression of {n_genes} genes", unit="permutations"):
        rows = np.random.default_rng([seed, i]).permuted(np.tile(np.arange(n)[:, None], n_genes), axis=0)
        drawn = sum(statistic(np.take_along_axis(layer, rows, axis=0)) for layer in layers) / len(layers)
        exceed += np.abs(drawn) >= level
    varies = np.flatnonzero(np.diag(observed) > 0)
    result = np.ones((n_genes, n_genes), dtype=np.float32)
    a, b = np.triu_indices(len(varies), k=1)
    a, b = varies[a], varies[b]
    if len(a):
        result[a, b] = result[b, a] = false_discovery_control((1 + exceed[a, b]) / (1 + n_perms))
    return result


def matrix_agreement(true: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Compare two matrices of coexpression over the pairs of genes that vary in the first.

    Returns
    -------
    Pearson's correlation between the off-diagonal entries (NaN with fewer than three pairs, or where one matrix has the
    same value everywhere), and their mean absolute difference.
    """
    varies = np.flatnonzero(np.diag(true) > 0)
    upper = np.triu_indices(len(varies), k=1)
    a, b = (m[np.ix_(varies, varies)][upper].astype(np.float64) for m in (true, other))
    if len(a) == 0:
        return float("nan"), float("nan")
    r = float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else float("nan")
    return r, float(np.abs(a - b).mean())
