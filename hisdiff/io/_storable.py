"""What a zarr store can hold of a table made elsewhere: other values become text, or are left out and said."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem

from hisdiff._check import listing
from hisdiff._log import logger

if TYPE_CHECKING:
    from anndata import AnnData

_LEFT_OUT = object()
_PLAIN = (str, bool, float, np.bool_, np.integer, np.floating)
_TEXTS = (PurePath, datetime.date, datetime.timedelta, np.datetime64, np.timedelta64, pd.Period, bytes)


def storable_table(adata: AnnData) -> None:
    """Change in place what sdata.write would fail on: columns of obs and var become text, values of uns text or nothing."""
    changed = []
    for slot in ("obs", "var"):
        frame = getattr(adata, slot)
        new = {}
        for name, column in frame.items():  # held, since pandas 3 makes another Series of each look-up
            stored = _column(column)
            if stored is not column:
                new[name] = stored
        changed += [f"{slot}[{name!r}]" for name, column in new.items() if not pd.api.types.is_numeric_dtype(column)]
        if new:
            setattr(adata, slot, frame.assign(**new))
    left_out: list[str] = []
    for key, value in list(adata.uns.items()):
        kept = _storable(value, f"uns[{key!r}]", left_out)
        if kept is _LEFT_OUT:
            del adata.uns[key]
        else:
            adata.uns[key] = kept
    if changed:
        logger.info("Columns whose values a store cannot hold became text: %s.", listing(changed))
    if left_out:
        logger.warning("Left out what a store cannot hold: %s.", listing(left_out))


def _column(column: pd.Series) -> pd.Series:
    """Return a column that can be stored: itself, its numbers, or its texts."""
    kind = column.dtype
    if isinstance(kind, np.dtype) and kind.kind in "biufc":
        return column
    if isinstance(kind, pd.SparseDtype):
        held: Any = column.sparse
        return _column(held.to_dense())
    if pd.api.types.is_float_dtype(kind):  # nullable, which anndata has for whole numbers only
        return column.astype(np.float64)
    mixed = pd.api.types.is_object_dtype(column) and pd.api.types.infer_dtype(column, skipna=True).startswith("mixed")
    if not mixed and _is_written(column.reset_index(drop=True).to_frame("column")):
        return column
    return column.map(str, na_action="ignore").astype(object)


def _is_written(value: Any) -> bool:
    """Whether anndata writes a value to a zarr store, by doing it in memory."""
    try:
        write_elem(zarr.open_group(zarr.storage.MemoryStore(), mode="w"), "value", value)
    except Exception:  # noqa: BLE001  what is raised differs from type to type
        return False
    return True


def _storable(value: Any, name: str, left_out: list[str]) -> Any:
    """Return a value of uns in a form that can be stored; what has none is listed and left out."""
    if isinstance(value, Mapping):
        kept = {}
        for key, inner in value.items():
            new = _storable(inner, f"{name}[{key!r}]", left_out)
            if new is not _LEFT_OUT:
                kept[str(key).replace("/", "_") or "_"] = new
        return kept
    if isinstance(value, _PLAIN) or (isinstance(value, np.ndarray) and value.dtype.kind in "biufU"):
        return value
    if isinstance(value, _TEXTS):
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    if isinstance(value, (tuple, set, frozenset)):
        value = list(value)
    if isinstance(value, (pd.Series, pd.Index)):
        value = value.to_numpy()
    if isinstance(value, pd.DataFrame):
        value = value.rename(columns=lambda column: str(column).replace("/", "_")).apply(_column)
    if _is_written(value):
        return value
    left_out.append(name)
    return _LEFT_OUT
