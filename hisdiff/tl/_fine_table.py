"""Tables of bins on a grid: the only one of an object, the positions of its bins, and columns that are written to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing, present
from hisdiff._log import logger
from hisdiff._sdata._genes import columns_of
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import check_slots_free, checked_name, made_here, mark_slots, records

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._section import Names


def table_of(data: SpatialData | AnnData, table_key: str | None) -> AnnData:
    """Return the table that is meant: of several, the only one finer than the spots."""
    if not hasattr(data, "tables"):
        return data
    if table_key is not None:
        return data.tables[present(table_key, list(data.tables), "table")]
    fine = [key for key, table in data.tables.items() if made_here(table) and _side_of(table) is not None]
    if len(fine) != 1:
        if fine:
            raise ValueError(
                f"There are several tables finer than the spots, {listing(fine)}; name one with table_key=."
            )
        raise ValueError(
            "There is no table of a prediction finer than the spots; make one with hd.tl.predict(sdata, resolution_um=16), or name "
            "a table with table_key=."
        )
    return data.tables[fine[0]]


def _side_of(table: AnnData) -> float | None:
    """Return the side of the bins of a table, in um, or None where that is not known."""
    recorded = [record.get("resolution_um") for record in records(table, _keys.PREDICTIONS).values()]
    sides = [side for side in (table.uns.get(_keys.STEM, {}).get(_keys.BIN_UM), *recorded) if side is not None]
    return float(sides[0]) if sides else None


def grid_of(data: SpatialData | AnnData, table_key: str | None, key: str | None) -> tuple[AnnData, np.ndarray, float]:
    """Return a table, row and column of its bins, and the side of a bin."""
    table = table_of(data, table_key)
    if key is not None:
        check_slots_free(table, "obs", [checked_name(key, key)])
    side = _side_of(table)
    if side is None or _keys.ARRAY_ROW not in table.obs or _keys.ARRAY_COL not in table.obs:
        raise ValueError(
            "The table is not one of bins on a grid, such as hd.tl.predict(sdata, resolution_um=16) makes."
        )
    return table, table.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy(dtype=np.int64), side


def write_obs(table: AnnData, columns: Mapping[str, pd.Series]) -> None:
    """Write columns of ``obs``, in place of earlier ones."""
    for key, column in columns.items():
        table.obs[key] = column
    mark_slots(table, "obs", columns)
    logger.info("wrote %s", " and ".join(f"obs[{key!r}]" for key in columns))


def values_of(table: AnnData, genes: Names | None, layer: str | None) -> np.ndarray:
    """Return the values of some genes, ``(n, G)``."""
    if layer is not None:
        present(layer, layer_names(table), "layer")
    values = table.X if layer is None else table.layers[layer]
    if genes is not None:
        where = columns_of(table, genes)
        for gene in np.asarray(genes)[where < 0]:
            present(str(gene), table.var_names, "gene")
        values = values[:, where]
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)


def categories_of(table: AnnData, key: str) -> tuple[np.ndarray, list[str]]:
    """Return the codes of a column, -1 where it is missing, and its categories."""
    column = table.obs[present(key, list(table.obs), "column of obs")].astype("category")
    column = column.cat.remove_unused_categories()
    names = [str(name) for name in column.cat.categories]
    if len(names) < 2:
        raise ValueError(f"obs[{key!r}] has one category only, {listing(names)}: nothing to compare it with.")
    return column.cat.codes.to_numpy().astype(np.int64), names
