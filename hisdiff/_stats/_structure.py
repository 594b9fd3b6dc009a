"""Structure between genes, and the library size that must be taken out before it means biology."""

from __future__ import annotations

import numpy as np

from hisdiff._stats._accuracy import same_shape, standard_scores


def normalize_library_size(log2_values: np.ndarray, total: float | None = None) -> np.ndarray:
    """Scale every location to the same total count.

    Much of the correlation between genes of spots is library size: a spot with more cells, or read more deeply, has more of
    everything. The values are taken back to counts, scaled, and brought to log2(1 + count) again.

    Parameters
    ----------
    log2_values
        ``(..., n, G)``, log2(1 + count); values below zero count as zero.
    total
        Common total count; None for the median over the locations that have any count.

    Returns
    -------
    float64 of the same shape. Locations without counts stay zero.
    """
    counts = np.exp2(np.maximum(log2_values, 0, dtype=np.float64)) - 1
    totals = counts.sum(axis=-1, keepdims=True)
    there = totals > 0
    if total is None:
        total = float(np.median(totals[there])) if there.any() else 1.0
    counts *= np.where(there, total / np.where(there, totals, 1), 0)
    return np.log2(1 + counts)


def gene_correlations(values: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation between genes over locations, float64 ``(G, G)``; rows of constant genes are zero."""
    scores = standard_scores(values)
    return np.clip(scores.T @ scores, -1, 1)


def coexpression_agreement(measured: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Compare gene-gene correlations, measured against predicted, over all pairs of genes measured as varying.

    A gene that is predicted as constant is correlated with none (0).

    Returns
    -------
    r
        Pearson's correlation between the two sets of off-diagonal entries.
    mae
        Their mean absolute difference.
    """
    same_shape(measured, predicted)
    true = gene_correlations(measured)
    varies = np.flatnonzero(np.diag(true) > 0)
    if len(varies) < 2:
        return float("nan"), float("nan")
    upper = np.triu_indices(len(varies), k=1)
    a = true[np.ix_(varies, varies)][upper]
    b = gene_correlations(predicted[:, varies])[upper]
    scores = standard_scores(np.stack([a, b], axis=1))
    r = float(scores[:, 0] @ scores[:, 1]) if scores.any(axis=0).all() else float("nan")
    return r, float(np.abs(a - b).mean())
