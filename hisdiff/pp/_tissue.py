"""Outline of the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._geometry import find_tissue
from hisdiff._log import logger
from hisdiff._sdata._locate import check_sdata
from hisdiff._sdata._provenance import check_free, checked_name
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._tissue import tissue_key, write_tissue
from hisdiff._section import needed

if TYPE_CHECKING:
    from shapely import MultiPolygon
    from spatialdata import SpatialData

    from hisdiff._section import ImageSource

# Tissue is looked for at this scale; about a cell to a pixel.
_MPP = 8.0


@documented
@checked
def tissue_mask(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    min_area_um2: float = 50_000.0,
    min_hole_um2: float = 20_000.0,
    key_added: str | None = None,
    inplace: bool = True,
) -> MultiPolygon | None:
    """Outline the tissue of an image.

    The outline follows optical density above the slide's own background together with local contrast, at 8 um per
    pixel, split by Otsu's method on the logarithm.

    Parameters
    ----------
    sdata
        Object with an H&E image.
    %(image_key)s
    %(mpp)s
    min_area_um2
        Pieces of tissue smaller than this, in square micrometres, are dropped.
    min_hole_um2
        Holes smaller than this, in square micrometres, are filled.
    key_added
        Name of the element; by default ``tissue_<image>``, so that sections can be put together with ``spatialdata.concatenate``.
    %(inplace)s

    Returns
    -------
    None, and sets the shapes element ``key_added`` (polygons in pixels of the image, with its transformations);
    or the outline as a multipolygon in um.

    Raises
    ------
    ValueError
        If no tissue is found, or the name is taken by an element that hisdiff did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.tissue_mask(sdata)
    >>> bool(sdata.shapes["tissue_toy_image"].area.sum() > 0)
    True
    """
    positive(min_area_um2, "min_area_um2")
    positive(min_hole_um2, "min_hole_um2")
    check_sdata(sdata)
    bounds = open_sections(sdata, Selection(image_key=image_key, mpp=mpp), needs=("image",))
    place = bounds[0].place
    if len({bound.place.image_key for bound in bounds}) > 1:
        keys = sorted({str(bound.place.image_key) for bound in bounds})
        raise ValueError(f"The sections of the object have images {keys}; name one with image_key=.")
    key = checked_name(key_added, tissue_key(place))
    if inplace:
        check_free(place.sdata, key)
    outline = outline_of(needed(bounds[0].section.image), place.image_name, min_area_um2, min_hole_um2)
    if not inplace:
        return outline
    write_tissue(place, key, outline)
    logger.info("wrote shapes %r: %d piece(s), %.2f mm2 of tissue", key, len(outline.geoms), outline.area / 1e6)
    return None


def outline_of(
    image: ImageSource, name: str, min_area_um2: float = 50_000.0, min_hole_um2: float = 20_000.0
) -> MultiPolygon:
    """Return the outline of the tissue of an image source, in um; a ``ValueError`` where there is none."""
    scale = max(_MPP, image.mpp)
    rgb = image.read(image.bounds_um, scale)
    outline = find_tissue(rgb, scale, min_area_um2=min_area_um2, min_hole_um2=min_hole_um2)
    if outline.is_empty:
        low, high = np.percentile(rgb.mean(axis=-1), (1, 99))
        raise ValueError(
            f"No tissue was found in image {name!r} (grey values {low:.0f} to {high:.0f} of 255): is it H&E on a bright background? "
            f"Smaller pieces count with a lower min_area_um2; your own outline can be added as shapes element 'tissue'."
        )
    return outline
