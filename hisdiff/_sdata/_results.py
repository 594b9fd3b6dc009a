"""Where results are looked up: in the table of the spots, or in the panel table that was made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._sdata._locate import resolve_table
from hisdiff._sdata._provenance import panel_of, records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

X = "X"
"""What measured counts are called where a layer is named."""


def result_table(
    sdata: SpatialData,
    table_key: str | None = None,
    layers: str | None | Sequence[str | None] = None,
    *,
    holds: Callable[[AnnData], bool] | None = None,
) -> str | None:
    """Return the name of the table in which a result is looked up; None where the object has no table.

    That is the table of the spots, unless what is asked for is in a panel table of it alone.

    Parameters
    ----------
    table_key
        Name of the table of the spots, or of a panel table; None where there is one choice.
    layers
        Names of layers that are asked for; None for any prediction.
    holds
        Whether a table has what is asked for, instead of ``layers``.
    """
    usual = resolve_table(sdata, table_key)
    if usual is None:
        return usual
    named = [layers] if layers is None or isinstance(layers, str) else list(layers)
    if holds is None and named and all(name == X for name in named):
        return usual
    holds = holds or _with([name for name in named if name not in (None, X)])
    if holds(sdata.tables[usual]):
        return usual
    found = [key for key, table in sdata.tables.items() if panel_of(table) == usual and holds(table)]
    if len(found) > 1 and _keys.STEM not in found:
        raise ValueError(f"Several tables hold the result, {listing(found)}; choose one with table_key=.")
    return usual if not found else _keys.STEM if _keys.STEM in found else found[0]


def prediction_table(sdata: SpatialData, table_key: str | None, layer: str | None) -> str | None:
    """Return the name of the table with a prediction; None for the default one, as within one table.

    Raises
    ------
    KeyError
        If none is named and there are several, none of which is that of the default method.
    """
    usual = resolve_table(sdata, table_key)
    named = table_key is not None and usual is not None and bool(records(sdata.tables[usual], _keys.PREDICTIONS))
    if layer is None and usual is not None and not named:
        homes = [table for key, table in sdata.tables.items() if usual in (key, panel_of(table))]
        made = {stem for table in homes for stem in records(table, _keys.PREDICTIONS)}
        if len(made) > 1 and _keys.STEM not in made:
            raise KeyError(f"There are several predictions, {listing(sorted(made))}; choose one with layer=.")
        layer = _keys.STEM if _keys.STEM in made else None
    return result_table(sdata, table_key, layer)


def _with(layers: Sequence[str | None]) -> Callable[[AnnData], bool]:
    """Return what tells whether a table has all layers, or, where none is named, a prediction."""
    if layers:
        return lambda table: all(name in table.layers for name in layers)
    return lambda table: bool(records(table, _keys.PREDICTIONS))
