"""Metrics of a prediction, computed together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._accuracy import known_mean, mae, mse, pearson, rvd, top_means
from hisdiff._stats._spatial import moran_mae, ssim
from hisdiff._stats._structure import coexpression_agreement

if TYPE_CHECKING:
    from hisdiff._stats._spatial import Layout


def metrics_of(measured: np.ndarray, predicted: np.ndarray, layout: Layout) -> dict[str, float]:
    """Return ``pcc_10 pcc_50 pcc_200 pcc_all mse mae rvd coexpression_r coexpression_mae moran_mae ssim``.

    Parameters
    ----------
    measured, predicted
        ``(n, G)``, log2(1 + count).
    layout
        Of the locations.
    """
    r, distance = coexpression_agreement(measured, predicted)
    return {
        **top_means(pearson(measured, predicted)),
        "mse": float(mse(measured, predicted).mean()),
        "mae": float(mae(measured, predicted).mean()),
        "rvd": rvd(measured, predicted),
        "coexpression_r": r,
        "coexpression_mae": distance,
        "moran_mae": moran_mae(measured, predicted, layout.neighbors),
        "ssim": known_mean(ssim(measured, predicted, layout.windows)),
    }


def within_groups(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Subtract from each location the mean of its group: ``(n, G)``, the part that differs inside groups ``(n,)``."""
    _, row = np.unique(group, return_inverse=True)
    sums = np.zeros((row.max(initial=-1) + 1, values.shape[1]))
    np.add.at(sums, row, values)
    return values - (sums / np.bincount(row)[:, None])[row]
