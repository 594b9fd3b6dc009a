"""A SpatialData made elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
from spatialdata import SpatialData
from spatialdata.transformations import (
    Affine,
    BaseTransformation,
    Identity,
    Scale,
    get_transformation,
    set_transformation,
)

from hisdiff._arguments import checked
from hisdiff._check import check_radii, listing, positive, present
from hisdiff._geometry import similarity_scale
from hisdiff._geometry._centers import centers_of
from hisdiff._keys import GLOBAL, INSTANCE_KEY, REGION_KEY, SPATIAL, UM
from hisdiff._sdata._affine import apply, inverse, scaling
from hisdiff._sdata._annotation import annotating, attrs_of, instances_of
from hisdiff._sdata._image import levels_of
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._lazy import in_memory
from hisdiff._sdata._locate import Elements, Place, check_sdata, image_mpp, locate, resolve_table
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff.io._build import extended, image_element
from hisdiff.io._color import Stored, to_rgb
from hisdiff.io._features import genes_of
from hisdiff.io._orient import check_orientation, fits_size, turned
from hisdiff.io._raster import Raster
from hisdiff.io._scale import Source, check_mpp, settle_mpp, visium_source
from hisdiff.io._spots import on_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata.models import SpatialElement

XY = ("x", "y")


@checked
def adopt(
    sdata: SpatialData,
    mpp: float | None = None,
    *,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    orient: str | None = None,
) -> SpatialData:
    """Convert a SpatialData made elsewhere to the form that the readers return.

    Parameters
    ----------
    sdata
        The object. It is not changed; the result shares its pixels, counts and geometries.
    mpp
        Micrometres per pixel of the image. None for the scale of its coordinate system ``um``, else for that from the pitch
        of the spots if the table has ``array_row`` and ``array_col`` of a Visium array. A given value replaces that of the
        object.
    table_key, image_key, shapes_key
        Names of the table, image and shapes that belong together; needed if there are several. ``image_key`` may also map
        regions to images. A table that annotates nothing is connected to the shapes ``shapes_key`` of the same length or names.
    orient
        Transformation of the image; see :func:`visium`. Where the object also has a reduced image of the section (such as the
        ``hires_image`` that spatialdata-io reads), the two are compared.

    Returns
    -------
    A new object with the same elements, in which the image is uint8 and multi-scale, the image and all that shares a
    coordinate system with it have ``um`` (and ``global``, pixels of the image, where there was none), and the table
    has ``obsm["spatial"]`` in pixels of the image. Points are left as they are.

    Raises
    ------
    ValueError
        If the pixel size is unknown, spots lie outside the image, the image is mirrored or turned against a reduced one of the
        same object, or the table, image or shapes are ambiguous.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.adopt(hd.datasets.toy(size_um=400))
    >>> sorted(sdata.coordinate_systems)
    ['global', 'um']
    """
    check_sdata(sdata)
    if mpp is not None:
        check_mpp(positive(mpp, "mpp"), "the image")
    copy = _without_um(sdata)
    table_key = resolve_table(sdata, table_key)
    if table_key is not None:
        copy.tables[table_key] = genes_of(_connected(sdata, table_key, shapes_key), f"Table {table_key!r}")
    # The scale is settled below; any number does for finding out what belongs together.
    places = locate(copy, Selection(table_key, image_key, shapes_key, mpp=1.0))
    add_global = GLOBAL not in copy.coordinate_systems  # of the object as it came: the first section may bring it
    for place in places:
        if place.image_key is None:
            raise ValueError(
                f"No image of the object shares a coordinate system with {place.region!r}; its images are "
                f"{listing(sdata.images)}."
            )
        _settle(copy, place, _mpp_of(sdata, place, mpp), orient, add_global=add_global)
    if table_key is not None:
        off = np.concatenate([place.rows[~_on_image(place)] for place in places])
        if len(off):
            table = copy.tables[table_key]
            copy.tables[table_key] = table[~np.isin(np.arange(table.n_obs), off)].copy()
    return copy


def _without_um(sdata: SpatialData) -> SpatialData:
    """Return an object that shares all data, whose transformations can be changed and have no ``um`` yet."""
    moved: dict[str, SpatialElement] = {}
    for kind, name, element in sdata.gen_spatial_elements():
        if kind != "points":
            element = element.copy(deep=False)
            known = {k: v for k, v in get_transformation(element, get_all=True).items() if k != UM}
            # An element that has nothing but um keeps it: it cannot be placed otherwise.
            set_transformation(element, known or get_transformation(element, get_all=True), set_all=True)
        moved[name] = element
    return SpatialData.init_from_elements(moved | dict(sdata.tables), attrs=dict(sdata.attrs))


def _connected(sdata: SpatialData, table_key: str, shapes_key: str | None) -> ad.AnnData:
    """Return a table that shares its matrices with the one of the object, and annotates an element."""
    old = sdata.tables[table_key]
    parts = {slot: dict(getattr(old, slot)) for slot in ("uns", "obsm", "varm", "obsp", "varp")}
    parts["layers"] = {name: old.layers[name] for name in layer_names(old)}
    table = ad.AnnData(old.X, obs=old.obs.copy(), var=old.var.copy(), **parts)
    if attrs_of(table):
        return table
    if shapes_key is None:
        fitting = [key for key, shapes in sdata.shapes.items() if len(shapes) == table.n_obs]
        if len(fitting) != 1:
            raise ValueError(
                f"Table {table_key!r} annotates no element, and {len(fitting)} of the shapes have its {table.n_obs} rows "
                f"(shapes: {listing(sdata.shapes)}); choose with shapes_key=."
            )
        shapes_key = fitting[0]
    index = sdata.shapes[present(shapes_key, list(sdata.shapes), "shapes element")].index
    named = table.obs_names.isin(index.astype(str)).all()
    if not named and len(index) != table.n_obs:
        raise ValueError(
            f"Table {table_key!r} has {table.n_obs} rows and {shapes_key!r} {len(index)} shapes of other names; which "
            "belong together is not known."
        )
    by_name = dict(zip(index.astype(str), index))
    table.obs[REGION_KEY] = shapes_key
    table.obs[REGION_KEY] = table.obs[REGION_KEY].astype("category")
    table.obs[INSTANCE_KEY] = [by_name[name] for name in table.obs_names] if named else index.to_numpy()
    return annotating(table, shapes_key)


def _mpp_of(sdata: SpatialData, place: Place, mpp: float | None) -> float:
    """Return the given pixel size, or that of the object or of the pitch of its spots."""
    elements = Elements(sdata)  # those of the copy have no um
    stated = None
    if UM in elements.frame(place.image_name).systems:
        stated = Source(f"the coordinate system {UM!r} of the object", image_mpp(elements, place.image_name))
    elif place.region is not None and UM in elements.frame(place.region).systems:
        to_um = elements.frame(place.region).matrix(UM) @ inverse(place.to_px)
        scale = similarity_scale(to_um, f"The transformation of {place.region!r} to {UM!r}")
        stated = Source(f"the coordinate system {UM!r} of {place.region!r}", scale)
    pitch = None
    if place.table is not None and place.region in sdata.shapes:
        pitch = visium_source(place.table.obs.iloc[place.rows], _centers(place))
    return settle_mpp([stated, pitch], place.name, mpp)


def _centers(place: Place) -> np.ndarray:
    """Return the centres of spots in pixels of the image, in the order of the rows of the table."""
    shapes = place.sdata.shapes[str(place.region)]
    keys = instances_of(needed(place.table))[place.rows]
    rows = shapes.index.get_indexer(keys)
    if (rows < 0).any():
        raise ValueError(
            f"{int((rows < 0).sum())} of {len(rows)} rows of table {place.table_key!r} have no shape in {place.region!r}, "
            f"such as {listing(keys[rows < 0], 4)}."
        )
    return apply(place.to_px, centers_of(np.asarray(shapes.geometry)[rows], repr(place.region)))


def _settle(copy: SpatialData, place: Place, mpp: float, orient: str | None, *, add_global: bool) -> None:
    """Write the scale of one section into the copy, and bring its image and table to form."""
    key, elements = place.image_name, Elements(copy)
    moves = {key: np.eye(3)}
    for kind, name, _ in copy.gen_spatial_elements():
        to_px = None if kind == "points" or name == key else elements.frame(name).to(elements.frame(key))
        if to_px is not None:
            moves[name] = to_px
    copy.images[key] = _image_form(copy.images[key], key, orient)
    _check_orientation(copy, place)
    for name, to_px in moves.items():
        element = copy[name]
        known = dict(get_transformation(element, get_all=True))
        if add_global:  # sections that lie in one system share the pixels of the first one's image
            known.setdefault(GLOBAL, _transformation(to_px))
        known[UM] = _transformation(scaling(mpp) @ to_px)
        set_transformation(element, known, set_all=True)
    if place.table is not None and place.region in copy.shapes:
        xy_px = _centers(place)
        if "radius" in copy.shapes[place.region]:
            check_radii(copy.shapes[place.region]["radius"], repr(place.region))
        spatial = place.table.obsm.get(SPATIAL)
        spatial = np.full((place.table.n_obs, 2), np.nan) if spatial is None else np.array(spatial, dtype=float)[:, :2]
        spatial[place.rows] = xy_px
        place.table.obsm[SPATIAL] = spatial


def _on_image(place: Place) -> np.ndarray:
    """Return which rows of a section lie on its image; a few that do not are left out of the table."""
    if place.region not in place.sdata.shapes:
        return np.ones(len(place.rows), dtype=bool)
    image = Elements(place.sdata).finest(place.image_name)
    return on_image(_centers(place), (image.sizes["y"], image.sizes["x"]), f"{place.region!r}")


def _transformation(matrix: np.ndarray) -> BaseTransformation:
    if np.allclose(matrix, np.eye(3)):
        return Identity()
    scale = matrix[0, 0]
    if np.allclose(matrix, np.diag([scale, scale, 1.0])):
        return Scale([scale, scale], axes=XY)
    return Affine(matrix, input_axes=XY, output_axes=XY)


def _check_orientation(copy: SpatialData, place: Place) -> None:
    """Compare the image of a section with a reduced one of the same extent, where the object has one."""
    elements, full = Elements(copy), _raster_of(copy.images[place.image_name])
    for key in elements.rgb_images():
        if key == place.image_name:
            continue
        # Images of readers of the field share a system with the spots, each one of its own, and none with each other.
        to_full = elements.frame(key).to(elements.frame(place.image_name))
        if to_full is None and place.region is not None:
            to_reduced = elements.frame(place.region).to(elements.frame(key))
            to_full = None if to_reduced is None else place.to_px @ inverse(to_reduced)
        if (
            to_full is None
            or not np.allclose(to_full[:2, :2], np.eye(2) * to_full[0, 0], rtol=0.02)
            or to_full[0, 0] <= 1
        ):
            continue
        levels = levels_of(copy.images[key])
        coarse = np.moveaxis(in_memory(levels[-1].data, f"Image {key!r}"), 0, -1)
        scale = coarse.shape[0] / levels[0].shape[1] / to_full[0, 0]
        if fits_size(full, coarse, scale):
            check_orientation(full, coarse, f"Image {place.image_name!r}")


def _raster_of(element: Any) -> Raster:
    levels = [level.data for level in levels_of(element)]
    return Raster(levels, n_stored=len(levels))


def _image_form(element: Any, key: str, orient: str | None) -> Any:
    """Return an image as uint8 RGB in several scales and turned; one that is so already is returned as it is."""
    levels = levels_of(element)
    if orient is not None:
        given = turned(_raster_of(element), orient).levels
        levels = [type(level)(data, dims=level.dims, attrs=level.attrs) for level, data in zip(levels, given)]
        element = None
    if hasattr(element, "children") and levels[0].dtype == np.uint8 and levels[0].sizes["c"] == 3:
        return element
    alpha = 3 if levels[0].sizes["c"] == 4 else None
    pixels = to_rgb(Stored([level.data for level in levels], alpha=alpha), f"image {key!r}")
    return image_element(extended(pixels), get_transformation(levels[0], get_all=True))
