"""What a call that fails has to leave as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData


def snapshot(sdata: SpatialData) -> dict[str, Any]:
    """Return elements, every slot of every table and attrs, in a form that ``==`` compares."""
    elements = {name: id(element) for kind, name, element in sdata.gen_elements() if kind != "tables"}
    tables = {
        key: {slot: _digest(getattr(table, slot)) for slot in ("X", "layers", "obs", "var", "obsm", "varm", "uns")}
        for key, table in sdata.tables.items()
    }
    return {"elements": elements, "tables": tables, "attrs": _digest(sdata.attrs)}


def _digest(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _digest(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return {
            "index": _digest(value.index.to_numpy(str)),
            **{name: _digest(value[name].to_numpy()) for name in value},
        }
    if sparse.issparse(value):
        value = value.tocoo()
        return value.shape, _digest(value.row), _digest(value.col), _digest(value.data)
    if isinstance(value, np.ndarray):
        raw = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return value.shape, str(value.dtype), hashlib.sha256(raw).hexdigest()
    return repr(value)
