"""An AnnData with positions, and its image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hisdiff._check import listing, positive
from hisdiff._keys import SPATIAL
from hisdiff._sdata._read import read_counts
from hisdiff.io._build import check_finite, chunked, element_name, levels_of, section, unique_genes, without_noise
from hisdiff.io._colour import Stored, to_rgb
from hisdiff.io._raster import Raster, open_raster
from hisdiff.io._scale import resolve_mpp, resolve_radius, spot_scale

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def from_anndata(
    adata: AnnData,
    image: str | Path | np.ndarray | da.Array,
    mpp: float | None = None,
    *,
    layer: str | None = None,
    spot_diameter_um: float | None = None,
    name: str = "section",
) -> SpatialData:
    """Bring an AnnData with positions and its H&E image together.

    Parameters
    ----------
    adata
        Spots × genes, raw counts in ``X`` or ``layer``, centres in ``obsm["spatial"]`` as (x, y) in pixels of ``image``.
        It is not changed.
    image
        The full-resolution image: a file (see :func:`image`), or an array ``(y, x, 3)`` or ``(3, y, x)``.
    mpp
        Micrometres per pixel. None: from the pitch of the spots where ``obs`` has ``array_row`` and ``array_col`` of a
        Visium array, else from ``spot_diameter_um`` and the scale factors in ``uns["spatial"]``, else from the file.
    layer
        Layer with the raw counts; it becomes ``X`` of the table.
    spot_diameter_um
        Width of a spot. None: 55 on a Visium array, else from the scale factors.
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
        of reduced resolution), or the values are no counts.

    Examples
    --------
    >>> import hisdiff as hd
    >>> toy = hd.datasets.toy(size_um=400)
    >>> pixels = toy.images["toy_image"]["scale0"]["image"].to_numpy()
    >>> sdata = hd.io.from_anndata(toy.tables["table"], pixels, mpp=0.5)
    >>> list(sdata.images), list(sdata.shapes)
    (['section_image'], ['section'])
    """
    xy_px = positions(adata)
    counts = read_counts(adata, layer, what="adata")
    if spot_diameter_um is not None:
        positive(spot_diameter_um, "spot_diameter_um")
    if mpp is not None:
        positive(mpp, "mpp")
    raster = _raster_of(image)
    name = element_name(name)
    spots = spot_scale(adata, xy_px)
    known = resolve_mpp(spots, mpp=mpp, image_mpp=raster.mpp, spot_diameter_um=spot_diameter_um, what=name)
    radius_um = resolve_radius(spots, known, spot_diameter_um, name)
    with without_noise():
        table = adata.to_memory() if adata.isbacked else adata.copy()
    table.X = counts
    table.var_names = unique_genes(table.var_names, name)
    return section(name, raster.levels, known, table, xy_px, radius_um=radius_um)


def positions(adata: Any) -> np.ndarray:
    """Return the centres of spots in pixels, ``(n, 2)``, from ``obsm["spatial"]``."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(f"adata is an AnnData, not {type(adata).__name__}.")
    if SPATIAL not in adata.obsm:
        raise ValueError(
            f"adata.obsm has no 'spatial', the positions of spots in pixels; it has {listing(adata.obsm)}."
        )
    if not adata.obs_names.is_unique:
        raise ValueError("The obs_names of adata are not unique; call adata.obs_names_make_unique().")
    xy_px = np.asarray(adata.obsm[SPATIAL], dtype=np.float64)
    if xy_px.ndim != 2 or xy_px.shape[1] < 2:
        raise ValueError(f"adata.obsm['spatial'] is (n, 2), x and y in pixels, not {xy_px.shape}.")
    check_finite(xy_px[:, :2], "adata")
    return xy_px[:, :2]


def _raster_of(image: Any) -> Raster:
    if isinstance(image, (str, Path)):
        return open_raster(image)
    if not isinstance(image, (np.ndarray, da.Array)):
        raise TypeError(f"image is a path or an array, not {type(image).__name__}.")
    if image.ndim != 3:
        raise ValueError(f"The image array is (y, x, 3), not {image.shape}; H&E is read from red, green and blue.")
    if image.shape[-1] in (3, 4):
        image = image.transpose(2, 0, 1)
    (full,) = to_rgb(Stored([chunked(image)], alpha=image.shape[0] == 4), "The image array")
    if isinstance(image, np.ndarray):
        return Raster(levels_of(full.compute()))
    return Raster(levels_of(full))
