"""Scores of marker genes, and cell types, at the bins of a fine table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._genes import columns_of
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._stats._regions import block_means
from hisdiff.tl._fine_table import grid_of, table_of, values_of, write_obs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData


UNCLASSIFIED = "unclassified"


@documented
@checked
def marker_scores(
    data: SpatialData | AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    layer: str | None = None,
    pool_bins: int = 1,
    table_key: str | None = None,
    key_added: str = _keys.MARKER_SCORES,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Score every bin for lists of marker genes.

    Each gene is scaled to 0..1 over the bins, and the genes of a list are averaged, so that all markers have the same
    weight.

    Parameters
    ----------
    %(fine_data)s
        Any other table works as well, without ``pool_bins``.
    markers
        Genes by the name of the list. Genes that the table lacks are left out and logged.
    %(expression_layer)s
    pool_bins
        Side, in bins, of the blocks that are averaged first.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s

    Returns
    -------
    None, and sets ``tables[table_key].obsm[key_added]`` (DataFrame, a column for each list, 0..1); or the scores.

    Raises
    ------
    KeyError
        If a list has no gene in the table.
    ValueError
        If there is a slot of that name that hisdiff did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.marker_scores(truth, {"tumour": ["TUM01", "TUM02"]})
    >>> list(truth.obsm["hisdiff_marker_scores"])
    ['tumour']
    """
    table = table_of(data, table_key)
    check_slots_free(table, "obsm", [checked_name(key_added, _keys.MARKER_SCORES)])
    positive(pool_bins, "pool_bins", integer=True)
    scores = _scores(table, markers, layer, pool_bins)
    if not inplace:
        return scores
    table.obsm[key_added] = scores
    mark_slots(table, "obsm", [key_added])
    logger.info("wrote obsm[%r]: %d bins x %d scores", key_added, *scores.shape)
    return None


@documented
@checked
def cell_types(
    data: SpatialData | AnnData,
    markers: Mapping[str, Sequence[str]],
    *,
    threshold: float = 0.1,
    layer: str | None = None,
    pool_bins: int = 1,
    table_key: str | None = None,
    key_added: str = _keys.CELL_TYPE,
    inplace: bool = True,
) -> pd.DataFrame | None:
    """Assign every bin the cell type whose markers score highest.

    Parameters
    ----------
    %(fine_data)s
    markers
        Genes by cell type.
    threshold
        Lowest score of a bin that gets a type; the others are ``"unclassified"``.
    layer, pool_bins
        See :func:`marker_scores`.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s

    Returns
    -------
    None, and sets ``tables[table_key].obs[key_added]`` (categories: the types in the order of ``markers``, and
    ``"unclassified"``) and ``obs[f"{key_added}_confidence"]`` (the score, float32); or both as a DataFrame.

    Raises
    ------
    KeyError
        If a type has no gene in the table.
    ValueError
        If ``threshold`` is outside 0..1, a type is called ``"unclassified"``, or a column was not written by hisdiff.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.cell_types(truth, {"tumour": ["TUM01"], "stroma": ["STR01"]})
    >>> sorted(truth.obs["hisdiff_cell_type"].cat.categories)
    ['stroma', 'tumour', 'unclassified']
    """
    table = table_of(data, table_key)
    confidence = f"{checked_name(key_added, _keys.CELL_TYPE)}_confidence"
    check_slots_free(table, "obs", [key_added, confidence])
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a score from 0 to 1, not {threshold!r}.")
    if UNCLASSIFIED in markers:
        raise ValueError(f"A cell type cannot be called {UNCLASSIFIED!r}: that is what bins without one are called.")
    scores = _scores(table, markers, layer, positive(pool_bins, "pool_bins", integer=True))
    best = scores.to_numpy()
    codes: np.ndarray = np.where(best.max(axis=1) >= threshold, best.argmax(axis=1), best.shape[1]).astype(np.int64)
    found = pd.DataFrame(
        {
            key_added: pd.Categorical.from_codes(codes, pd.Index([*markers, UNCLASSIFIED])),
            confidence: best.max(axis=1).astype(np.float32),
        },
        index=table.obs_names,
    )
    if not inplace:
        return found
    write_obs(table, {name: found[name] for name in (key_added, confidence)})
    return None


def _scores(table: AnnData, markers: Mapping[str, Sequence[str]], layer: str | None, pool: int) -> pd.DataFrame:
    """Return the mean of scaled genes for each list."""
    if not markers:
        raise ValueError("markers is empty; give genes by the name of a list, such as {'tumour': ['ERBB2']}.")
    columns = {}
    for name, genes in markers.items():
        if isinstance(genes, str):
            raise TypeError(f"The markers of {name!r} are a sequence of genes, not the string {genes!r}.")
        there = [gene for gene, column in zip(genes, columns_of(table, genes)) if column >= 0]
        if not there:
            raise KeyError(f"None of the markers of {name!r} is in the table: {listing(genes, 6)}.")
        if len(there) < len(genes):
            missing = [gene for gene in genes if gene not in there]
            logger.warning(
                "%s: %d of %d markers are not in the table: %s", name, len(missing), len(genes), listing(missing, 6)
            )
        values = values_of(table, there, layer).astype(np.float64)
        if pool > 1:
            values = block_means(values, grid_of(table, None, None)[1], pool)
        low = np.nanmin(values, axis=0)
        span = np.nanmax(values, axis=0) - low
        columns[name] = ((values - low) / np.where(span > 0, span, 1)).mean(axis=1)
    return pd.DataFrame(columns, index=table.obs_names)
