"""Scores of gene sets at single locations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff._stats._coexpression import unit_columns
from hisdiff._stats._enrichment import set_means

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
    return _ssgsea(values, sets) if method == "ssgsea" else _zscore(values, sets)


def _zscore(values: np.ndarray, sets: Mapping[str, np.ndarray]) -> np.ndarray:
    member = np.zeros((values.shape[1], len(sets)), dtype=bool)
    for i, genes in enumerate(sets.values()):
        member[genes, i] = True
    return set_means(unit_columns(lambda genes: values[:, genes], *values.shape, ranked=False), member)


def _ssgsea(values: np.ndarray, sets: Mapping[str, np.ndarray]) -> np.ndarray:
    import gseapy

    # Plain names, so that neither odd names of genes nor repeated ones of locations matter.
    genes = np.array([f"g{i}" for i in range(values.shape[1])])
    frame = pd.DataFrame(np.asarray(values, dtype=float).T, index=genes, columns=[f"s{i}" for i in range(len(values))])
    named = {f"t{i}": genes[columns].tolist() for i, columns in enumerate(sets.values())}
    result = gseapy.ssgsea(
        frame,
        named,
        outdir=None,
        min_size=1,
        max_size=values.shape[1],
        threads=min(4, os.cpu_count() or 1),
        no_plot=True,
    ).res2d
    scores = np.zeros((len(values), len(sets)), dtype=np.float32)
    scores[result["Name"].str[1:].astype(int), result["Term"].str[1:].astype(int)] = result["ES"].astype(float)
    return scores / values.shape[1]
