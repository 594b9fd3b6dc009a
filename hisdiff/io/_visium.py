"""Folders that Space Ranger writes: Visium and Visium HD."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._check import listing, positive
from hisdiff._keys import SPATIAL
from hisdiff._log import logger
from hisdiff._sdata._locate import regions_of
from hisdiff._sdata._read import read_counts
from hisdiff.io._build import element_name, section, unique_genes, without_noise
from hisdiff.io._raster import Raster, open_raster
from hisdiff.io._scale import SpotScale, resolve_mpp, resolve_radius, visium_mpp

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

COUNTS = "filtered_feature_bc_matrix.h5"
SCALE_FACTORS = "scalefactors_json.json"
HIRES = "tissue_hires_image.png"
SIZE_TOLERANCE = 0.02


def visium(
    path: str | Path, *, fullres_image_file: str | Path | None = None, mpp: float | None = None, **kwargs: Any
) -> SpatialData:
    """Read a Visium section from a folder that Space Ranger wrote (``outs/``).

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` and ``spatial/``.
    fullres_image_file
        The image that Space Ranger was given; it does not copy it. None: the ``hires`` image of 2,000 pixels, at which
        single cells cannot be seen; this is logged.
    mpp
        Micrometres per full-resolution pixel; None for what the pitch of the spots (100 um) makes it.
    **kwargs
        For :func:`spatialdata_io.visium`, such as ``dataset_id`` (also the name of the section; the folder's name by
        default) and ``counts_file``.

    Returns
    -------
    An object with the image ``{dataset_id}_image``, spots ``{dataset_id}`` of 55 um and the table ``"table"`` of raw
    counts. Coordinates are pixels of the full-resolution image also where only the hires image is there, which is then
    scaled to them.

    Raises
    ------
    FileNotFoundError
        If a file of the folder is missing.
    ValueError
        If the image is not the full-resolution one of these spots.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.visium("sample/outs", fullres_image_file="sample.tif")  # doctest: +SKIP
    """
    from spatialdata_io import visium as read

    path = _folder(path)
    counts_file = kwargs.get("counts_file", COUNTS)
    prefixed = sorted(path.glob(f"*{counts_file}"))
    if not prefixed:
        raise FileNotFoundError(f"{path} has no {counts_file!r}; it has {listing(f.name for f in path.iterdir())}.")
    _scale_factors(path / "spatial", kwargs.get("scalefactors_file"))
    if not kwargs.get("tissue_positions_file") and not list((path / "spatial").glob("tissue_positions*.csv")):
        raise FileNotFoundError(
            f"{path / 'spatial'} has no tissue_positions.csv or tissue_positions_list.csv; it has "
            f"{listing(f.name for f in (path / 'spatial').iterdir())}."
        )
    kwargs.setdefault(
        "dataset_id",
        prefixed[0].name.removesuffix(f"_{counts_file}") if prefixed[0].name != counts_file else _name_of(path),
    )
    with without_noise():
        found = read(path, **kwargs)
    table = found.tables["table"]
    factors = _scale_factors(path / "spatial", kwargs.get("scalefactors_file"))
    raster, reduction = _choose_image(fullres_image_file, path / "spatial", factors)
    table = _placed(table, kwargs["dataset_id"])
    xy_px = np.asarray(table.obsm[SPATIAL], dtype=float)
    spots = SpotScale(visium_mpp(table, xy_px), factors.get("spot_diameter_fullres"))
    known = resolve_mpp(spots, mpp=mpp, image_mpp=None if reduction != 1 else raster.mpp, what=kwargs["dataset_id"])
    radius_um = resolve_radius(spots, known, None, kwargs["dataset_id"])
    name = element_name(kwargs["dataset_id"])
    return section(name, raster.levels, known, table, xy_px, radius_um=radius_um, reduction=reduction)


def visium_hd(
    path: str | Path, bin_um: int = 8, *, fullres_image_file: str | Path | None = None, **kwargs: Any
) -> SpatialData:
    """Read a Visium HD section from a folder that Space Ranger wrote (``outs/``).

    Parameters
    ----------
    path
        Folder with ``binned_outputs/`` and ``feature_slice.h5``.
    bin_um
        Side of the bins to read: 2, 8 or 16.
    fullres_image_file
        The microscope image that Space Ranger was given. None: the one in ``microscope_image/`` or beside the outputs
        (``*tissue_image.*``), else the ``hires`` image, which is logged.
    **kwargs
        For :func:`spatialdata_io.visium_hd`, such as ``dataset_id``, the name of the section.

    Returns
    -------
    An object with the image ``{dataset_id}_image``, square bins ``{dataset_id}`` and the table ``"table"`` of raw counts.
    Micrometres per pixel come from the scale factors.

    Raises
    ------
    FileNotFoundError
        If a file of the folder is missing.
    ValueError
        If there are no bins of that size.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.io.visium_hd("sample/outs", bin_um=16)  # doctest: +SKIP
    """
    from spatialdata_io import visium_hd as read

    path = _folder(path)
    positive(bin_um, "bin_um", integer=True)
    bins = path / "binned_outputs" / f"square_{bin_um:03d}um"
    if not bins.is_dir():
        sizes = sorted(folder.name for folder in path.glob("binned_outputs/square_*um"))
        raise ValueError(f"{path} has no bins of {bin_um} um; in binned_outputs there are {listing(sizes)}.")
    slices = sorted(path.glob("*feature_slice.h5"))
    if not slices:
        raise FileNotFoundError(f"{path} has no feature_slice.h5; it has {listing(f.name for f in path.iterdir())}.")
    for file in (bins / COUNTS, bins / "spatial" / "tissue_positions.parquet"):
        if not file.exists():
            raise FileNotFoundError(f"{path} has no {file.relative_to(path)}.")
    factors = _scale_factors(bins / "spatial", None)
    prefix = slices[0].name.removesuffix("feature_slice.h5")
    kwargs.setdefault("dataset_id", prefix.rstrip("_") or _name_of(path))
    hires = _hires(path, bins / "spatial")
    # spatialdata-io would open the microscope image as one block; the hires image stands in and is dropped.
    kwargs = {"load_segmentations_only": False, "bin_size": bin_um, "fullres_image_file": hires, **kwargs}
    with without_noise(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", "No (full resolution image|image path) found", UserWarning)
        found = read(path, **kwargs)
    table = found.tables[bins.name]
    outlines = found.shapes[regions_of(table)[0]]
    table.X = read_counts(table, None, what=str(bins / COUNTS))
    table.var_names = unique_genes(table.var_names, kwargs["dataset_id"])
    raster, reduction = _choose_image(
        fullres_image_file or _microscope_image(path, prefix), bins / "spatial", factors, hires
    )
    name = element_name(kwargs["dataset_id"])
    mpp = float(factors["microns_per_pixel"])
    xy_px = np.asarray(table.obsm[SPATIAL], dtype=float)
    if "radius" in outlines.columns:  # bins_as_squares=False
        return section(name, raster.levels, mpp, table, xy_px, radius_um=bin_um / 2, reduction=reduction)
    return section(name, raster.levels, mpp, table, xy_px, outlines=outlines, reduction=reduction)


def _folder(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    return path


def _name_of(path: Path) -> str:
    """Return what a run is called: its folder, which is above the one that is always called outs."""
    path = path.resolve()
    return path.parent.name if path.name == "outs" else path.name


def _scale_factors(folder: Path, given: str | Path | None) -> dict[str, Any]:
    file = folder.parent / given if given else folder / SCALE_FACTORS
    if not file.exists():
        there = listing(f.name for f in folder.iterdir()) if folder.is_dir() else "nothing, as it does not exist"
        raise FileNotFoundError(f"There is no {file}, which has the scale of the section; the folder has {there}.")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}. Is the file complete?") from error


def _hires(*folders: Path) -> Path | None:
    candidates = [file for folder in folders for file in (folder / HIRES, folder / "spatial" / HIRES)]
    return next((file for file in candidates if file.exists()), None)


def _microscope_image(path: Path, prefix: str) -> Path | None:
    candidates = sorted(f for f in (path / "microscope_image").glob("*") if f.is_file() and not f.name.startswith("."))
    candidates += sorted(path.glob(f"{prefix}tissue_image.*"))
    if len(candidates) > 1:
        raise ValueError(
            f"There are several microscope images, {listing(f.name for f in candidates)}; choose with fullres_image_file=."
        )
    return candidates[0] if candidates else None


def _choose_image(
    fullres: str | Path | None, folder: Path, factors: dict[str, Any], hires: Path | None = None
) -> tuple[Raster, float]:
    """Return the image and how many full-resolution pixels one of its pixels is wide."""
    hires = hires or _hires(folder)
    scale = float(factors["tissue_hires_scalef"])
    if fullres is not None:
        raster = open_raster(fullres)
        if hires is not None:
            _check_full_resolution(raster, hires, scale, Path(fullres))
        return raster, 1.0
    if hires is None:
        raise FileNotFoundError(
            f"{folder} has no {HIRES}, and no full-resolution image is given; pass fullres_image_file=, the image that "
            "Space Ranger was run with."
        )
    logger.info(
        "No full-resolution image is given, so %s is used, at 1 / %.3g of the resolution; pass fullres_image_file= to see "
        "single cells.",
        hires.name,
        1 / scale,
    )
    return open_raster(hires), 1 / scale


def _check_full_resolution(raster: Raster, hires: Path, scale: float, path: Path) -> None:
    from PIL import Image

    with Image.open(hires) as image:
        width, height = image.width / scale, image.height / scale
    if abs(raster.size[1] / width - 1) > SIZE_TOLERANCE or abs(raster.size[0] / height - 1) > SIZE_TOLERANCE:
        raise ValueError(
            f"{path} is {raster.size[1]} x {raster.size[0]} px, but by the scale factors the full-resolution image is "
            f"about {width:.0f} x {height:.0f}. It is a reduced image, or that of another section."
        )


def _placed(table: AnnData, name: str) -> AnnData:
    """Return the spots that have a position, with raw counts."""
    there = np.isfinite(np.asarray(table.obsm[SPATIAL], dtype=float)).all(axis=1)
    if not there.all():
        logger.info("%s: left out %d spots without a position.", name, (~there).sum())
        table = table[there].copy()
    table.X = read_counts(table, None, what=name)
    table.var_names = unique_genes(table.var_names, name)
    table.uns.pop("spatial", None)  # metadata under the old name of the section
    return table
