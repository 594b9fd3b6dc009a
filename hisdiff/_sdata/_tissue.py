"""The tissue outline as a shapes element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from hisdiff import _keys
from hisdiff._sdata._locate import _finest, _matrix, _shared_systems

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    from hisdiff._sdata._locate import Place

_IMAGE_COLUMN = "image"
_MADE_BY_COLUMN = "made_by"


def tissue_of(element: gpd.GeoDataFrame, place: Place) -> MultiPolygon | Polygon | None:
    """Return the outline of a place's tissue in um, from an element whose rows may belong to several images."""
    image = _finest(place.sdata, place.image_key)
    systems = _shared_systems(element, image)
    if _IMAGE_COLUMN in element.columns:
        element = element[element[_IMAGE_COLUMN] == place.image_key]
    if not len(element) or not systems:
        return None
    to_px = np.linalg.inv(_matrix(image, systems[0])) @ _matrix(element, systems[0])
    to_um = np.diag([place.mpp, place.mpp, 1.0]) @ to_px
    outline = shapely.union_all(np.asarray(element.geometry))
    return shapely.transform(outline, lambda p: p @ to_um[:2, :2].T + to_um[:2, 2])


def write_tissue(place: Place, outline_um: MultiPolygon | Polygon) -> None:
    """Write an outline given in um, in pixels of the image and with the image's transformations.

    Outlines of other images in the same element stay.
    """
    sdata = place.sdata
    parts = shapely.get_parts(shapely.transform(outline_um, lambda p: p / place.mpp))
    frame = gpd.GeoDataFrame({"geometry": parts, _IMAGE_COLUMN: place.image_key, _MADE_BY_COLUMN: _keys.STEM})
    old = sdata.shapes.get(_keys.TISSUE)
    if old is not None:
        others = old[old[_IMAGE_COLUMN] != place.image_key] if _IMAGE_COLUMN in old.columns else old.iloc[:0]
        if len(others):
            import pandas as pd

            frame = gpd.GeoDataFrame(pd.concat([others, frame], ignore_index=True))
            frame.attrs = {}
    transformations: dict[str, Any] = get_transformation(_finest(sdata, place.image_key), get_all=True)
    sdata.shapes[_keys.TISSUE] = ShapesModel.parse(frame, transformations=transformations)


def made_here(element: gpd.GeoDataFrame) -> bool:
    """Whether hisdiff wrote a tissue element, so that it may be replaced."""
    return _MADE_BY_COLUMN in element.columns and bool((element[_MADE_BY_COLUMN] == _keys.STEM).all())
