"""An AnnData with positions, and its image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd

from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._keys import SPATIAL
from hisdiff._log import logger
from hisdiff._sdata._counts import read_counts
from hisdiff.io._build import chunked, levels_of, section, without_noise
from hisdiff.io._color import Stored, to_rgb
from hisdiff.io._features import genes_of
from hisdiff.io._orient import check_orientation, fits_size, turned
from hisdiff.io._raster import Raster, open_raster
from hisdiff.io._scale import (
    diameter_source,
    library_of,
    number_or_none,
    reported_diameter,
    resolve_radius,
    settle_mpp,
    visium_source,
)
from hisdiff.io._spots import check_finite, check_one_section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

XY_COLUMNS = (("x", "y"), ("X", "Y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"))
"""Columns in which data frames have x and y."""


@checked
def from_anndata(
    adata: AnnData,
    image: str | Path | np.ndarray | da.Array | None = None,
    mpp: float | None = None,
    *,
    layer: str | None = None,
    spot_diameter_um: float | None = None,
    orient: str | None = None,
    name: str = "section",
) -> SpatialData:
    """Combine an AnnData that has positions with its H&E image.

    Parameters
    ----------
    adata
        Spots × genes, raw counts in ``X`` or ``layer``, centres in ``obsm["spatial"]`` as (x, y) in pixels of ``image``.
        It is not changed.
    image
        The full-resolution image: a file (see :func:`image`), or an array ``(y, x, 3)`` or ``(3, y, x)``. None for the
        reduced image in ``uns["spatial"]``, the only one in many public objects; its scale factor aligns it with the spots.
    mpp
        Micrometres per full-resolution pixel. None: from the pitch of the spots where ``obs`` has ``array_row`` and
        ``array_col`` of a Visium array, else from ``spot_diameter_um`` and the scale factors in ``uns["spatial"]``, else from
        the file. Contradicting values are an error; a given value takes precedence over all but the spots.
    layer
        Layer with the raw counts; it becomes ``X`` of the table.
    spot_diameter_um
        Width of a spot. None: 55 on a Visium array, else from the scale factors.
    orient
        Orientation of the image; see :func:`visium`.
    name
        Name of the section.

    Returns
    -------
    An object with the image ``{name}_image``, round spots ``{name}`` and the table ``"table"``: a copy of ``adata`` with
    the counts as csr float32 in ``X``.

    Raises
    ------
    ValueError
        If positions or the scale are missing, spots lie outside the image, the scale contradicts the spots (an image
        of reduced resolution), or the values are not counts.

    Examples
    --------
    >>> import hisdiff as hd
    >>> toy = hd.datasets.toy(size_um=400)
    >>> pixels = toy.images["toy_image"]["scale0"]["image"].to_numpy()
    >>> sdata = hd.io.from_anndata(toy.tables["table"], pixels, mpp=0.5)
    >>> list(sdata.images), list(sdata.shapes)
    (['section_image'], ['section'])
    """
    adata = in_memory(adata)
    xy_px = positions(adata)
    check_one_section(adata, "adata", xy_px)
    library = library_of(adata)
    counts = read_counts(adata, layer, what="adata")
    if spot_diameter_um is not None:
        positive(spot_diameter_um, "spot_diameter_um")
    if mpp is not None:
        positive(mpp, "mpp")
    raster, reduction = _image_of(image, library, orient)
    pitch = visium_source(adata.obs, xy_px)
    on_visium = pitch is not None
    diameter_px = reported_diameter(adata)
    diameter = diameter_source(diameter_px, spot_diameter_um, on_visium=on_visium)
    mpp = settle_mpp([pitch, diameter, *raster.sources], name, mpp)
    radius_um = resolve_radius(mpp, name, given_um=spot_diameter_um, on_visium=on_visium, diameter_px=diameter_px)
    with without_noise():
        table = adata.copy()
    table.X = counts
    table = genes_of(table, name)
    return section(name, raster.levels, mpp, table, xy_px, radius_um=radius_um, reduction=reduction)


def in_memory(adata: Any) -> AnnData:
    """Return an AnnData whose arrays are in memory; one that is backed or lazy is read."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(f"adata is an AnnData, not {type(adata).__name__}.")
    lazy = adata.isbacked or not isinstance(adata.obs, pd.DataFrame) or isinstance(adata.X, da.Array)
    return adata.to_memory() if lazy else adata


def positions(adata: Any) -> np.ndarray:
    """Return the centres of spots in pixels, ``(n, 2)``, from ``obsm["spatial"]``."""
    if SPATIAL not in adata.obsm:
        raise ValueError(
            f"adata.obsm has no 'spatial', the positions of spots in pixels; it has {listing(adata.obsm)}."
        )
    if not adata.obs_names.is_unique:
        raise ValueError("The obs_names of adata are not unique; call adata.obs_names_make_unique().")
    stored = adata.obsm[SPATIAL]
    if isinstance(stored, pd.DataFrame):  # columns may be in any order
        named = next((list(names) for names in XY_COLUMNS if set(names) <= set(stored.columns)), stored.columns)
        stored = stored[named]
    xy_px = np.asarray(stored, dtype=np.float64)
    if xy_px.ndim != 2 or xy_px.shape[1] < 2:
        raise ValueError(f"adata.obsm['spatial'] is (n, 2), x and y in pixels, not {xy_px.shape}.")
    check_finite(xy_px[:, :2], "adata")
    return xy_px[:, :2]


def _image_of(image: Any, library: Mapping[str, Any] | None, orient: str | None) -> tuple[Raster, float]:
    """Return the image, and how many full-resolution pixels one of its pixels is wide."""
    reduced = _reduced(library)
    if image is None:
        if reduced is None:
            raise ValueError(
                "There is no image: pass the full-resolution one, since uns['spatial'] has none with a scale factor."
            )
        pixels, scale = reduced
        logger.info("No image is given, so that in uns['spatial'] is used, at 1 / %.3g of the resolution.", 1 / scale)
        return turned(_raster_of(pixels), orient), 1 / scale
    raster = turned(_raster_of(image), orient)
    if reduced is not None and fits_size(raster, *reduced):
        check_orientation(raster, reduced[0], str(image) if isinstance(image, (str, Path)) else "The image")
    return raster, 1.0


def _reduced(library: Mapping[str, Any] | None) -> tuple[np.ndarray, float] | None:
    """Return the finest image of a library in ``uns["spatial"]`` and its scale to full-resolution pixels."""
    if library is None:
        return None
    factors, found = library.get("scalefactors", {}), []
    for key, pixels in (library.get("images") or {}).items():
        scale = number_or_none(factors.get(f"tissue_{key}_scalef", 1.0 if key == "fullres" else None))
        if scale is not None and np.ndim(pixels) == 3:
            found.append((np.asarray(pixels), scale))
    return max(found, key=lambda item: item[1], default=None)


def _raster_of(image: Any) -> Raster:
    if isinstance(image, (str, Path)):
        return open_raster(image)
    if not isinstance(image, (np.ndarray, da.Array)):
        raise TypeError(f"image is a path or an array, not {type(image).__name__}.")
    if image.ndim != 3:
        raise ValueError(f"The image array is (y, x, 3), not {image.shape}; H&E is read from red, green and blue.")
    if image.shape[-1] in (3, 4):
        image = image.transpose(2, 0, 1)
    (full,) = to_rgb(Stored([chunked(image)], alpha=3 if image.shape[0] == 4 else None), "The image array")
    if isinstance(image, np.ndarray):
        return Raster(levels_of(full.compute()))
    return Raster(levels_of(full))
