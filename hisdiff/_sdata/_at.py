"""Any shapes or labels element as locations at which expression is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely

from hisdiff import _keys
from hisdiff._check import check_radii, listing, present
from hisdiff._geometry._centers import centers_of
from hisdiff._sdata._affine import apply, scale_of, scaling
from hisdiff._sdata._labels import grid_bins, label_outlines
from hisdiff._section import Locations

if TYPE_CHECKING:
    from hisdiff._sdata._locate import Place


def read_locations(place: Place, key: str) -> tuple[Locations, np.ndarray]:
    """Return the shapes of an element as locations in um, and their index.

    Raises
    ------
    KeyError
        If there is no such shapes or labels element.
    ValueError
        If it shares no coordinate system with the image, holds nothing, or holds what has no area or lies off the image.
    """
    sdata = place.sdata
    present(key, [*sdata.shapes, *sdata.labels], "shapes or labels element")
    return place.elements.once(
        key, ("locations", place.image_key, place.mpp), lambda element: _read(place, key, element)
    )


def _read(place: Place, key: str, element: Any) -> tuple[Locations, np.ndarray]:
    to_um = _to_um(place, key)
    if key in place.sdata.labels:
        bins = grid_bins(element, to_um)
        if bins is not None and len(bins[0]):
            _check_on_image(place, key, bins[1])
            return bins[1], bins[0]
        names, outlines = label_outlines(element)
        element = gpd.GeoDataFrame(geometry=outlines, index=names)
    geometry = np.asarray(element.geometry)
    if not len(geometry):
        raise ValueError(f"Element {key!r} holds no shape.")
    where, names = _locations(geometry, element, to_um, key), element.index.to_numpy()
    _check_on_image(place, key, where)
    return where, names


def _check_on_image(place: Place, key: str, where: Locations) -> None:
    height, width = place.elements.finest(place.image_name).shape[-2:]
    reach = where.radius_um[:, None]
    end = np.array([width, height]) * place.mpp
    outside = ((where.xy_um + reach < 0) | (where.xy_um - reach > end)).any(axis=1)
    if outside.any():
        raise ValueError(
            f"{int(outside.sum())} of {len(where)} locations of {key!r} lie outside image {place.image_key!r}, whose side is "
            f"{end[0]:.0f} x {end[1]:.0f} um; there is nothing to predict them from."
        )


def _to_um(place: Place, key: str) -> np.ndarray:
    frame, image = place.elements.frame(key), place.image_frame
    to_px = frame.to(image)
    if to_px is None:
        raise ValueError(
            f"Element {key!r} and image {place.image_key!r} share no coordinate system; those of the image are "
            f"{listing(image.systems)}, those of the element {listing(frame.systems)}."
        )
    return scaling(place.mpp) @ to_px


def _locations(geometry: np.ndarray, element: Any, to_um: np.ndarray, key: str) -> Locations:
    xy = apply(to_um, centers_of(geometry, repr(key)))
    height = _height(element, key)
    if "radius" in element.columns:
        radii = check_radii(element["radius"].to_numpy(dtype=float), repr(key))
        return Locations(xy, radii * scale_of(to_um), z_um=height)
    moved = shapely.transform(geometry, lambda points: apply(to_um, points))
    outlines = np.asarray(shapely.make_valid(moved))
    empty = np.flatnonzero(~(shapely.area(outlines) > 0))
    if len(empty):
        raise ValueError(
            f"{len(empty)} shape(s) of element {key!r} have no area, such as {listing(element.index[empty], 4)}."
        )
    return Locations(xy, outlines, z_um=height)


def _height(element: Any, key: str) -> np.ndarray | None:
    """Return the height of the shapes where a column holds it; all shapes of an element have one height."""
    if _keys.Z_UM not in element.columns:
        return None
    height = element[_keys.Z_UM].to_numpy(dtype=float)
    if not np.isfinite(height).all() or np.ptp(height) > 0:
        raise ValueError(
            f"Shapes of element {key!r} have several heights ({_keys.Z_UM}); make an element for each level."
        )
    return height
