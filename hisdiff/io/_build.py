"""Build a section in the form that every reader returns.

Full-resolution pixels are the intrinsic coordinates of image, shapes and ``obsm["spatial"]``; the coordinate system
``global`` is the identity on them, and ``um`` their scale by the pixel size, kept nowhere else.
"""

from __future__ import annotations

import contextlib
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation
from xarray import DataArray, Dataset, DataTree

from hisdiff._check import check_radii
from hisdiff._keys import GLOBAL, INSTANCE_KEY, NAMES, REGION_KEY, SPATIAL, STEM, UM
from hisdiff.io._names import clean_table, element_name
from hisdiff.io._scale import check_mpp
from hisdiff.io._spots import check_one_section, on_image
from hisdiff.io._storable import storable_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData
    from geopandas import GeoDataFrame

    from hisdiff._json import Plain

CHUNK = 1024
"""Side of an image chunk in pixels: some 3 MB, a few patches wide."""
SMALLEST_LEVEL = 512
"""Pyramid levels are made until the longer side is no longer than this."""
TABLE = "table"


def transformations(mpp: float, reduction: float = 1.0) -> Plain:
    """Return the transformations of an element in full-resolution pixels, or in pixels ``reduction`` times as wide."""
    to_global = Identity() if reduction == 1 else Scale([reduction, reduction], axes=("x", "y"))
    return {GLOBAL: to_global, UM: Scale([mpp * reduction, mpp * reduction], axes=("x", "y"))}


