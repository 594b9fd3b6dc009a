"""What gene-set methods need: statistics to rank genes by, running sums, scores of single locations."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

_BLOCK = 4096
"""Locations that are ranked at a time, so that the ranks stay in the cache."""


def group_scores(units: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the Wilcoxon rank-sum z of every gene, group against the rest, float64 ``(G, groups)``.

    Parameters
    ----------
    units
        ``(n, G)``: ranks of each gene, centred and scaled to length 1; constant genes zero.
    member
        bool ``(n, groups)``, each group neither empty nor everything.

    Notes
    -----
    Under random assignment the sum of n1 of n values with sum of squares 1 has variance n1 (n - n1) / (n (n - 1)); ties
    are accounted for, since the scaling is by the ranks' own spread.
    """
    n, sizes = len(member), member.sum(axis=0).astype(float)
    sums = units.T.astype(np.float64) @ member
    return sums * np.sqrt(n * (n - 1) / (sizes * (n - sizes)))


def first_component(units: np.ndarray) -> np.ndarray:
    """Return the loadings of the first principal component of standardised genes, ``(G,)``, their mean not negative."""
    n, n_genes = units.shape
    small = units @ units.T if n <= n_genes else units.T @ units
    vector = np.linalg.eigh(small.astype(np.float64))[1][:, -1]
    loading = units.T @ vector if n <= n_genes else vector
    loading = loading / max(float(np.linalg.norm(loading)), 1e-12)
    return loading if loading.mean() >= 0 else -loading


def running_sum(statistic: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the running sum of GSEA along genes that are in the order of their statistic, largest first, ``(G,)``.

    At a gene of the set it rises by the gene's share of the set's absolute statistics, at others it falls by one over
    their number; the value farthest from zero is the enrichment score.
    """
    weight = np.where(member, np.abs(statistic), 0.0)
    total, others = weight.sum(), int((~member).sum())
    up = weight / total if total > 0 else member / max(int(member.sum()), 1)
    return np.cumsum(up - np.where(member, 0, 1 / max(others, 1)))


def set_means(units: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return the mean standard score over the genes of each set, float32 ``(n, sets)``.

    Parameters
    ----------
    units
        ``(n, G)``: genes centred and scaled to length 1, constant ones zero.
    member
        bool ``(G, sets)``, no set empty.
    """
    return units @ (member / member.sum(axis=0)).astype(np.float32) * np.float32(np.sqrt(len(units)))


def single_sample_scores(values: np.ndarray, member: np.ndarray, weight: float = 0.25) -> np.ndarray:
    """Return the ssGSEA score of every location and set, float32 ``(n, sets)``, from -1 to 1.

    Parameters
    ----------
    values
        ``(n, G)``, on any scale: only the order of a location's genes counts.
    member
        bool ``(G, sets)``, no set empty.
    weight
        Power to which ranks are raised.

    Notes
    -----
    The score is the sum over positions of the difference between two running shares, that of the set's weighted ranks
    and that of the other genes (Barbie et al., *Nature* 2009), over the number of genes. A gene enters the sum once for
    every position from its own to the last, which is its rank counted from the lowest gene; so both sums are products
    with ``member`` and no running sum is needed. Tied genes share their mean rank: the order of columns decides nothing.
    A set of all genes scores 0.
    """
    n_genes = len(member)
    inside = member.astype(np.float64)
    n_outside = n_genes - inside.sum(axis=0)
    scores = np.empty((len(values), member.shape[1]), dtype=np.float32)
    for start in range(0, len(values), _BLOCK):
        ranks = rankdata(values[start : start + _BLOCK], axis=1)
        weights = ranks**weight
        own = (weights * ranks) @ inside / (weights @ inside)
        others = (n_genes * (n_genes + 1) / 2 - ranks @ inside) / np.maximum(n_outside, 1)
        scores[start : start + _BLOCK] = np.where(n_outside > 0, own - others, 0) / n_genes
    return scores
