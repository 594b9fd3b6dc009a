"""Folders that Xenium writes, with an H&E image of the same section."""

from __future__ import annotations

import csv
import inspect
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from spatialdata.transformations import Affine, Scale

from hisdiff._arguments import checked
from hisdiff._check import listing
from hisdiff._geometry import similarity_scale
from hisdiff._keys import GLOBAL, UM
from hisdiff._log import logger
from hisdiff._sdata._affine import apply, inverse
from hisdiff._sdata._counts import read_counts
from hisdiff.io._build import TABLE, section, without_noise
from hisdiff.io._features import genes_of
from hisdiff.io._orient import turned
from hisdiff.io._raster import open_raster
from hisdiff.io._scale import Source, settle_mpp
from hisdiff.io._spaceranger import contents, number, read_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

HE_SUFFIX = "he_image.ome.tif"
ALIGNMENT_SUFFIX = "he_imagealignment.csv"
BOUNDARIES = "cell_boundaries"
CIRCLES = "cell_circles"
KEYPOINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
"""Columns of keypoints as Xenium Explorer writes them: in the Xenium image, and in the aligned one."""
_FIXED = ("aligned_images", "cells_boundaries", "cells_as_circles", "cells_table", "gex_only", "n_jobs")
"""Arguments of spatialdata-io's reader that this reader decides."""