def halve(pixels: np.ndarray) -> np.ndarray:
    """Return a uint8 ``(c, y, x)`` image at half the resolution: means of 2 x 2 pixels, an odd last line dropped."""
    height, width = pixels.shape[1] // 2 * 2, pixels.shape[2] // 2 * 2
    half = np.empty((len(pixels), height // 2, width // 2), dtype=np.uint8)
    for top in range(0, height, CHUNK):  # in strips, so that no 16-bit copy of the slide is held
        strip = pixels[:, top : min(top + CHUNK, height), :width]
        rows = np.add(strip[:, 0::2], strip[:, 1::2], dtype=np.uint16)
        total = rows[:, :, 0::2] + rows[:, :, 1::2]
        half[:, top // 2 : top // 2 + total.shape[1]] = (total + 2) >> 2
    return half


def levels_of(pixels: np.ndarray | da.Array) -> list[da.Array]:
    """Return the pyramid of a uint8 image ``(c, y, x)``, finest first, each level half of the one before.

    The levels of an array in memory are made now, those of a dask array stay lazy.
    """
    if isinstance(pixels, da.Array):
        return extended([chunked(pixels)])
    arrays = [pixels]
    while _can_halve(arrays[-1].shape):
        arrays.append(halve(arrays[-1]))
    return [chunked(array) for array in arrays]


def extended(levels: list[da.Array]) -> list[da.Array]:
    """Return the levels of a file with lazy coarser ones added, where the coarsest is still large."""
    levels = list(levels)
    while _can_halve(levels[-1].shape):
        fine = chunked(levels[-1])
        # Chunks are even but for the last ones, so halving block by block is halving the whole.
        sides = [tuple(side // 2 for side in sizes) for sizes in fine.chunks[1:]]
        levels.append(da.map_blocks(halve, fine, dtype=np.uint8, chunks=(fine.chunks[0], *sides)))
    return levels


def _can_halve(shape: tuple[int, ...]) -> bool:
    return max(shape[1:]) > SMALLEST_LEVEL and min(shape[1:]) > 1


def chunked(pixels: np.ndarray | da.Array) -> da.Array:
    """Return an image ``(c, y, x)`` as a dask array with all channels of a square in one chunk."""
    chunks = (len(pixels), CHUNK, CHUNK)
    if not isinstance(pixels, np.ndarray):
        return pixels.rechunk(chunks)
    # da.from_array would copy the slide, and read all of it once more to name it by its content.
    name = f"pixels-{uuid.uuid4().hex}"
    sizes = da.core.normalize_chunks(chunks, pixels.shape, dtype=pixels.dtype)
    blocks = {
        (name, 0, i, j): pixels[:, i * CHUNK : (i + 1) * CHUNK, j * CHUNK : (j + 1) * CHUNK]
        for i in range(len(sizes[1]))
        for j in range(len(sizes[2]))
    }
    return da.Array(blocks, name, sizes, dtype=pixels.dtype)


def image_element(levels: Sequence[da.Array], to: Mapping[str, Any]) -> DataTree:
    """Return a multi-scale image element from pyramid levels ``(3, y, x)``, finest first.

    The levels are taken as they are: those of the file, not new ones computed from its finest.

    Parameters
    ----------
    to
        Transformations of the finest level.
    """
    channels = ["r", "g", "b"]
    tree = {
        f"scale{i}": Dataset({"image": DataArray(level, dims=("c", "y", "x"), coords={"c": channels})})
        for i, level in enumerate(levels)
    }
    element = DataTree.from_dict(tree)
    set_transformation(element, dict(to), set_all=True)
    full = levels[0].shape
    for i, level in enumerate(levels):  # pixel centres in pixels of the finest level, as spatialdata has them
        node = element[f"scale{i}"]
        centers = {
            axis: (np.arange(level.shape[k]) + 0.5) * (full[k] / level.shape[k]) for k, axis in ((1, "y"), (2, "x"))
        }
        node.dataset = node.to_dataset().assign_coords(centers)
    Image2DModel.validate(element)
    return element


def circles(xy_px: np.ndarray, radius_px: float | np.ndarray, index: Sequence[str], mpp: float) -> GeoDataFrame:
    """Return spots as circles in full-resolution pixels."""
    return ShapesModel.parse(
        np.asarray(xy_px, dtype=np.float64),
        geometry=0,
        radius=radius_px,
        index=index,
        transformations=transformations(mpp),
    )


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Silence warnings of libraries about what is corrected here: repeated gene names, and the element that a table annotates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        warnings.filterwarnings("ignore", "Converting `region_key", UserWarning)
        warnings.filterwarnings("ignore", "The table is annotating", UserWarning)
        warnings.filterwarnings("ignore", "The default value for `spmatrix`", DeprecationWarning)
        yield


def annotate(adata: AnnData, region: str, instances: Sequence[Any], xy_px: np.ndarray) -> AnnData:
    """Return ``adata`` as a table that annotates the element ``region``."""
    adata.uns.pop(TableModel.ATTRS_KEY, None)  # of an earlier life
    adata.obs[REGION_KEY] = pd.Categorical([region] * adata.n_obs)
    adata.obs[INSTANCE_KEY] = instances
    adata.obsm[SPATIAL] = np.array(xy_px, dtype=np.float64)
    return TableModel.parse(adata, region=region, region_key=REGION_KEY, instance_key=INSTANCE_KEY)


def image_key(name: str) -> str:
    """Name of the image element of a section."""
    return f"{name}_image"


def attrs_of(names: Mapping[str, str]) -> Plain:
    """Return attributes of an object that keep the original of each name that had to be changed."""
    changed = {name: original for name, original in names.items() if name != original}
    return {STEM: {NAMES: changed}} if changed else {}


def section(
    name: str,
    levels: Sequence[da.Array],
    mpp: float,
    adata: AnnData,
    xy_px: np.ndarray,
    *,
    radius_um: float | np.ndarray = float("nan"),
    outlines: GeoDataFrame | None = None,
    reduction: float = 1.0,
) -> SpatialData:
    """Return a section: image, spots and table. Here all readers share the rules for names and spots.

    Parameters
    ----------
    name
        As it came; the element is called what SpatialData takes of it, and the original is kept in ``attrs``.
    mpp
        Micrometres per full-resolution pixel.
    adata
        Counts of genes (:func:`~hisdiff.io._features.genes_of`), names and ``obs``; it becomes the table (and is changed).
    xy_px
        ``(n, 2)`` centres in full-resolution pixels.
    radius_um, outlines
        One of them: the radius of round spots, or polygons in full-resolution pixels in the order of ``adata``.
    reduction
        Full-resolution pixels per pixel of the finest level, where that is a reduced image.
    """
    original, name = str(name), element_name(name)
    mpp = check_mpp(mpp, name)
    what = f"section {name!r}"
    if not adata.n_vars:
        raise ValueError(f"There is no gene in the table of {what}.")
    check_one_section(adata, what, xy_px)
    size = levels[0].shape[1] * reduction, levels[0].shape[2] * reduction
    kept = on_image(xy_px, size, what)
    if not kept.all():
        adata, xy_px = adata[kept].copy(), xy_px[kept]
        outlines = outlines if outlines is None else outlines[kept]
        radius_um = radius_um[kept] if isinstance(radius_um, np.ndarray) else radius_um
    names = {name: original, **clean_table(adata)}
    storable_table(adata)
    if outlines is None:
        check_radii(np.atleast_1d(radius_um), what)
        shapes = circles(xy_px, radius_um / mpp, adata.obs_names.to_numpy(), mpp)
    else:
        outlines = outlines.copy(deep=False)
        outlines.attrs = {}  # transformations of an earlier life
        shapes = ShapesModel.parse(outlines, transformations=transformations(mpp))
    return SpatialData(
        images={image_key(name): image_element(levels, transformations(mpp, reduction))},
        shapes={name: shapes},
        tables={TABLE: annotate(adata, name, shapes.index.to_numpy(), xy_px)},
        attrs=attrs_of(names),
    )
