"""Predictions finer than the spots: a table of their own, on a labels element or on shapes that were there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from spatialdata.models import TableModel

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._locate import made_here, mark_made_here, regions_of
from hisdiff._sdata._store import put
from hisdiff._sdata._write import set_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._section import Locations, Prediction

REGION_KEY, INSTANCE_KEY = "region", "instance_id"


def check_names_free(sdata: SpatialData, table_key: str, labels_key: str | None) -> None:
    """Raise where a name is taken by something that hisdiff did not write."""
    old = sdata.tables.get(table_key)
    if old is not None and not made_here(old):
        raise ValueError(
            f"There is a table {table_key!r} that hisdiff did not write; it is left alone. Choose another name with key_added=."
        )
    if sdata.path is not None and old is None and f"tables/{table_key}" in sdata.elements_paths_on_disk():
        raise ValueError(
            f"The object's store has a table {table_key!r} that was not read with it; read the object whole, or choose another name "
            f"with key_added=."
        )
    if labels_key is None or labels_key not in sdata:
        return
    if labels_key not in sdata.labels or old is None or labels_key not in regions_of(old):
        raise ValueError(
            f"There is an element {labels_key!r} that hisdiff did not write; it is left alone. Choose another name with key_added=."
        )


def fine_table(
    place: Place,
    region: str,
    instances: np.ndarray,
    where: Locations,
    prediction: Prediction,
    record: Mapping[str, Any],
    stem: str,
    spots: Locations | None,
) -> AnnData:
    """Return a table of predictions at locations.

    ``X`` is the mean, layer ``std`` the spread over draws, ``draw0``, ... what was kept; ``obs`` tells the measured spot
    that is nearest and how far away it is (um), ``obsm["spatial"]`` the centre in pixels of the image.
    """
    obs = pd.DataFrame(
        {
            REGION_KEY: pd.Categorical.from_codes(np.zeros(len(where), dtype=np.int8), pd.Index([region])),
            INSTANCE_KEY: instances,
        },
        index=pd.Index([f"{region}_{i}" for i in instances], dtype=str),
    )
    if where.bin_um is not None:
        assert where.array_ij is not None
        obs[_keys.ARRAY_ROW], obs[_keys.ARRAY_COL] = where.array_ij.T
    if spots is not None and len(spots) and place.table is not None:
        distance, row = cKDTree(spots.xy_um).query(where.xy_um)
        names = place.table.obs_names[place.rows]
        obs[_keys.PARENT_SPOT] = pd.Categorical.from_codes(row, names)
        obs[_keys.SPOT_DISTANCE] = distance.astype(np.float32)
    table = ad.AnnData(prediction.mean, obs=obs, var=pd.DataFrame(index=pd.Index(prediction.genes.astype(str))))
    table.layers[_keys.FINE_STD] = prediction.std
    for i, draw in enumerate(prediction.draws if prediction.draws is not None else ()):
        table.layers[_keys.fine_draw(i)] = draw
    table.obsm[_keys.SPATIAL] = where.xy_um / place.mpp
    mark_made_here(table)
    set_record(table, _keys.PREDICTIONS, stem, record)
    return table


def write_fine(place: Place, table_key: str, region: str, table: AnnData, labels: Any | None) -> None:
    """Put a table, and the labels that it annotates, into the object and its store, in place of an earlier result."""
    parsed = TableModel.parse(
        table, region=region, region_key=REGION_KEY, instance_key=INSTANCE_KEY, overwrite_metadata=True
    )
    elements = {table_key: parsed} if labels is None else {region: labels, table_key: parsed}
    put(place.sdata, elements, {})
    logger.info("wrote table %r: %d x %d, on %r", table_key, table.n_obs, table.n_vars, region)
