"""Tests of gene sets by gseapy, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from hisdiff._cores import cpu_share
from hisdiff._log import libraries_silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def ora(lists: Mapping[str, Sequence[str]], universe: np.ndarray, sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a row per list of genes and set: over-representation against the universe.

    Parameters
    ----------
    lists
        Names of genes by group.
    universe
        Names of the background.
    sets
        Positions in ``universe`` of the genes of each set.
    """
    import gseapy

    rows = []
    named = {str(i): universe[genes].tolist() for i, genes in enumerate(sets.values())}
    for group, genes in lists.items():
        with libraries_silent():  # that no set shares a gene is a result, and gseapy calls it an error
            result = gseapy.enrich(
                gene_list=list(genes), gene_sets=named, background=universe.tolist(), outdir=None
            ).results
        # gseapy drops sets that share no gene, which would make the correction for many tests too lenient.
        hits = {} if isinstance(result, list) else result.set_index("Term").to_dict("index")
        for i, (term, members) in enumerate(sets.items()):
            hit = hits.get(str(i), {"P-value": 1.0, "Odds Ratio": _no_overlap(len(members), len(genes), len(universe)), "Genes": ""})  # fmt: skip
            shared = sorted(hit["Genes"].split(";")) if hit["Genes"] else []
            rows.append((group, term, len(members), len(shared), float(np.log2(hit["Odds Ratio"])), hit["P-value"],
                         ";".join(shared), ";".join(universe[members])))  # fmt: skip
    return _tidy(rows)


def _no_overlap(size: int, n_genes: int, n_universe: int) -> float:
    """Return the odds ratio of no shared gene, with 0.5 in place of zero as gseapy has it."""
    return 0.5 * (n_universe - size - n_genes + 0.5) / ((size + 0.5) * (n_genes + 0.5))


def prerank(
    ranked: pd.DataFrame, panel: np.ndarray, sets: Mapping[str, np.ndarray], n_perms: int, seed: int
) -> pd.DataFrame:
    """Return a row per ranking and set: GSEA along the ranking.

    Parameters
    ----------
    ranked
        Panel x groups, NaN for genes that take no part.
    panel
        Names of the genes.
    sets
        Positions in ``panel`` of the genes of each set.
    """
    import gseapy

    rows = []
    for group in ranked:
        # Genes without a statistic (constant, or the one that others are correlated with) take no part.
        there = np.flatnonzero(np.isfinite(ranked[group]))
        statistic = pd.Series(ranked[group].to_numpy()[there], index=_plain(there)).sort_values(ascending=False, kind="stable")  # fmt: skip
        named = {term: np.intersect1d(genes, there) for term, genes in sets.items()}
        named = {term: genes for term, genes in named.items() if 0 < len(genes) < len(there)}
        given = {str(i): _plain(genes) for i, genes in enumerate(named.values())}
        with libraries_silent():
            found = gseapy.prerank(rnk=statistic, gene_sets=given, min_size=1, max_size=len(panel), permutation_num=n_perms,
                                   threads=min(4, cpu_share()), seed=seed % 2**31, outdir=None).results  # fmt: skip
        for i, (term, genes) in enumerate(named.items()):
            hit = found[str(i)]
            # No permutation with an enrichment of this sign: nothing to normalise by.
            score, p = (hit["nes"], hit["pval"]) if np.isfinite(hit["nes"]) else (0.0, 1.0)
            edge = [panel[int(gene[1:])] for gene in str(hit["lead_genes"]).split(";") if gene]
            rows.append((group, term, len(genes), len(edge), float(score), max(float(p), 1 / (n_perms + 1)), ";".join(edge),
                         ";".join(panel[genes])))  # fmt: skip
    return _tidy(rows)


def _plain(genes: np.ndarray) -> list[str]:
    """Return names that gseapy does not change, for any gene names."""
    return [f"g{gene}" for gene in genes]


def _tidy(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["group", "term", "size", "overlap", "score", "p", "genes", "members"])
    frame["group"] = frame["group"].astype(str)
    frame["fdr"] = false_discovery_control(frame["p"]) if len(frame) else []
    order = {group: i for i, group in enumerate(dict.fromkeys(frame["group"]))}
    return frame.sort_values(["group", "p", "term"], key=lambda c: c.map(order) if c.name == "group" else c, ignore_index=True)  # fmt: skip
