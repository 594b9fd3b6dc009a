"""Which elements the rows of a table annotate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from hisdiff import _keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hisdiff._json import Plain


def attrs_of(table: AnnData) -> Plain:
    """Return what SpatialData keeps of the annotation, empty where a table annotates nothing."""
    return table.uns.get(TableModel.ATTRS_KEY) or {}


def regions_of(table: AnnData) -> list[str]:
    """Return the elements that a table annotates, none where it annotates nothing; SpatialData keeps a name or a list."""
    regions = attrs_of(table).get(TableModel.REGION_KEY)
    if regions is None:
        return []
    return [regions] if isinstance(regions, str) else list(regions)


def region_labels(table: AnnData) -> np.ndarray:
    """Return the element that each row annotates, ``(n,)``."""
    return table.obs[attrs_of(table)[TableModel.REGION_KEY_KEY]].astype(str).to_numpy()


def instances_of(table: AnnData) -> np.ndarray:
    """Return which label or shape of its element each row annotates, ``(n,)``."""
    return table.obs[attrs_of(table)[TableModel.INSTANCE_KEY]].to_numpy()


def annotation(region: str, instances: Sequence[Any] | np.ndarray) -> Plain:
    """Return the columns of ``obs`` by which rows annotate one element."""
    code = np.zeros(len(instances), dtype=np.int8)
    return {_keys.REGION_KEY: pd.Categorical.from_codes(code, pd.Index([region])), _keys.INSTANCE_KEY: instances}


def annotating(table: AnnData, regions: str | Sequence[str]) -> AnnData:
    """Return a table that has the columns of :func:`annotation` as SpatialData takes it."""
    return TableModel.parse(
        table,
        region=regions if isinstance(regions, str) else list(regions),
        region_key=_keys.REGION_KEY,
        instance_key=_keys.INSTANCE_KEY,
        overwrite_metadata=True,
    )
