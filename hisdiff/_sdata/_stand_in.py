"""A copy of an object that takes what is written, so that the object itself stays as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from anndata import AnnData
from spatialdata import SpatialData

from hisdiff import _keys

if TYPE_CHECKING:
    from typing import Any


def stand_in(sdata: SpatialData) -> SpatialData:
    """Return an object with the same elements, in memory shared with the first; what is added is its own."""
    elements: dict[str, Any] = {kind: dict(getattr(sdata, kind)) for kind in ("images", "labels", "points", "shapes")}
    return SpatialData(
        **elements,
        tables={key: _shared(table) for key, table in sdata.tables.items()},
        attrs=deepcopy(sdata.attrs),
    )


def _shared(table: AnnData) -> AnnData:
    """Return a table with slots of its own that hold the same arrays."""
    records = {_keys.STEM: deepcopy(table.uns[_keys.STEM])} if _keys.STEM in table.uns else {}
    arrays: dict[str, Any] = {slot: dict(getattr(table, slot)) for slot in ("layers", "obsm", "varm", "obsp", "varp")}
    return AnnData(table.X, obs=table.obs.copy(), var=table.var.copy(), uns={**table.uns, **records}, **arrays)
