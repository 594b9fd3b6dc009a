"""Whether a stored embedding still is that of its section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._sdata._features import section_record
from hisdiff._section import needed

if TYPE_CHECKING:
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