@checked
def xenium(
    path: str | Path,
    *,
    he_image_file: str | Path | None = None,
    alignment_file: str | Path | None = None,
    mpp: float | None = None,
    orient: str | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read a Xenium section with its H&E image.

    Parameters
    ----------
    path
        Folder with ``experiment.xenium``, ``cell_feature_matrix.h5``, ``cells.parquet``, ``cells.zarr.zip`` and, where cells
        have outlines, ``cell_boundaries.parquet``.
    he_image_file
        H&E image of the section; None for the ``*he_image.ome.tif`` in the folder.
    alignment_file
        csv with the 3 x 3 matrix from pixels of the H&E image to pixels of the Xenium image, or with the keypoints of both
        (``fixedX, fixedY, alignmentX, alignmentY``); None for the
        ``*he_imagealignment.csv`` beside the image, and where there is none the two are taken to agree.
    mpp
        Micrometres per pixel of the H&E image, needed if its metadata contradict the alignment.
    orient
        Transformation of the H&E image before the alignment; see :func:`visium`. A Xenium folder has no second image of the H&E to
        compare it with (its own images are fluorescence): check a new alignment by eye, with :func:`hisdiff.pl.gene_map`.
    name
        Name of the section; None for the folder's.
    **kwargs
        For :func:`spatialdata_io.xenium`. Labels, transcripts and fluorescence images are not read unless asked for
        (``transcripts=True``, ``morphology_focus=True``, ...); arguments that it does not have are refused by name.

    Returns
    -------
    An object with the image ``{name}_image``, the outlines of cells ``{name}`` (circles where there are none) and the table ``"table"`` of raw counts, one
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
    path = Path(path).expanduser()
    _check_arguments(kwargs)
    for needed in ("experiment.xenium", "cell_feature_matrix.h5", "cells.parquet", "cells.zarr.zip"):
        if not (path / needed).exists():
            there = contents(path) if path.is_dir() else "does not exist"
            raise FileNotFoundError(f"{path} has no {needed!r}; the folder: {there}.")
    specs = read_json(path / "experiment.xenium")
    pixel_um = number(specs, "pixel_size", path / "experiment.xenium")
    image_file, to_xenium_px = _he_image(path, he_image_file, alignment_file)
    to_um = np.diag([pixel_um, pixel_um, 1.0]) @ to_xenium_px
    name = name or path.resolve().name
    aligned = similarity_scale(to_um, f"The alignment of {image_file.name}")
    raster = turned(open_raster(image_file), orient)
    alignment = Source(f"the alignment to the Xenium image of {pixel_um:g} um per pixel", aligned, of_spots=True)
    settle_mpp([alignment, *raster.sources], name, mpp)

    found = _read(path, kwargs)
    table = found.tables[TABLE]
    table.X = read_counts(table, None, what=name, argument=None)
    table = genes_of(table, name)
    to_px = inverse(to_um)
    if BOUNDARIES in found.shapes:
        outlines = found.shapes[BOUNDARIES]
        with_outline = table.obs["cell_id"].isin(outlines.index).to_numpy()
        if not with_outline.all():
            logger.warning("%s: left out %d cells without an outline.", name, (~with_outline).sum())
        table = table[with_outline].copy()
        outlines = _in_image_px(outlines.loc[table.obs["cell_id"]], to_px)
        xy_px = shapely.get_coordinates(shapely.centroid(np.asarray(outlines.geometry)))
        sdata = section(name, raster.levels, aligned, table, xy_px, outlines=outlines)
    else:
        logger.info("%s has no outlines of cells; circles of their area are used.", name)
        circles = found.shapes[CIRCLES].loc[table.obs["cell_id"]]
        xy_px = apply(to_px, circles.geometry.get_coordinates().to_numpy())
        sdata = section(name, raster.levels, aligned, table, xy_px, radius_um=circles["radius"].to_numpy(dtype=float))
    # um is the scale of the H&E image alone: the rotation of the alignment is in the coordinates.
    for key, element in list(_others(found, inverse(to_xenium_px), aligned)):
        sdata[key] = element
    return sdata


def _check_arguments(kwargs: Collection[str]) -> None:
    from spatialdata_io import xenium as read

    known = [name for name in inspect.signature(read).parameters if name not in ("path", *_FIXED)]
    for name in kwargs:
        if name not in known:
            reason = "is set by this reader" if name in _FIXED else "is unknown"
            raise TypeError(
                f"xenium() takes no argument {name!r}, which {reason}; those of spatialdata-io: {listing(known, 20)}."
            )


def _read(path: Path, kwargs: Mapping[str, Any]) -> SpatialData:
    from spatialdata_io import xenium as read

    off = ("cells_labels", "nucleus_labels", "nucleus_boundaries", "transcripts", "morphology_mip", "morphology_focus")
    outlined = (path / f"{BOUNDARIES}.parquet").exists()
    fixed = {"aligned_images": False, "cells_boundaries": outlined, "cells_as_circles": not outlined}
    try:
        with without_noise():
            return read(path, **{**dict.fromkeys(off, False), **kwargs, **fixed})
    except FileNotFoundError:
        raise
    except (AssertionError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a folder of Xenium: {error!r}. Are its files complete?") from error


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
    return image, _alignment(Path(alignment).expanduser())


def _alignment(file: Path) -> np.ndarray:
    """Return the matrix of a csv file: the 3 x 3 numbers themselves, or pairs of keypoints that it is fitted to."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no alignment file {file}.")
    try:
        cells = pd.read_csv(file, header=None, dtype=str, sep=None, engine="python", encoding="utf-8-sig")
        cells = cells.dropna(axis=1, how="all")
        header = [str(cell).strip() for cell in cells.iloc[0]]
        if set(KEYPOINTS) <= set(header):
            points = cells.iloc[1:, [header.index(column) for column in KEYPOINTS]].to_numpy(dtype=float)
            return _fitted(points[:, 2:], points[:, :2], file)
        matrix = cells.to_numpy(dtype=float)
    except (ValueError, IndexError, csv.Error) as error:
        raise ValueError(
            f"{file} cannot be read as an alignment: {error}. It holds 3 x 3 numbers, or keypoints with the columns {listing(KEYPOINTS)}."
        ) from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(
            f"{file} holds a {matrix.shape} matrix of which there is no inverse; 3 x 3 finite numbers are needed, or keypoints with the columns "
            f"{listing(KEYPOINTS)}."
        )
    return matrix


def _fitted(before: np.ndarray, after: np.ndarray, file: Path) -> np.ndarray:
    """Return the similarity that brings keypoints of the H&E image to those of the Xenium image by least squares."""
    if len(before) < 3:
        raise ValueError(f"{len(before)} keypoints are too few, 3 are needed")
    best, matrix = np.inf, np.eye(3)
    for mirror in (1.0, -1.0):
        a, b = (before * (1, mirror)) @ np.array([1, 1j]), after @ np.array([1, 1j])
        turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
        shift = b.mean() - turn * a.mean()
        residual = float(np.sqrt(np.mean(np.abs(turn * a + shift - b) ** 2)))
        if residual < best:
            x, y, best = turn.real, turn.imag, residual
            matrix = np.array([[x, -y * mirror, shift.real], [y, x * mirror, shift.imag], [0, 0, 1]])
    logger.info("%s: keypoints are off by %.1f pixels of the Xenium image (root mean square).", file, best)
    return matrix


def _in_image_px(outlines: GeoDataFrame, from_um: np.ndarray) -> GeoDataFrame:
    """Return outlines, which Xenium gives in um, in pixels of the H&E image."""
    moved = outlines.copy(deep=False)
    moved.attrs = {}
    moved.geometry = shapely.transform(np.asarray(outlines.geometry), lambda points: apply(from_um, points))
    return moved


def _others(found: SpatialData, to_image_px: np.ndarray, mpp: float) -> Iterator[tuple[str, Any]]:
    """Yield what else was asked for, moved from pixels of the Xenium image to those of the H&E image."""
    from spatialdata.transformations import Sequence, get_transformation, set_transformation

    to_px = Affine(to_image_px, input_axes=("x", "y"), output_axes=("x", "y"))
    to_um = Scale([mpp, mpp], axes=("x", "y"))
    for _, key, element in found.gen_spatial_elements():
        if key in (BOUNDARIES, CIRCLES):
            continue
        before = get_transformation(element, GLOBAL)
        set_transformation(
            element, {GLOBAL: Sequence([before, to_px]), UM: Sequence([before, to_px, to_um])}, set_all=True
        )
        yield key, element
