"""Visium HD sections in folders that Space Ranger wrote: bins, or the cells of its segmentation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import shapely

from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._keys import SPATIAL
from hisdiff._log import logger
from hisdiff.io._build import section
from hisdiff.io._scale import Source, bin_source, settle_mpp
from hisdiff.io._spaceranger import (
    COUNTS,
    SCALE_FACTORS,
    check_arguments,
    choose_image,
    contents,
    folder_of,
    given_image,
    name_of,
    number,
    place,
    positions_file_of,
    read_json,
    read_matrix,
    read_positions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff.io._raster import Raster

CELLS = "segmented_outputs"
CELL_COUNTS = "filtered_feature_cell_matrix.h5"
CELL_OUTLINES = "cell_segmentations.geojson"
MPP = "microns_per_pixel"
_HINTS = {
    "bin_size": "The side of the bins is bin_um=, and one size is read.",
    "load_segmentations_only": "Cells of Space Ranger's segmentation are read with segmented=True.",
    "load_nucleus_segmentations": "Cells of Space Ranger's segmentation are read with segmented=True.",
    "annotate_table_by_labels": "Tables annotate shapes, the bins; bins_as_squares=False gives circles.",
    "filtered_counts_file": "Filtered counts are read.",
    "gex_only": "Gene expression alone is read.",
    "load_all_images": "The image of H&E alone is read.",
    "var_names_make_unique": "Repeated names of genes are always numbered.",
}


@checked
def visium_hd(
    path: str | Path,
    bin_um: int = 8,
    *,
    segmented: bool = False,
    fullres_image_file: str | Path | None = None,
    mpp: float | None = None,
    orient: str | None = None,
    dataset_id: str | None = None,
    bins_as_squares: bool = True,
    genome: str | None = None,
    **kwargs: Any,
) -> SpatialData:
    """Read a Visium HD section from a folder that Space Ranger wrote (``outs/``).

    Parameters
    ----------
    path
        Folder with ``binned_outputs/``, or ``segmented_outputs/`` of Space Ranger 4.
    bin_um
        Side of the bins to read: 2, 8 or 16.
    segmented
        Read the cells of Space Ranger's segmentation, with their outlines, instead of bins.
    fullres_image_file
        The full-resolution microscope image. None for the one in ``microscope_image/`` or beside the outputs
        (``*tissue_image.*``), else the reduced image, which is logged.
    mpp
        Micrometres per full-resolution pixel; None for that of the scale factors. It is compared with the pitch of the bins
        and the image file's metadata.
    orient
        Transformation of the full-resolution image; see :func:`visium`.
    dataset_id
        Name of the section; None for the prefix of the files, else for the folder's name.
    bins_as_squares
        Whether bins are squares, or circles as wide.
    genome
        Genome to use; needed if there are counts of several.
    **kwargs
        Arguments of spatialdata-io's reader that do not apply here; they raise an error that says why.

    Returns
    -------
    An object with the image ``{dataset_id}_image``, bins or cells ``{dataset_id}`` and the table ``"table"`` of raw counts of
    gene expression.

    Raises
    ------
    FileNotFoundError
        If a file of the folder is missing.
    ValueError
        If there are no bins of that size, or a file cannot be read or contradicts another one.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.visium_hd("sample/outs", bin_um=16)  # doctest: +SKIP
    >>> cells = hd.io.visium_hd("sample/outs", segmented=True)  # doctest: +SKIP
    """
    check_arguments("visium_hd", kwargs, _HINTS)
    path = folder_of(path)
    positive(bin_um, "bin_um", integer=True)
    prefix = next((file.name.removesuffix("feature_slice.h5") for file in sorted(path.glob("*feature_slice.h5"))), "")
    name = dataset_id or prefix.rstrip("_") or name_of(path)
    if segmented:
        folder = _folder(path / CELLS, "It has no segmentation of cells; Space Ranger makes one from version 4 on.")
    else:
        folder = _bins(path, bin_um)
    factors_file = folder / "spatial" / SCALE_FACTORS
    factors = read_json(factors_file)
    image = given_image(path, fullres_image_file) or _microscope_image(path, prefix)

    def raster_of() -> tuple[Raster, float]:
        return choose_image(image, [folder / "spatial", path], factors, factors_file, orient)

    stated = Source("the scale factors", number(factors, MPP, factors_file))
    if segmented:
        table, outlines = _cells(folder, prefix, name, genome)
        raster, reduction = raster_of()
        mpp = settle_mpp([stated, *(raster.sources if reduction == 1 else ())], name, mpp)
        xy_px = shapely.get_coordinates(shapely.centroid(np.asarray(outlines.geometry)))
        return section(name, raster.levels, mpp, table, xy_px, outlines=outlines, reduction=reduction)
    positions = positions_file_of(folder / "spatial")
    table = place(read_matrix(_counts(folder, COUNTS), name, genome), read_positions(positions), positions, name)
    xy_px = np.asarray(table.obsm[SPATIAL])
    raster, reduction = raster_of()
    sources = [stated, bin_source(table.obs, xy_px, bin_um), *(raster.sources if reduction == 1 else ())]
    mpp = settle_mpp(sources, name, mpp)
    if not bins_as_squares:
        return section(name, raster.levels, mpp, table, xy_px, radius_um=bin_um / 2, reduction=reduction)
    half = bin_um / mpp / 2
    squares = gpd.GeoDataFrame(geometry=shapely.box(*(xy_px - half).T, *(xy_px + half).T))
    return section(name, raster.levels, mpp, table, xy_px, outlines=squares, reduction=reduction)


def _bins(path: Path, bin_um: int) -> Path:
    binned = _folder(path / "binned_outputs", "Is it of Visium, not HD, which hd.io.visium reads?")
    folder = binned / f"square_{bin_um:03d}um"
    if not folder.is_dir():
        sizes = sorted(folder.name for folder in binned.glob("square_*um"))
        raise ValueError(f"{path} has no bins of {bin_um} um; in binned_outputs there are {listing(sizes)}.")
    return folder


def _folder(folder: Path, reason: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.parent} has no folder {folder.name}; it has {contents(folder.parent)}. {reason}"
        )
    return folder


def _counts(folder: Path, name: str, prefix: str = "") -> Path:
    """Return the h5 file of counts, or the folder of ``matrix.mtx`` that has its name without the ending."""
    unpacked = folder / name.removesuffix(".h5")
    return unpacked if unpacked.is_dir() and not list(folder.glob(f"*{name}")) else _file(folder, name, prefix)


def _file(folder: Path, name: str, prefix: str = "") -> Path:
    for file in (folder / name, folder / f"{prefix}{name}", *sorted(folder.glob(f"*{name}"))):
        if file.exists():
            return file
    raise FileNotFoundError(f"{folder} has no {name}; it has {contents(folder)}.")


def _cells(folder: Path, prefix: str, name: str, genome: str | None) -> tuple[AnnData, gpd.GeoDataFrame]:
    """Return the cells that have an outline, and their outlines in full-resolution pixels."""
    table = read_matrix(_counts(folder, CELL_COUNTS, prefix), name, genome)
    outlines = _outlines(_file(folder, CELL_OUTLINES, prefix))
    there = table.obs_names.isin(outlines.index)
    if not there.any():
        raise ValueError(
            f"No cell of the counts of {name} has an outline: the counts have {listing(table.obs_names, 3)}, {CELL_OUTLINES} "
            f"{listing(outlines.index, 3)}."
        )
    if not there.all():
        logger.warning("%s: left out %d cells without an outline.", name, (~there).sum())
        table = table[there].copy()
    return table, outlines.loc[table.obs_names]


def _outlines(file: Path) -> gpd.GeoDataFrame:
    try:
        features = json.loads(file.read_text(encoding="utf-8-sig"))["features"]
        features = [feature for feature in features if feature["geometry"] is not None]
        names = [_cell_name(feature["properties"]["cell_id"]) for feature in features]
        shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    except (ValueError, KeyError, TypeError, shapely.errors.GEOSException) as error:
        raise ValueError(f"{file} cannot be read as outlines of cells: {error!r}. Is the file complete?") from error
    outlines = gpd.GeoDataFrame(geometry=np.asarray(shapes), index=names)
    outlines = outlines[~outlines.index.duplicated() & (outlines.geometry.area > 0).to_numpy()]
    whole = outlines.geometry.geom_type.isin(["Polygon", "MultiPolygon"])
    return outlines[whole.to_numpy()]


def _cell_name(cell: Any) -> str:
    """Return what the counts call a cell, of which outlines have the number."""
    text = str(cell)
    return text if text.startswith("cellid_") else f"cellid_{int(text):09d}-1"


def _microscope_image(path: Path, prefix: str) -> Path | None:
    candidates = sorted(f for f in (path / "microscope_image").glob("*") if f.is_file() and not f.name.startswith("."))
    candidates += sorted(path.glob(f"{prefix}tissue_image.*"))
    if len(candidates) > 1:
        raise ValueError(
            f"There are several microscope images, {listing(f.name for f in candidates)}; choose with fullres_image_file=."
        )
    return candidates[0] if candidates else None
