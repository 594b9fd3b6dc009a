"""A copy of an object that takes what is written, so that the object itself stays as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData

from hisdiff import _keys
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._read import Bound, by_object

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def stand_in(sdata: SpatialData) -> SpatialData:
    """Return an object with the same elements, in memory shared with the first; what is added is its own."""
    elements: dict[str, Any] = {kind: dict(getattr(sdata, kind)) for kind in ("images", "labels", "points", "shapes")}
    return SpatialData(
        **elements,
        tables={key: _shared(table) for key, table in sdata.tables.items()},
        attrs=deepcopy(sdata.attrs),
    )


def beside(bounds: Sequence[Bound]) -> list[Bound]:
    """Return sections of stand-ins of their objects: what is written goes there, and nothing is looked up again."""
    return [
        Bound(bound.section, bound.place.within(elements))
        for group in by_object(bounds)
        for elements in [group[0].place.elements.onto(stand_in(group[0].place.sdata))]
        for bound in group
    ]


def without_counts(sdata: SpatialData, table_key: str) -> SpatialData:
    """Return a stand-in whose table has no count and no layer: what was measured cannot be looked at."""
    blind = stand_in(sdata)
    table = blind.tables[table_key]
    table.X = sparse.csr_matrix(table.shape, dtype=np.float32)
    for name in layer_names(table):
        del table.layers[name]
    return blind


def _shared(table: AnnData) -> AnnData:
    """Return a table with slots of its own that hold the same arrays."""
    records = {_keys.STEM: deepcopy(table.uns[_keys.STEM])} if _keys.STEM in table.uns else {}
    arrays: dict[str, Any] = {slot: dict(getattr(table, slot)) for slot in ("layers", "obsm", "varm", "obsp", "varp")}
    return AnnData(table.X, obs=table.obs.copy(), var=table.var.copy(), uns={**table.uns, **records}, **arrays)
