"""Outlines of nuclei."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from spatialdata.models import ShapesModel

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import one_of
from hisdiff._docs import documented
from hisdiff._geometry._grid import bins_touching
from hisdiff._geometry._nuclei import Watershed, label_polygons, without_doubles
from hisdiff._log import logger
from hisdiff._log import progress as progress_bar
from hisdiff._sdata._locate import check_sdata
from hisdiff._sdata._provenance import check_free, checked_name, mark_written
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import Locations, needed
from hisdiff._workers import check_stores, spread
from hisdiff.pp._tissue import outline_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from geopandas import GeoDataFrame
    from shapely import MultiPolygon, Polygon
    from spatialdata import SpatialData

    from hisdiff._section import Box, ImageSource

# Scale of the tiles, which segmentation networks are trained at, and the coarsest at which nuclei can be outlined.
_MPP, _COARSEST_MPP = 0.5, 1.0
# Tiles, and what is seen around each: more than any nucleus.
_TILE_UM, _MARGIN_UM = 400.0, 32.0
# Tiles that the threshold of a slide is found on.
_SAMPLES = 12


@documented
@checked
def nuclei(
    sdata: SpatialData,
    segment: str | Callable[[np.ndarray], np.ndarray] = "watershed",
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    progress: bool | None = None,
) -> GeoDataFrame | None:
    """Outline the nuclei in the tissue.

    The image is cut into overlapping tiles at 0.5 um per pixel, so that a nucleus is whole in at least one; tiles are segmented one
    by one (on the workers of an active ``dask.distributed`` client, where there is one) and put together without
    doubles. ``hd.tl.predict(sdata, model, at="nuclei")`` then predicts every nucleus.

    Parameters
    ----------
    sdata
        Object with an H&E image of at most 1 um per pixel.
    segment
        ``"watershed"``: hematoxylin above a threshold that is the same for the whole slide, split at narrow places; quick,
        without a network, and coarse where nuclei are pale or crowded. Or a function from a tile, uint8 ``(y, x, 3)`` at 0.5 um
        per pixel, to labels, int ``(y, x)`` with 0 for the background, such as a StarDist or Cellpose model.
    %(image_key)s
    %(mpp)s
    key_added
        Name of the element; by default ``nuclei``.
    %(inplace)s
    %(progress)s

    Returns
    -------
    None, and sets the shapes element ``key_added``: polygons in pixels of the image, with its transformations, and a column
    ``area_um2``. Or this element, with the object unchanged.

    Raises
    ------
    ValueError
        If the image is too coarse, no tissue or no nucleus is found, or the name is taken by an element that hisdiff did not write.
    TypeError
        If ``segment`` does not return a whole number for every pixel.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.nuclei(sdata)
    >>> bool(10 < sdata.shapes["nuclei"]["area_um2"].median() < 200)
    True
    """
    if not callable(segment):
        one_of(segment, ("watershed",), "segment")
    check_sdata(sdata)
    bounds = open_sections(sdata, Selection(image_key=image_key, mpp=mpp), needs=("image",))
    bound = bounds[0]
    place, section, image = bound.place, bound.section, needed(bound.section.image)
    if len({other.place.image_key for other in bounds}) > 1:
        keys = sorted({str(other.place.image_key) for other in bounds})
        raise ValueError(f"The sections of the object have images {keys}; name one with image_key=.")
    if image.mpp > _COARSEST_MPP:
        raise ValueError(
            f"Image {place.image_key!r} has {image.mpp:.3g} um per pixel; nuclei can be outlined up to {_COARSEST_MPP:g}."
        )
    key = checked_name(key_added, _keys.NUCLEI)
    if inplace:
        check_free(sdata, key)
    check_stores("hd.pp.nuclei", {sdata.path})
    tissue = section.tissue if section.tissue is not None else outline_of(image, place.image_name)
    outlines = _outlines(image, tissue, segment, place.image_name, progress)
    frame = gpd.GeoDataFrame(
        {"area_um2": shapely.area(outlines)},
        geometry=shapely.transform(outlines, lambda points: points / place.mpp),
        index=np.arange(1, len(outlines) + 1),
    )
    element = ShapesModel.parse(frame, transformations=place.image_frame.transformations)
    if not inplace:
        return element
    sdata.shapes.pop(key, None)
    sdata.shapes[key] = element
    mark_written(sdata, key, {"segment": segment if isinstance(segment, str) else "a function"})
    logger.info("wrote shapes %r: %d nuclei of %.0f um2 in the median", key, len(element), frame["area_um2"].median())
    return None


def _outlines(
    image: ImageSource,
    tissue: MultiPolygon | Polygon,
    segment: str | Callable[[np.ndarray], np.ndarray],
    name: str,
    progress: bool | None,
) -> np.ndarray:
    """Return the outlines of nuclei whose centre lies in the tissue, in um, ``(n,)`` polygons ordered by tile."""
    scale = max(_MPP, image.mpp)
    tiles = bins_touching(Locations(np.zeros((1, 2)), np.array([tissue], dtype=object)), _TILE_UM)
    shapely.prepare(tissue)
    boxes = [box for box in (_box(tile) for tile in tiles) if shapely.intersects(tissue, shapely.box(*box))]
    if isinstance(segment, str):
        samples = boxes[:: -(-len(boxes) // _SAMPLES)]
        segment = Watershed.fit([image.read(box, scale) for box in samples], scale)
    work = partial(_outlines_in, image, segment, scale)
    made: dict[int, np.ndarray] = {}
    with progress_bar(
        None, desc=f"outlining nuclei of {name!r}", total=len(boxes), enabled=progress, unit="tiles"
    ) as bar:
        for number, outlines in spread(work, boxes, f"the nuclei of {name!r}"):
            made[number] = outlines
            bar.update()
    found = without_doubles(np.concatenate([made[number] for number in range(len(boxes))]))
    found = found[shapely.covers(tissue, shapely.centroid(found))]
    if not len(found):
        raise ValueError(f"No nucleus was found in the tissue of image {name!r}; is it H&E, and is its mpp right?")
    return found


def _box(tile: np.ndarray) -> Box:
    row, column = (float(number) * _TILE_UM for number in tile)
    return column, row, column + _TILE_UM, row + _TILE_UM


def _outlines_in(image: ImageSource, segment: Callable[[np.ndarray], np.ndarray], scale: float, box: Box) -> np.ndarray:
    """Return the outlines, in um, of the nuclei whose centre lies in a box; its surroundings are segmented with it."""
    x0, y0, x1, y1 = box
    pixels = image.read((x0 - _MARGIN_UM, y0 - _MARGIN_UM, x1 + _MARGIN_UM, y1 + _MARGIN_UM), scale)
    labels = np.asarray(segment(pixels))
    if labels.shape != pixels.shape[:2] or labels.dtype.kind not in "iu":
        raise TypeError(
            f"segment returns a whole number for each of {pixels.shape[:2]} pixels, not {labels.dtype} {labels.shape}."
        )
    outlines = label_polygons(labels.astype(np.int64))
    outlines = shapely.transform(outlines, lambda points: points * scale + [x0 - _MARGIN_UM, y0 - _MARGIN_UM])
    x, y = shapely.get_coordinates(shapely.centroid(outlines)).T
    return outlines[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)]
