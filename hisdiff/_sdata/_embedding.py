"""Write the embedding of sections into their table, with its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._features import embedding_record
from hisdiff._sdata._provenance import set_record
from hisdiff._sdata._store import unsaved
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shapely import MultiPolygon, Polygon

    from hisdiff._sdata._bound import Bound
    from hisdiff._section import FeatureSpec, Locations


@dataclass(frozen=True)
class Embedded:
    """What was computed for one section, before anything of it is written."""

    bound: Bound
    spec: FeatureSpec
    tissue: MultiPolygon | Polygon | None
    locations: Locations
    values: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    precision: str


def write_embedding(bounds: Sequence[Bound], done: Sequence[Embedded], licence: Mapping[str, str]) -> None:
    """Write the embedding of sections that share a table, in place of one of another encoder.

    Parameters
    ----------
    bounds
        The sections as they are now stored.
    licence
        What a model's card will have to say of the encoder.
    """
    table, spec = bounds[0].table, done[0].spec
    record = embedding_record(table)
    if (
        record is None
        or _keys.EMBEDDING not in table.obsm
        or any(record[key] != value for key, value in spec.to_dict().items())
    ):
        # One table has one embedding: of another encoder nothing can stay.
        record = {**spec.to_dict(), **licence, "sections": {}}
        table.obsm[_keys.EMBEDDING] = np.full((table.n_obs, spec.dim), np.nan, dtype=np.float32)
    values = np.array(table.obsm[_keys.EMBEDDING], dtype=np.float32)
    at = np.array(table.obsm.get(_keys.EMBEDDED_AT, np.full((table.n_obs, 3), np.nan)))
    for bound, one in zip(bounds, done):
        place = bound.place
        values[place.rows] = one.values
        at[place.rows] = np.column_stack([one.locations.xy_um, one.locations.radius_um])
        record["sections"][place.region] = {
            "image": place.image_key,
            "fingerprint": one.bound.fingerprint,
            "bounds_um": np.asarray(needed(bound.section.image).bounds_um),
            "mean": one.mean.astype(np.float32),
            "std": one.std.astype(np.float32),
            "precision": one.precision,
        }
        logger.info(
            "%s: wrote obsm[%r]: %d x %d, encoder %r, precision %s%s",
            place.name, _keys.EMBEDDING, len(place.rows), spec.dim, spec.encoder, one.precision, unsaved(place.sdata),
        )  # fmt: skip
    found = {section.get("precision") for section in record["sections"].values()}
    record["precision"] = found.pop() if len(found) == 1 else "mixed"
    table.obsm[_keys.EMBEDDING], table.obsm[_keys.EMBEDDED_AT] = values, at
    set_record(table, _keys.EMBEDDING_RECORD, None, record)
