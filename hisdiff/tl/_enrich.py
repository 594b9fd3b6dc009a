"""Enrichment of gene sets in modules, groups and rankings, and scores of gene sets at every location."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, one_of, positive, seed_of
from hisdiff._docs import documented
from hisdiff._log import announce, logger
from hisdiff._sdata._expression import read_expression, related_layer, table_of
from hisdiff._sdata._genes import gene_names
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff.tl._gene_lists import gene_lists, rankings
from hisdiff.tl._gene_sets import in_panel, read_gene_sets
from hisdiff.tl._pathway_scores import SCORES, pathway_scores
from hisdiff.tl._set_tests import ora, prerank

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._sdata._expression import Expression

METHODS = ("ora", "prerank", *SCORES)
# Seconds on a core for each location and gene that is scored.
_VALUE_S = 1e-7
COLUMNS = ("group", "term", "method", "size", "total", "overlap", "score", "p", "fdr", "genes", "members")


@documented
@checked
def enrich(
    data: SpatialData | AnnData,
    gene_sets: str | Path | Mapping[str, Iterable[str]],
    *,
    layer: str | None | Sequence[str | None] = None,
    by: str | Mapping[str, Sequence[str]] | pd.Series | None = None,
    method: str = "ora",
    normalize: str | None = "library_size",
    background: Sequence[str] | None = None,
    n_markers: int = 50,
    min_size: int = 5,
    max_size: int = 500,
    n_perms: int = 1000,
    table_key: str | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame | None:
    """Test gene sets for over-representation or enrichment in a ranking, or score every location.

    The background is the panel, not the genome. The genes of a panel are highly expressed in one tissue. Against the
    genome, any subset would be enriched in the pathways of that tissue. Genes of a set that were
    not modelled are ignored; the columns ``size`` and ``total`` give the number of genes used and the size of the set.

    Parameters
    ----------
    data
        A SpatialData, or a table of spots or bins.
    gene_sets
        A GMT file; a mapping from name to genes; the name of a library of Enrichr (``"MSigDB_Hallmark_2020"``) or of a file
        of MSigDB (``"h.all.v2024.1.Hs.symbols"``), which is downloaded once. A ``/`` in a name becomes ``|``. Symbols are matched
        with Ensembl ids through a column of ``var`` that has them; names are case-sensitive.
    layer
        Layer, or several draws of a prediction, whose statistics or scores are averaged. None: the first draw of the only
        prediction, which is logged; measured counts in a table without one. ``"X"``: measured counts. See :func:`coexpression`. Use draws rather than their mean, which is a mean of logarithms: scaling it to
        one library size is misleading for rarely detected genes.
    by
        Groups or ranking to test.

        - ``"ora"``: a column of ``var`` with groups of genes (None: the modules of :func:`coexpression`); a column of
          ``obs`` with groups of locations, whose markers are taken; or a mapping from name to genes.
        - ``"prerank"``: a column of ``obs`` (groups: Wilcoxon z of each against the rest; numbers: Spearman's correlation
          with them); a gene (Spearman's correlation with it); ``"pc1"`` (loadings of the first principal component); a
          numeric column of ``var``; or a Series with a number per gene.
        - ``"ssgsea"``, ``"zscore"``: None.
    method
        ``"ora"``: over-representation, hypergeometric. ``"prerank"``: GSEA along a ranking. ``"ssgsea"``: single-sample
        scores, the mean difference between the running shares of genes in and out of the set, -1 to 1. ``"zscore"``: mean
        standard score of the set's genes, for large tables.
    normalize
        ``"library_size"`` scales every location to the same total count over the panel first. It has no effect on
        ``"ssgsea"``, which uses ranks within a location.
    background
        Background genes instead of the panel, for ``"ora"``.
    n_markers
        Maximum number of markers per group of locations, for ``"ora"``: genes that are higher in the group at a false
        discovery rate below 0.05, by Wilcoxon z.
    min_size, max_size
        Minimum and maximum number of genes of a set in the panel; other sets are left out.
    n_perms
        Number of permutations of the genes, for ``"prerank"``.
    %(table_key)s
    key_added
        Stem of the slots; None for ``"hisdiff"``.
    %(inplace)s
    %(rng)s
        It is used by the permutations.

    Returns
    -------
    None, after writing

    - ``uns["hisdiff"]["enrichment"]``: one row per group and set: ``group``, ``term``, ``method``, ``size`` (genes of the
      set in the panel), ``total`` (in the set), ``overlap`` (genes shared; in the leading edge), ``score`` (log2 odds
      ratio with 0.5 added to each cell; normalised enrichment score), ``p`` (over genes, not over locations, so that it
      says nothing of their number), ``fdr`` (Benjamini and Hochberg over all rows),
      ``genes`` (those of ``overlap``), ``members`` (those of ``size``). For single-sample scores ``term``, ``method``,
      ``size``, ``total``, ``members`` only. Beside it ``"enrichment_record"``: method, layers, seed;
    - ``varm["hisdiff_ranking"]`` (``"prerank"``): the statistic, genes x groups, NaN outside the panel;
    - ``obsm["hisdiff_pathways"]`` (``"ssgsea"``, ``"zscore"``): frame, locations x sets; NaN at locations that the layer
      does not cover.

    With ``inplace=False`` the first of these, or for single-sample scores the last.

    Raises
    ------
    FileNotFoundError, ConnectionError
        If there is no such file; if a library cannot be reached.
    KeyError
        If there is no such layer, library, column or gene.
    ValueError
        If a file is not a GMT file or names a set twice, no set has enough genes in the panel (the message says whether the case
        of letters is to blame), no group is left, or a slot holds something that hisdiff did not write. Groups of fewer
        than two locations are left out and logged.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> sets = {"tumour": [f"TUM{i:02d}" for i in range(1, 20)], "immune": [f"IMM{i:02d}" for i in range(1, 15)]}
    >>> hd.tl.enrich(sdata, sets, layer="X", by="pc1", method="prerank")
    >>> sorted(sdata.tables["table"].uns["hisdiff"]["enrichment"]["term"])
    ['immune', 'tumour']
    """
    _check(method, normalize, by, background, n_markers, min_size, max_size, n_perms)
    seed = seed_of(rng)
    stem = checked_name(key_added, _keys.STEM)
    table = table_of(data, table_key, "enrichment", layer)
    if inplace:
        _check_slots(table, stem, method)
    sets = read_gene_sets(gene_sets)
    layers = read_expression(table, related_layer(table, layer, "enrichment"), normalize=normalize, at_least=(1, 2))
    panel = _names(table, layers[0].genes, sets)
    totals = {name: len(genes) for name, genes in sets.items()}

    ranked = scores = None
    if method == "ora":
        lists, universe = gene_lists(table, layers, by, stem, n_markers)
        universe = universe if background is None else _as_background(background, lists)
        names = dict(zip(layers[0].genes, panel))
        universe = np.array([names.get(gene, gene) for gene in universe])
        lists = {group: [names.get(gene, gene) for gene in genes] for group, genes in lists.items()}
        found = in_panel(sets, universe, min_size, max_size)
        frame = ora(lists, universe, found)
    elif method == "prerank":
        ranked = rankings(table, layers, by)
        found = in_panel(sets, panel, min_size, max_size)
        frame = prerank(ranked, panel, found, n_perms, seed)
    else:
        found = in_panel(sets, panel, min_size, max_size)
        n_values = len(layers) * len(layers[0].rows) * len(panel)
        announce(f"scoring {len(found):,} gene sets at {len(layers[0].rows):,} locations", n_values * _VALUE_S)
        each = [pathway_scores(expression.values(), found, method) for expression in layers]
        scores = _over_rows(np.mean(each, axis=0), layers[0], table, list(found))
        members = [";".join(panel[rows]) for rows in found.values()]
        frame = pd.DataFrame({"term": list(found), "size": [len(rows) for rows in found.values()], "members": members})
    frame["method"], frame["total"] = method, [totals[term] for term in frame["term"]]
    frame = frame[[name for name in COLUMNS if name in frame]]
    if not inplace:
        return frame if scores is None else scores
    record = {
        "method": method, "layers": np.array([e.layer for e in layers]), "normalize": normalize or "none", "seed": seed,
        "version": _keys.VERSION,
    }  # fmt: skip
    _write(table, stem, frame, record, ranked, layers[0], scores)
    return None


def _check(
    method: str,
    normalize: str | None,
    by: Any,
    background: Any,
    n_markers: int,
    min_size: int,
    max_size: int,
    n_perms: int,
) -> None:
    one_of(method, METHODS, "method")
    if normalize is not None:
        one_of(normalize, ("library_size",), "normalize")
    for value, name in ((n_markers, "n_markers"), (min_size, "min_size"), (max_size, "max_size"), (n_perms, "n_perms")):
        positive(value, name, integer=True)
    if min_size > max_size:
        raise ValueError(f"min_size={min_size} is above max_size={max_size}.")
    if method in SCORES and by is not None:
        raise ValueError(f"{method!r} scores every location; by={by!r} is for 'ora' and 'prerank'.")
    if method == "prerank" and by is None:
        raise ValueError(
            "'prerank' needs by=: a column of obs or var, a gene, 'pc1', or a Series with a number per gene."
        )
    if background is not None and method != "ora":
        raise ValueError(f"background= is for 'ora'; {method!r} has none but the panel.")


def _names(table: AnnData, genes: np.ndarray, sets: Mapping[str, list[str]]) -> np.ndarray:
    """Return the names of genes as the sets write them."""
    wanted = np.unique([gene for members in sets.values() for gene in members])
    names = dict(zip(table.var_names.astype(str), gene_names(table, like=wanted)))
    return np.array([names[gene] for gene in genes])


def _as_background(background: Sequence[str], lists: Mapping[str, Sequence[str]]) -> np.ndarray:
    universe = np.array(list(dict.fromkeys(background)), dtype=str)
    missing = sorted({gene for genes in lists.values() for gene in genes} - set(universe))
    if missing:
        raise ValueError(f"The background lacks genes that are tested, such as {listing(missing, 4)}.")
    return universe


def _over_rows(scores: np.ndarray, expression: Expression, table: AnnData, terms: list[str]) -> pd.DataFrame:
    values = np.full((table.n_obs, len(terms)), np.nan, dtype=np.float32)
    values[expression.rows] = scores
    if len(expression.rows) < table.n_obs:
        logger.info("%d locations have no expression in the layer, and no score", table.n_obs - len(expression.rows))
    return pd.DataFrame(values, index=table.obs_names, columns=terms)


def _check_slots(table: AnnData, stem: str, method: str) -> None:
    if stem != _keys.STEM:
        check_slots_free(table, "uns", [stem])
    if method in SCORES:
        check_slots_free(table, "obsm", [_keys.pathways(stem)])
    if method == "prerank":
        check_slots_free(table, "varm", [_keys.ranking(stem)])


def _write(
    table: AnnData,
    stem: str,
    frame: pd.DataFrame,
    record: Plain,
    ranked: pd.DataFrame | None,
    expression: Expression,
    scores: pd.DataFrame | None,
) -> None:
    home = table.uns.setdefault(stem, {})
    if stem != _keys.STEM:
        mark_slots(table, "uns", [stem])
    home[_keys.ENRICHMENT], home[_keys.ENRICHMENT_RECORD] = frame.set_index(frame.index.astype(str)), record
    if ranked is not None:
        values = np.full((table.n_vars, ranked.shape[1]), np.nan)
        values[table.var_names.get_indexer(expression.genes)] = ranked
        table.varm[_keys.ranking(stem)] = pd.DataFrame(values, index=table.var_names, columns=ranked.columns)
        mark_slots(table, "varm", [_keys.ranking(stem)])
    if scores is not None:
        table.obsm[_keys.pathways(stem)] = scores
        mark_slots(table, "obsm", [_keys.pathways(stem)])
        logger.info("wrote obsm[%r]: %d locations x %d gene sets", _keys.pathways(stem), *scores.shape)
    else:
        logger.info("enrichment of %s in %d gene sets: %d of %d below a false discovery rate of 0.05",
                    listing(frame["group"].unique(), 6), frame["term"].nunique(), (frame["fdr"] < 0.05).sum(), len(frame))  # fmt: skip
