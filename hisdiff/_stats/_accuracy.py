"""How close predicted expression is to measured expression, gene by gene.

Arrays are ``(n, G)``, locations by genes, on one scale (log2(1 + count) unless stated otherwise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Iterator

# Values of a block of genes that is held in float64 at once (128 MB).
_BLOCK_VALUES = 2**24
# A gene whose sd is below this part of its mean (or of 1) is constant: what is left is rounding in float32.
_CONSTANT = 1e-6


def gene_blocks(n_locations: int, n_genes: int) -> Iterator[slice]:
    """Cut genes into blocks that fit into memory in float64."""
    width = max(1, _BLOCK_VALUES // max(n_locations, 1))
    for start in range(0, n_genes, width):
        yield slice(start, min(start + width, n_genes))


def standard_scores(values: np.ndarray) -> np.ndarray:
    """Centre every column and scale it to length 1; a constant column becomes zeros. float64."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return values.copy()
    mean = values.mean(axis=0)
    centered = values - mean
    length = np.sqrt(np.einsum("ng,ng->g", centered, centered))
    flat = length <= _CONSTANT * np.maximum(np.abs(mean), 1) * np.sqrt(len(values))
    centered /= np.where(flat, 1, length)
    centered[:, flat] = 0
    return centered


def pearson(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of every gene, ``(G,)``.

    NaN where the measured gene is constant, since nothing can be said about it; 0 where only the prediction is, since
    it then carries no information (leaving such genes out of a mean would reward predicting constants).
    """
    same_shape(measured, predicted)
    result = np.empty(measured.shape[1])
    for genes in gene_blocks(*measured.shape):
        m, p = standard_scores(measured[:, genes]), standard_scores(predicted[:, genes])
        result[genes] = np.where(m.any(axis=0), np.einsum("ng,ng->g", m, p), np.nan)
    return np.clip(result, -1, 1)


def spearman(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of every gene, ``(G,)``, ties at their mean rank; constants as in ``pearson``."""
    same_shape(measured, predicted)
    result = np.empty(measured.shape[1])
    for genes in gene_blocks(*measured.shape):
        result[genes] = pearson(rankdata(measured[:, genes], axis=0), rankdata(predicted[:, genes], axis=0))
    return result


def mse(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean squared error of every gene, ``(G,)``."""
    same_shape(measured, predicted)
    return _mean_of(measured, predicted, np.square)


def mae(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean absolute error of every gene, ``(G,)``."""
    same_shape(measured, predicted)
    return _mean_of(measured, predicted, np.abs)


def top_means(correlations: np.ndarray, tops: tuple[int, ...] = (10, 50, 200)) -> dict[str, float]:
    """Return the mean correlation over the best ``k`` genes for each ``k``, and over all: ``pcc_10 pcc_50 pcc_200 pcc_all``.

    Genes without a correlation (NaN) are left out. The best genes are chosen by the very metrics that are averaged, so
    only ``pcc_all`` is free of selection. With fewer than ``k`` genes, all are taken.
    """
    ranked = np.sort(correlations[np.isfinite(correlations)])[::-1]
    return {**{f"pcc_{k}": known_mean(ranked[:k]) for k in tops}, "pcc_all": known_mean(ranked)}


def known_mean(values: np.ndarray) -> float:
    """Return the mean of the values that are known (not NaN), NaN where there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def rvd(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Return the relative variance distance, mean over genes of ((var predicted - var measured) / var measured)^2.

    0 for a prediction as variable as the measurement, near 1 for one that is flat; genes measured as constant are left
    out.
    """
    same_shape(measured, predicted)
    varies = standard_scores(measured).any(axis=0)
    if not varies.any():
        return float("nan")
    true = measured[:, varies].var(axis=0, dtype=np.float64)
    return float(np.mean((predicted[:, varies].var(axis=0, dtype=np.float64) / true - 1) ** 2))


def same_shape(measured: np.ndarray, predicted: np.ndarray) -> None:
    """Raise ``ValueError`` unless both arrays are ``(n, G)`` of the same shape."""
    if measured.ndim != 2 or measured.shape != predicted.shape:
        raise ValueError(f"Measured and predicted are (n, G) of one shape, not {measured.shape} and {predicted.shape}.")


def _mean_of(measured: np.ndarray, predicted: np.ndarray, function: np.ufunc) -> np.ndarray:
    result = np.full(measured.shape[1], np.nan)
    if len(measured):
        for genes in gene_blocks(*measured.shape):
            result[genes] = function(np.subtract(measured[:, genes], predicted[:, genes], dtype=np.float64)).mean(
                axis=0
            )
    return result
