"""Scores of gene sets at single locations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._coexpression import unit_columns
from hisdiff._stats._enrichment import set_means, single_sample_scores

if TYPE_CHECKING:
    from collections.abc import Mapping

SCORES = ("ssgsea", "zscore")


def pathway_scores(values: np.ndarray, sets: Mapping[str, np.ndarray], method: str) -> np.ndarray:
    """Return scores, float32 ``(n, sets)``.

    Parameters
    ----------
    values
        ``(n, G)`` log2(1 + count).
    sets
        Columns of the genes of each set.
    method
        ``"ssgsea"`` or ``"zscore"``.
    """
    member = np.zeros((values.shape[1], len(sets)), dtype=bool)
    for i, genes in enumerate(sets.values()):
        member[genes, i] = True
    if method == "ssgsea":
        return single_sample_scores(values, member)
    return set_means(unit_columns(lambda genes: values[:, genes], *values.shape, ranked=False), member)
