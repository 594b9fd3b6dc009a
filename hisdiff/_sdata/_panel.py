"""A table of the panel's genes on the spots of another table, for results that are not to fill all of its genes."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import anndata as ad
from scipy import sparse

from hisdiff import _keys
from hisdiff._sdata._lazy import in_memory
from hisdiff._sdata._provenance import check_free, mark_panel_of, panel_of

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from hisdiff._json import Plain
    from hisdiff._sdata._locate import Place

# Records of what belongs to slots that a panel table does not take over.
_NOT_TAKEN = (_keys.PREDICTIONS, _keys.COEXPRESSION, _keys.ENRICHMENT, _keys.ENRICHMENT_RECORD)


def check_panel_free(place: Place, key: str) -> None:
    """Raise where the name of a panel table is taken by anything but a panel table of the same spots."""
    sdata = place.sdata
    check_free(sdata, key)
    if key not in sdata:
        return
    other = panel_of(sdata.tables[key]) if key in sdata.tables else None
    if other != _source(place):
        owner = "another result of hisdiff" if other is None else f"the panel table of {other!r}"
        raise ValueError(f"{key!r} is {owner}, which is left alone. Choose another name with key_added=.")


def panel_table(place: Place, layer: str | None, columns: np.ndarray) -> AnnData:
    """Return some genes of a table of spots: ``X`` the counts of ``layer``; obs, obsm, obsp and uns as they are there.

    Parameters
    ----------
    columns
        Of the genes, in the order in which they are taken.
    """
    source = place.table
    assert source is not None
    uns: Plain = dict(source.uns)
    uns[_keys.STEM] = {k: deepcopy(v) for k, v in uns.get(_keys.STEM, {}).items() if k not in _NOT_TAKEN}
    arrays: Plain = {slot: dict(getattr(source, slot)) for slot in ("obsm", "obsp")}
    counts = source.X if layer is None else source.layers[layer]
    table = ad.AnnData(
        _columns_of(counts, columns), obs=source.obs.copy(), var=source.var.iloc[columns].copy(), uns=uns, **arrays
    )
    mark_panel_of(table, _source(place))
    return table


def _source(place: Place) -> str:
    """Return the name of the table of all genes."""
    table, key = place.table, place.table_key
    assert table is not None
    assert key is not None
    return panel_of(table) or key


def _columns_of(matrix: Any, columns: np.ndarray) -> Any:
    """Return columns of a matrix, which may lie in a file."""
    if matrix is None:
        return None
    values = matrix[:, columns] if not hasattr(matrix, "to_memory") else matrix.to_memory()[:, columns]
    values = in_memory(values, "The matrix of a table")
    return sparse.csr_matrix(values) if sparse.issparse(values) else values
