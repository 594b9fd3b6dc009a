"""Predictions finer than the spots: a table of their own, on a labels element or on shapes that were there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._annotation import annotating, annotation
from hisdiff._sdata._genes import var_of
from hisdiff._sdata._provenance import mark_made_here, set_record
from hisdiff._sdata._store import put
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from hisdiff._sdata._locate import Place
    from hisdiff._section import Locations, Prediction


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
        annotation(region, instances), index=pd.Index([f"{region}_{instance}" for instance in instances], dtype=str)
    )
    if where.bin_um is not None:
        obs[_keys.ARRAY_ROW], obs[_keys.ARRAY_COL] = needed(where.array_ij).T
    if spots is not None and len(spots) and place.table is not None:
        distance, row = cKDTree(spots.xy_um).query(where.xy_um)
        names = place.table.obs_names[place.rows]
        obs[_keys.PARENT_SPOT] = pd.Categorical.from_codes(row, names)
        obs[_keys.SPOT_DISTANCE] = distance.astype(np.float32)
    for name, values in prediction.obs.items():
        obs[f"{stem}_{name}"] = values
    table = ad.AnnData(prediction.mean, obs=obs, var=var_of(prediction.genes, place.table))
    table.layers[_keys.FINE_STD] = prediction.std
    for i, draw in enumerate(prediction.draws if prediction.draws is not None else ()):
        table.layers[_keys.fine_draw(i)] = draw
    table.obsm[_keys.SPATIAL] = where.xy_um / place.mpp
    mark_made_here(table)
    set_record(table, _keys.PREDICTIONS, stem, record)
    return table


def write_fine(place: Place, table_key: str, region: str, table: AnnData, labels: Any | None) -> None:
    """Put a table, and the labels that it annotates, into the object and its store, in place of an earlier result."""
    parsed = annotating(table, region)
    made = {} if labels is None else {region: labels}
    put(place.sdata, {**made, table_key: parsed}, {key: {"table": table_key} for key in made})
    where = "" if place.sdata.path is None else f", also to {place.sdata.path}"
    logger.info("wrote table %r: %d x %d, on %r%s", table_key, table.n_obs, table.n_vars, region, where)
