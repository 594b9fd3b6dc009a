"""The tissue outline as a shapes element, one per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from hisdiff import _keys
from hisdiff._sdata._locate import finest, matrix_to, rgb_images, shared_systems

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place

# A column survives a round trip through zarr, an attribute of the frame does not.
_MADE_BY = "made_by"


def tissue_key(sdata: SpatialData, image_key: str) -> str:
    """Return the name of an image's tissue element: ``tissue``, or ``tissue_<image>`` where there are several images."""
    return _keys.TISSUE if len(rgb_images(sdata)) <= 1 else f"{_keys.TISSUE}_{image_key}"


def read_tissue(place: Place) -> MultiPolygon | Polygon | None:
    """Return the outline of a place's tissue in um, or None where there is none."""
    if place.image_key is None:
        return None
    sdata = place.sdata
    element = sdata.shapes.get(tissue_key(sdata, place.image_key), sdata.shapes.get(_keys.TISSUE))
    image = finest(sdata, place.image_key)
    systems = [] if element is None else shared_systems(element, image)
    if not systems:
        return None
    to_px = np.linalg.inv(matrix_to(image, systems[0])) @ matrix_to(element, systems[0])
    to_um = np.diag([place.mpp, place.mpp, 1.0]) @ to_px
    outline = shapely.union_all(np.asarray(element.geometry))
    return shapely.transform(outline, lambda p: p @ to_um[:2, :2].T + to_um[:2, 2])


def check_tissue_writable(place: Place, key: str) -> None:
    """Raise where an element of that name exists and hisdiff did not make it."""
    sdata = place.sdata
    old = sdata.shapes.get(key)
    made_here = old is not None and _MADE_BY in old.columns and bool((old[_MADE_BY] == _keys.STEM).all())
    if key in sdata and not made_here:
        raise ValueError(
            f"There is an element {key!r} that hisdiff did not write; it is left alone. Choose another name with key_added=."
        )


def write_tissue(place: Place, key: str, outline_um: MultiPolygon | Polygon) -> None:
    """Write an outline given in um, in pixels of the image and with the image's transformations."""
    parts = shapely.get_parts(shapely.transform(outline_um, lambda p: p / place.mpp))
    frame = gpd.GeoDataFrame({"geometry": parts, _MADE_BY: _keys.STEM})
    transformations = get_transformation(finest(place.sdata, place.image_key), get_all=True)
    if key in place.sdata.shapes:
        del place.sdata.shapes[key]
    place.sdata.shapes[key] = ShapesModel.parse(frame, transformations=transformations)
