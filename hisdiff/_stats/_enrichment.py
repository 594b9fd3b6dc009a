"""What gene-set methods need: statistics to rank genes by, running sums, scores of single locations."""

from __future__ import annotations

import numpy as np


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
