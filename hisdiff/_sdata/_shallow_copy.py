"""A copy of an object that takes what is written, so that the object itself stays as it was."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from anndata import AnnData
from spatialdata import SpatialData

from hisdiff import _keys
from hisdiff._sdata._bound import Bound, by_object
from hisdiff._sdata._layers import layer_names

if TYPE_CHECKING:
    from collections.abc import Sequence


def shallow_copy(sdata: SpatialData) -> SpatialData:
    """Return an object with the same elements, in memory shared with the first; what is added is its own."""
    return SpatialData(
        images=dict(sdata.images),
        labels=dict(sdata.labels),
        points=dict(sdata.points),
        shapes=dict(sdata.shapes),
        tables={key: _shared(table) for key, table in sdata.tables.items()},
        attrs=deepcopy(sdata.attrs),
    )


def on_copies(bounds: Sequence[Bound]) -> list[Bound]:
    """Return the same sections in stand-ins of their objects, which results are written to."""
    return [
        Bound(bound.section, bound.place.within(elements))
        for group in by_object(bounds)
        for elements in [group[0].place.elements.onto(shallow_copy(group[0].place.sdata))]
        for bound in group
    ]


def _shared(table: AnnData) -> AnnData:
    """Return a table with slots of its own that hold the same arrays."""
    records = {_keys.STEM: deepcopy(table.uns[_keys.STEM])} if _keys.STEM in table.uns else {}
    return AnnData(
        table.X,
        obs=table.obs.copy(),
        var=table.var.copy(),
        uns={**table.uns, **records},
        layers={name: table.layers[name] for name in layer_names(table)},
        obsm=dict(table.obsm),
        varm=dict(table.varm),
        obsp=dict(table.obsp),
        varp=dict(table.varp),
    )
