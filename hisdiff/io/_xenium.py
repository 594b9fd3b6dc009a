"""Folders that Xenium writes, with an H&E image of the same section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Affine, Identity, Scale

from hisdiff._check import listing
from hisdiff._geometry import similarity_scale
from hisdiff._keys import GLOBAL, UM
from hisdiff._log import logger
from hisdiff._sdata._read import read_counts
from hisdiff.io._build import (
    TABLE,
    annotate,
    check_inside,
    check_mpp,
    element_name,
    image_element,
    image_key,
    unique_genes,
    without_noise,
)
from hisdiff.io._raster import open_raster

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

HE_SUFFIX = "he_image.ome.tif"
ALIGNMENT_SUFFIX = "he_imagealignment.csv"
BOUNDARIES = "cell_boundaries"


def xenium(
    path: str | Path,
    *,
    he_image_file: str | Path | None = None,
    alignment_file: str | Path | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read a Xenium section with its H&E image.

    Parameters
    ----------
    path
        Folder with ``experiment.xenium``, ``cell_feature_matrix.h5`` and ``cell_boundaries.parquet``.
    he_image_file
        H&E image of the section; None for the ``*he_image.ome.tif`` in the folder.
    alignment_file
        csv with the 3 x 3 matrix from pixels of the H&E image to pixels of the Xenium image; None for the
        ``*he_imagealignment.csv`` beside the image, and where there is none the two are taken to agree.
    name
        Name of the section; None for the folder's.
    **kwargs
        For :func:`spatialdata_io.xenium`. Labels, transcripts and fluorescence images are not read unless asked for
        (``transcripts=True``, ``morphology_focus=True``, ...).

    Returns
    -------
    An object with the image ``{name}_image``, the outlines of cells ``{name}`` and the table ``"table"`` of raw counts, one
    row per cell. ``obsm["spatial"]`` and the coordinate system ``global`` are pixels of the H&E image, and ``um``
    its scale.

    Raises
    ------
    FileNotFoundError
        If there is no H&E image or a file is missing.
    ValueError
        If the alignment stretches or shears the image, or the cells do not lie on it.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.xenium("sample", he_image_file="he.ome.tif", alignment_file="he_alignment.csv")  # doctest: +SKIP
    """
    from spatialdata_io import xenium as read

    path = Path(path).expanduser()
    for needed in (
        "experiment.xenium",
        "cell_feature_matrix.h5",
        "cells.parquet",
        "cell_boundaries.parquet",
        "cells.zarr.zip",
    ):
        if not (path / needed).exists():
            there = listing(f.name for f in path.iterdir()) if path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} has no {needed!r}; the folder: {there}.")
    image_file, to_xenium_px = _he_image(path, he_image_file, alignment_file)
    pixel_um = float(json.loads((path / "experiment.xenium").read_text())["pixel_size"])
    to_um = np.diag([pixel_um, pixel_um, 1.0]) @ to_xenium_px
    name = element_name(name or path.resolve().name)
    mpp = check_mpp(similarity_scale(to_um, f"The alignment of {image_file.name}"), image_file.name)
    raster = open_raster(image_file)

    off = ("cells_labels", "nucleus_labels", "nucleus_boundaries", "transcripts", "morphology_mip", "morphology_focus")
    with without_noise():
        found = read(path, **{**dict.fromkeys(off, False), "aligned_images": False, **kwargs})
    table, outlines = found.tables[TABLE], found.shapes[BOUNDARIES]
    with_outline = table.obs["cell_id"].isin(outlines.index).to_numpy()
    if not with_outline.all():
        logger.info("%s: left out %d cells without an outline.", name, (~with_outline).sum())
    table = table[with_outline].copy()
    table.X = read_counts(table, None, what=name)
    table.var_names = unique_genes(table.var_names, name)
    outlines = _in_image_px(outlines.loc[table.obs["cell_id"]], np.linalg.inv(to_um))
    xy_px = shapely.get_coordinates(shapely.centroid(np.asarray(outlines.geometry)))
    check_inside(xy_px, raster.size, f"section {name!r}")

    # um is the scale of the H&E image alone: the rotation of the alignment is in the coordinates.
    to = {GLOBAL: Identity(), UM: Scale([mpp, mpp], axes=("x", "y"))}
    others = _others(found, np.linalg.inv(to_xenium_px), mpp)
    return SpatialData(
        images={image_key(name): image_element(raster.levels, to), **others["images"]},
        labels=others["labels"],
        points=others["points"],
        shapes={name: ShapesModel.parse(outlines, transformations=to), **others["shapes"]},
        tables={TABLE: annotate(table, name, outlines.index.to_numpy(), xy_px)},
    )


def _he_image(path: Path, image: str | Path | None, alignment: str | Path | None) -> tuple[Path, np.ndarray]:
    """Return the H&E image and the matrix from its pixels to those of the Xenium image."""
    if image is None:
        candidates = sorted(path.glob(f"*{HE_SUFFIX}"))
        if len(candidates) != 1:
            raise FileNotFoundError(
                f"{path} has {len(candidates)} H&E images (*{HE_SUFFIX}); pass he_image_file=, and alignment_file= for the "
                "csv that aligns it. The fluorescence images of Xenium cannot stand in for H&E."
            )
        image = candidates[0]
    image = Path(image).expanduser()
    if alignment is None:
        beside = image.parent / image.name.replace(HE_SUFFIX, ALIGNMENT_SUFFIX)
        if beside == image or not beside.exists():
            logger.info("%s has no alignment file; its pixels are taken for those of the Xenium image.", image.name)
            return image, np.eye(3)
        alignment = beside
    matrix = pd.read_csv(alignment, header=None).to_numpy(dtype=float)
    if matrix.shape != (3, 3):
        raise ValueError(f"{alignment} holds a {matrix.shape} matrix; 3 x 3 is needed.")
    return image, matrix


def _in_image_px(outlines: GeoDataFrame, from_um: np.ndarray) -> GeoDataFrame:
    """Return outlines, which Xenium gives in um, in pixels of the H&E image."""
    moved = outlines.copy(deep=False)
    moved.attrs = {}
    moved.geometry = shapely.transform(
        np.asarray(outlines.geometry), lambda xy: xy @ from_um[:2, :2].T + from_um[:2, 2]
    )
    return moved


def _others(found: SpatialData, to_image_px: np.ndarray, mpp: float) -> dict[str, dict[str, Any]]:
    """Return what else was asked for, moved from pixels of the Xenium image to those of the H&E image."""
    from spatialdata.transformations import Sequence, get_transformation, set_transformation

    others: dict[str, dict[str, Any]] = {"images": {}, "labels": {}, "points": {}, "shapes": {}}
    to_px = Affine(to_image_px, input_axes=("x", "y"), output_axes=("x", "y"))
    to_um = Scale([mpp, mpp], axes=("x", "y"))
    for kind, key, element in found.gen_spatial_elements():
        if key == BOUNDARIES:
            continue
        before = get_transformation(element, GLOBAL)
        set_transformation(
            element, {GLOBAL: Sequence([before, to_px]), UM: Sequence([before, to_px, to_um])}, set_all=True
        )
        others[kind][key] = element
    return others
