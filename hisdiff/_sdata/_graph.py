"""Which locations are neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, diags

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._annotation import attrs_of, region_labels
from hisdiff._stats._spatial import Layout

if TYPE_CHECKING:
    from anndata import AnnData

GRAPH = "spatial_connectivities"
"""Where squidpy keeps its graph of neighbours."""


def spatial_weights(table: AnnData, rows: np.ndarray) -> csr_matrix:
    """Return squidpy's graph among some rows, or that of the 6 nearest where there is none; rows add up to 1."""
    if GRAPH not in table.obsp:
        if _keys.SPATIAL not in table.obsm:
            raise KeyError(
                f"There is neither a graph obsp[{GRAPH!r}] nor obsm[{_keys.SPATIAL!r}] to make one of; "
                f"make it with squidpy.gr.spatial_neighbors_knn(adata)."
            )
        logger.info("the table has no graph of squidpy: neighbours are the 6 nearest locations")
        return nearest(table, rows)
    graph = csr_matrix(table.obsp[GRAPH])[rows][:, rows].astype(np.float64)
    totals = np.asarray(graph.sum(axis=1)).ravel()
    return csr_matrix(diags(np.where(totals > 0, 1 / np.where(totals > 0, totals, 1), 0)) @ graph)


def nearest(table: AnnData, rows: np.ndarray) -> csr_matrix:
    """Return weights of the 6 nearest among some rows; spots of different sections are not neighbours."""
    return layout_of(table, rows).neighbors


def layout_of(table: AnnData, rows: np.ndarray) -> Layout:
    """Return the neighbourhood graph of some rows of a table."""
    section = region_labels(table)[rows] if attrs_of(table) else None
    return Layout.of(np.asarray(table.obsm[_keys.SPATIAL], dtype=float)[rows], section)
