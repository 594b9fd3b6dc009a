"""Whether a stored embedding still is that of its section, and can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._sdata._features import section_record
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._sdata._bound import Bound
# Spots that are further from where they were embedded have been moved.
_MOVED_UM = 0.1


def out_of_date(bound: Bound) -> str | None:
    """Return why the stored embedding of a section has to be made again, or None where it is as it should be.

    A crop of the image it was made of is no reason: it shifts all spots alike, and the embedding of what is left stays
    right.
    """
    place, spots, image = bound.place, bound.section.spots, bound.section.image
    if bound.section.features is None or place.table is None or spots is None:
        return "there is none yet"
    if image is None:
        return None
    section = needed(section_record(place))
    if section["image"] != place.image_key:
        return f"it is of image {section['image']!r}"
    bounds = section.get("bounds_um")
    cropped = bounds is not None and not np.allclose(bounds, image.bounds_um)
    if bounds is not None and not cropped and section["fingerprint"] != bound.fingerprint:
        return "the image has changed"
    if _keys.EMBEDDED_AT not in place.table.obsm:
        return None
    at = np.asarray(place.table.obsm[_keys.EMBEDDED_AT])[place.rows]
    moved = spots.xy_um - at[:, :2]
    if cropped:
        moved = moved - np.nanmedian(moved, axis=0)
    same = (np.abs(moved) <= _MOVED_UM).all(axis=1) & np.isclose(spots.radius_um, at[:, 2], rtol=1e-3)
    return None if same.all() else f"{int((~same).sum())} of {len(spots)} spots have moved"


def check_embeddings(bounds: Sequence[Bound]) -> None:
    """Raise where an embedding is of another width than its record says, or has values that are not finite."""
    for bound in bounds:
        features, spots = bound.section.features, bound.section.spots
        if features is None or spots is None:
            continue
        table = bound.place.table
        stored = None if table is None else table.obsm.get(_keys.EMBEDDING)
        width = len(features.mean) if stored is None else stored.shape[1]
        if width != len(features.mean):
            raise ValueError(
                f"The embedding of {bound.place.name!r} has {width} values a spot, and its record is of {len(features.mean)}; "
                f"run hd.pp.embed on it again."
            )
        bad = ~np.isfinite(features.at(spots)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"The embedding of {bound.place.name!r} has NaN or infinite values at {int(bad.sum())} of {len(bad)} spots; "
                f"run hd.pp.embed on it again."
            )
