"""Which cell types the clusters of a fine table have more of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import positive, seed_of
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._stats._regions import enrichment_range, log2_odds_ratios
from hisdiff.tl._fine_table import categories_of, grid_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@documented
@checked
def type_enrichment(
    data: SpatialData | AnnData,
    *,
    cluster_key: str = _keys.CLUSTER,
    type_key: str = _keys.CELL_TYPE,
    block_um: float = 100.0,
    n_resamples: int = 200,
    table_key: str | None = None,
    key_added: str = _keys.TYPE_ENRICHMENT,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame | None:
    """Test which cell types are enriched in which cluster.

    Parameters
    ----------
    %(fine_data)s
    cluster_key, type_key
        Categorical columns of ``obs``, such as :func:`cluster_cells` and :func:`cell_types` write.
    block_um
        Side of the blocks of tissue that are resampled, since neighbouring bins are not independent observations.
    n_resamples
        Number of resamples.
    %(fine_table_key)s
    %(key_added)s
    %(inplace)s
    %(rng)s

    Returns
    -------
    None, and sets ``tables[table_key].uns["hisdiff"][key_added]`` (DataFrame: cluster, type, ``share`` of the cluster's bins,
    ``log2_odds_ratio`` of being of the type inside the cluster against outside, its 90 % interval ``low`` to ``high``); or
    the DataFrame.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the table has no grid, a column has a single category, or there is an entry of that name that this function
        did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> truth = hd.datasets.toy(size_um=400).tables["truth"]
    >>> hd.tl.cluster_cells(truth, 3)
    >>> hd.tl.cell_types(truth, {"tumour": ["TUM01"], "stroma": ["STR01"]})
    >>> hd.tl.type_enrichment(truth)
    >>> list(truth.uns["hisdiff"]["type_enrichment"])
    ['cluster', 'type', 'share', 'log2_odds_ratio', 'low', 'high']
    """
    table, ij, side_um = grid_of(data, table_key, None)
    if inplace:
        check_slots_free(table, _keys.STEM, [checked_name(key_added, _keys.TYPE_ENRICHMENT)])
    columns = [categories_of(table, key) for key in (cluster_key, type_key)]
    positive(block_um, "block_um")
    positive(n_resamples, "n_resamples", integer=True)
    (rows, clusters), (cols, types) = columns
    known = (rows >= 0) & (cols >= 0)
    rows, cols, shape = rows[known], cols[known], (len(clusters), len(types))
    counts = np.zeros(shape)
    np.add.at(counts, (rows, cols), 1)
    _, blocks = np.unique(ij[known] // max(1, round(block_um / side_um)), axis=0, return_inverse=True)
    low, high = enrichment_range(rows, cols, blocks.ravel(), shape, n=n_resamples, level=0.9, seed=seed_of(rng))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    result = pd.DataFrame(
        {
            "cluster": np.repeat(clusters, len(types)),
            "type": np.tile(types, len(clusters)),
            "share": share.ravel(),
            "log2_odds_ratio": log2_odds_ratios(counts).ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
        }
    )
    if not inplace:
        return result
    table.uns.setdefault(_keys.STEM, {})[key_added] = result
    mark_slots(table, _keys.STEM, [key_added])
    logger.info("wrote uns['hisdiff'][%r]: %d clusters x %d types", key_added, *shape)
    return None
