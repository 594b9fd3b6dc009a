"""New locations between the spots of a section, to be predicted by methods that predict finer than the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from spatialdata.models import ShapesModel

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import one_of, seed_of
from hisdiff._docs import documented
from hisdiff._geometry._fill import array_fill, array_to_um, inside, random_fill
from hisdiff._log import logger
from hisdiff._sdata._locate import check_sdata
from hisdiff._sdata._provenance import check_free, mark_written
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff.pp._tissue import outline_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData

    from hisdiff._sdata._bound import Bound

_PATTERNS = ("array", "random", "none")


@documented
@checked
def densify(
    sdata: SpatialData,
    pattern: str = "array",
    *,
    density: float = 5.0,
    z_um: float | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    rng: int | np.random.Generator = 0,
) -> None:
    """Lay new locations between the spots of a section, as large as its spots.

    ``hd.tl.predict(sdata, model, at=...)`` predicts them, with ``stage``, which is designed for this, or with any other
    method that predicts finer than the spots.

    Parameters
    ----------
    sdata
        Sections with spots.
    pattern
        ``"array"``: between the spots of a capture array, by its kind. A hexagonal one (``obs["array_row"]`` and
        ``obs["array_col"]`` as in Visium) gets the centroids of the triangles between spots and becomes three times as
        dense; a square one gets the points half way and becomes four times as dense. ``"random"``: uniform points no
        farther from a spot than the distance of two spots. ``"none"``: only the spots, for another height.
    density
        Factor by which ``"random"`` increases the density of a round section.
    z_um
        Height of the locations, for models of several aligned sections; None for that of the section.
    %(place)s
    %(mpp)s
    key_added
        Name of the shapes; by default ``<region>_dense``, and ``<region>_<z_um>um`` where a height is given.
    %(rng)s
        It is used by ``"random"``.

    Returns
    -------
    None, and sets for every section the shapes element ``key_added``: circles, the measured spots first, with the columns
    ``generated`` (bool) and, where a height is given, ``z_um``. New points lie in the tissue. An element of an earlier
    call is replaced.

    Raises
    ------
    ValueError
        If there are no spots, the table has no positions on an array to lay points between, or the name is taken.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=500)
    >>> hd.pp.densify(sdata)
    >>> bool(sdata.shapes["toy_dense"]["generated"].sum() > sdata.tables["table"].n_obs)
    True
    """
    one_of(pattern, _PATTERNS, "pattern")
    if not density > 1:
        raise ValueError(f"density is above 1, not {density!r}.")
    if z_um is not None and not np.isfinite(z_um):
        raise ValueError(f"z_um is a height in um, not {z_um!r}.")
    seed = seed_of(rng)
    check_sdata(sdata)
    bounds = open_sections(sdata, Selection(table_key, image_key, shapes_key, mpp=mpp), needs=("image",))
    if key_added is not None and len(bounds) > 1:
        raise ValueError(f"key_added={key_added!r} names one element, but there are {len(bounds)} sections; choose one with shapes_key=.")  # fmt: skip
    made = {}
    for i, bound in enumerate(bounds):
        key = key_added or f"{bound.place.name}_{'dense' if z_um is None else f'{z_um:g}um'}"
        check_free(sdata, key)
        made[key] = _element(bound, _new_points(bound, pattern, density, np.random.default_rng([seed, i])), z_um)
    for key, element in made.items():
        sdata.shapes.pop(key, None)
        sdata.shapes[key] = element
        mark_written(sdata, key, {"pattern": pattern})
        logger.info("wrote shapes %r: %d, of which %d are new", key, len(element), int(element["generated"].sum()))


def _new_points(bound: Bound, pattern: str, density: float, rng: np.random.Generator) -> np.ndarray:
    """Return new points ``(n, 2)`` in um, inside the tissue."""
    section, place = bound.section, bound.place
    spots = section.spots
    if spots is None or place.table_key == _keys.LATTICE_TABLE:
        raise ValueError(f"Section {place.name!r} has no spots to lay points between.")
    if pattern == "none":
        return np.empty((0, 2))
    if pattern == "random":
        points = random_fill(spots.xy_um, density, rng)
    else:
        if spots.array_ij is None:
            raise ValueError(
                f"Table {place.table_key!r} has no obs[{_keys.ARRAY_ROW!r}] and obs[{_keys.ARRAY_COL!r}] that describe the array; "
                f"use pattern='random'."
            )
        points = array_to_um(spots.array_ij, spots.xy_um, array_fill(spots.array_ij))
    tissue = section.tissue if section.tissue is not None else outline_of(needed(section.image), place.image_name)
    return points[inside(tissue, points)]


def _element(bound: Bound, points: np.ndarray, z_um: float | None) -> gpd.GeoDataFrame:
    """Return spots and new points as circles, in pixels of the image."""
    place, spots = bound.place, needed(bound.section.spots)
    names = [*bound.table.obs_names[place.rows], *(f"new{i}" for i in range(len(points)))]
    xy = np.concatenate([spots.xy_um, points]) / place.mpp
    radius = np.concatenate([spots.radius_um, np.full(len(points), np.median(spots.radius_um))]) / place.mpp
    frame = pd.DataFrame({"radius": radius, "generated": np.arange(len(xy)) >= len(spots)}, index=pd.Index(names))
    if z_um is not None:
        frame[_keys.Z_UM] = float(z_um)
    geometry = gpd.GeoDataFrame(frame, geometry=shapely.points(xy))
    return ShapesModel.parse(geometry, transformations=place.image_frame.transformations)
