"""The tissue outline as a shapes element, one per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from spatialdata.models import ShapesModel

from hisdiff import _keys
from hisdiff._sdata._affine import apply, scaling

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    from hisdiff._sdata._locate import Place


def tissue_key(place: Place) -> str:
    """Return the name of a place's tissue element, ``tissue_<image>``: its own, so that sections can be put into one object."""
    return f"{_keys.TISSUE}_{place.image_key}"


def read_tissue(place: Place) -> MultiPolygon | Polygon | None:
    """Return the outline of a place's tissue in um, or None where there is none; one called ``tissue`` may come from elsewhere."""
    if place.image_key is None:
        return None
    shapes = place.sdata.shapes
    key = next((key for key in (tissue_key(place), _keys.TISSUE) if key in shapes), None)
    to_px = None if key is None else place.elements.frame(key).to(place.image_frame)
    if key is None or to_px is None:
        return None
    to_um = scaling(place.mpp) @ to_px
    outline = shapely.union_all(np.asarray(shapes[key].geometry))
    return shapely.transform(outline, lambda points: apply(to_um, points))


def write_tissue(place: Place, key: str, outline_um: MultiPolygon | Polygon) -> None:
    """Write an outline given in um, in pixels of the image and with the image's transformations."""
    parts = shapely.get_parts(shapely.transform(outline_um, lambda points: points / place.mpp))
    # A column survives a round trip through zarr, an attribute of the frame does not.
    frame = gpd.GeoDataFrame({"geometry": parts, _keys.MADE_BY: _keys.STEM})
    place.sdata.shapes.pop(key, None)
    place.sdata.shapes[key] = ShapesModel.parse(frame, transformations=place.image_frame.transformations)
