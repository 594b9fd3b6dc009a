"""How genes differ between two groups of locations that share measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK_VALUES = 2**24
# Added to mean counts in a ratio, as a part of the mean over genes: a gene that is absent from one side gets a finite ratio.
_MIN_PART = 0.01


def contrast(
    read: Callable[[slice], np.ndarray], n_genes: int, unit: np.ndarray, first: np.ndarray
) -> tuple[pd.DataFrame, tuple[int, int]]:
    """Compare two groups of locations, with units of replication that are larger than a location.

    Bins of a fine map are not independent observations: many lie under one spot and were made of its counts. A unit
    (a spot, a block of tissue) belongs to the group that most of its locations are in, has the mean of those as its
    value, and counts once.

    Parameters
    ----------
    read
        Gives log2(1 + count) of a block of genes, ``(n, width)``.
    n_genes
        How many genes there are.
    unit
        ``(n,)`` whole numbers.
    first
        ``(n,)`` bool, in the first group or in the second.

    Returns
    -------
    A frame with a row per gene, effect sizes first: ``log2_fold_change`` of mean counts, ``auc`` (the probability that a
    unit of the first group is above one of the second), ``mean_first`` and ``mean_second`` counts; then ``p``
    (Mann-Whitney) and ``fdr`` (Benjamini-Hochberg); and the number of units of both groups.
    """
    names, index = np.unique(unit, return_inverse=True)
    share = np.bincount(index, weights=first, minlength=len(names)) / np.bincount(index, minlength=len(names))
    of_first = share > 0.5
    used = np.flatnonzero(first == of_first[index])
    count = np.bincount(index[used], minlength=len(names))
    average = sparse.csr_matrix(
        (1 / count[index[used]], (index[used], used)), shape=(len(names), len(unit)), dtype=np.float64
    )
    n = int(of_first.sum()), int((~of_first).sum())
    columns: dict[str, list[np.ndarray]] = {"auc": [], "mean_first": [], "mean_second": [], "p": []}
    width = max(1, _BLOCK_VALUES // max(len(unit), 1))
    for start in range(0, n_genes, width):
        values = np.asarray(read(slice(start, min(start + width, n_genes))), dtype=np.float64)
        means = average @ values
        counts = np.exp2(values) - 1
        columns["mean_first"].append(counts[first].mean(axis=0))
        columns["mean_second"].append(counts[~first].mean(axis=0))
        auc, p = _rank_test(means[of_first], means[~of_first])
        columns["auc"].append(auc)
        columns["p"].append(p)
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    least = _MIN_PART * float(np.mean(table["mean_first"] + table["mean_second"])) / 2 or 1.0
    fold = np.log2((table["mean_first"] + least) / (table["mean_second"] + least))
    tested = np.isfinite(table["p"])
    fdr = np.full(n_genes, np.nan)
    if tested.any():
        fdr[tested] = false_discovery_control(table["p"][tested])
    return pd.DataFrame({"log2_fold_change": fold, **table, "fdr": fdr}), n


def _rank_test(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUC and p of every gene, NaN where a group has fewer than two units."""
    n_genes = first.shape[1]
    if min(len(first), len(second)) < 2:
        return np.full(n_genes, np.nan), np.full(n_genes, np.nan)
    varies = np.ptp(np.concatenate([first, second]), axis=0) > 0
    auc, p = np.full(n_genes, 0.5), np.ones(n_genes)
    if varies.any():
        result = mannwhitneyu(first[:, varies], second[:, varies], axis=0)
        auc[varies], p[varies] = result.statistic / (len(first) * len(second)), result.pvalue
    return auc, p
