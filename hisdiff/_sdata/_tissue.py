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
    from hisdiff._section import ImageSource


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


def outline_on(place: Place, image: ImageSource | None) -> MultiPolygon | Polygon | None:
    """Return the stored outline of a place's tissue in um, as far as it lies on the image; None where there is none."""
    tissue = read_tissue(place)
    return tissue if tissue is None or image is None else _clipped(tissue, image)


def _clipped(tissue: MultiPolygon | Polygon, image: ImageSource) -> MultiPolygon | Polygon | None:
    """Return what of an outline lies on the image: a crop of an object leaves its polygons whole."""
    frame = shapely.box(*image.bounds_um)
    if shapely.covers(frame, tissue):
        return tissue
    parts = shapely.get_parts(shapely.intersection(shapely.make_valid(tissue), frame))
    parts = shapely.get_parts(parts[shapely.area(parts) > 0])
    return shapely.MultiPolygon(list(parts)) if len(parts) else None


def write_tissue(place: Place, key: str, outline_um: MultiPolygon | Polygon) -> None:
    """Write an outline given in um, in pixels of the image and with the image's transformations."""
    parts = shapely.get_parts(shapely.transform(outline_um, lambda points: points / place.mpp))
    # A column survives a round trip through zarr, an attribute of the frame does not.
    frame = gpd.GeoDataFrame({"geometry": parts, _keys.MADE_BY: _keys.STEM})
    place.sdata.shapes.pop(key, None)
    place.sdata.shapes[key] = ShapesModel.parse(frame, transformations=place.image_frame.transformations)
