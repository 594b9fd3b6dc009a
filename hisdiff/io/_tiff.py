"""TIFF files, scanners' and others, through tifffile: lazy levels and the pixel size."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from hisdiff._log import logger
from hisdiff.io._build import MPP_RANGE, chunked
from hisdiff.io._colour import Stored, check_channels
from hisdiff.io._lazy import FileArray

if TYPE_CHECKING:
    from pathlib import Path

    import dask.array as da

LARGEST_BLOCK = 64 * 2**20
"""Bytes that a stored block may have to be read lazily; an image stored in larger ones is decoded once."""
TRUSTED_MPP = 10.0
"""Coarser resolution tags are those of a printer (300 dots per inch are 85 um), not of a microscope."""
UM_PER = {"µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}

UM_PER_TAG = {tifffile.RESUNIT.INCH: 25400.0, tifffile.RESUNIT.CENTIMETER: 10000.0}


class CannotDecode(Exception):
    """The file is a TIFF, but its compression is not known to tifffile."""


def open_tiff(path: Path) -> tuple[Stored, float | None]:
    """Return the levels of the largest image of a TIFF, and its micrometres per pixel where it says."""
    try:
        with tifffile.TiffFile(path) as tif:
            index, series = max(enumerate(tif.series), key=lambda item: item[1].size)
            _check_complete(tif, series, path)
            axes = _check_axes(series, path)
            levels = [_level(path, index, k, level, axes) for k, level in enumerate(series.levels)]
            four = levels[0].shape[0] == 4
            alpha = four and series.keyframe.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
            mpp = _mpp(tif, index, series)
    except (tifffile.TiffFileError, struct.error, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a TIFF: {error}. Is the file complete?") from error
    check_channels(levels[0].shape[0] - alpha, series.axes, str(path))
    try:
        levels[-1][:, :1, :1].compute(scheduler="synchronous")
    except Exception as error:
        if "imagecodecs" in str(error) or isinstance(error, NotImplementedError):
            raise CannotDecode(f"tifffile cannot decode {path}: {error}") from error
        raise
    return Stored(levels, alpha), mpp


def _check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
    # A file that was cut off opens well, and would be black or fail where it ends.
    ends = [
        np.add(page.dataoffsets, page.databytecounts).max(initial=0)
        for level in series.levels
        for page in level.pages
        if page is not None
    ]
    if max(ends) > tif.filehandle.size:
        raise ValueError(f"{path} is truncated: it has {tif.filehandle.size} bytes, but pixels up to {max(ends)}.")


def _check_axes(series: tifffile.TiffPageSeries, path: Path) -> str:
    """Return the axes of a series, of which all but rows, columns and colours have length one."""
    sizes = dict(zip(series.axes, series.shape))
    long = {axis for axis, size in sizes.items() if size > 1 or axis in "YX"}
    if not {"Y", "X"} <= long or len(long) > 3 or long & set("ZT"):
        raise ValueError(
            f"{path} has axes {series.axes} of {series.shape}; one plane of rows, columns and colours is needed."
        )
    if len(long) == 2:
        check_channels(1, series.axes, str(path))
    return series.axes


def _level(path: Path, index: int, level: int, series: tifffile.TiffPageSeries, axes: str) -> da.Array:
    array = _TiffLevel(path, index, level, series, axes)
    stored = series.keyframe.chunks
    planes = series.keyframe.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    tile = (1, 1) if array.contiguous else (stored[-2], stored[-1]) if planes else (stored[0], stored[1])
    if tile[0] * tile[1] * series.dtype.itemsize > LARGEST_BLOCK:
        logger.info("%s is stored in one block and cannot be read in part; it was decoded into memory.", path)
        return chunked(array[:, :, :])
    return array.as_dask(tile)


class _TiffLevel(FileArray):
    """One pyramid level of a TIFF."""

    def __init__(self, path: Path, index: int, level: int, series: tifffile.TiffPageSeries, axes: str) -> None:
        sizes = dict(zip(axes, series.shape))
        self.colour = next((axis for axis in axes if axis not in "YX" and sizes[axis] > 1), "")
        super().__init__(path, (sizes.get(self.colour, 1), sizes["Y"], sizes["X"]), series.dtype)
        self.index, self.level, self.axes = index, level, axes
        self.contiguous = series.dataoffset is not None

    def _open(self) -> tuple[Any, Any]:
        if self.contiguous:  # the operating system reads what is asked for; tifffile would read the whole
            return tifffile.memmap(self.path, series=self.index, level=self.level, mode="r"), None
        import zarr

        tif = tifffile.TiffFile(self.path)
        return zarr.open_array(tif.series[self.index].aszarr(level=self.level), mode="r"), tif

    def _read(self, opened: Any, key: tuple[slice, ...]) -> np.ndarray:
        wanted = dict(zip((self.colour, "Y", "X"), key))
        box = np.asarray(opened[tuple(wanted.get(axis, 0) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in wanted]
        return box.transpose([left.index(axis) for axis in (self.colour, "Y", "X")])


def _mpp(tif: tifffile.TiffFile, index: int, series: tifffile.TiffPageSeries) -> float | None:
    for sizes in (_ome_sizes(tif, index), _aperio_sizes(series), _imagej_sizes(tif, series), _tag_sizes(series)):
        if sizes is not None and all(np.isfinite(sizes)) and MPP_RANGE[0] <= min(sizes) and max(sizes) <= TRUSTED_MPP:
            if max(sizes) / min(sizes) > 1.01:
                raise ValueError(
                    f"{tif.filename} has pixels of {sizes[0]:g} x {sizes[1]:g} um; they have to be square."
                )
            return float(np.mean(sizes))
    return None


def _ome_sizes(tif: tifffile.TiffFile, index: int) -> tuple[float, float] | None:
    if not tif.is_ome or tif.ome_metadata is None:
        return None
    images = tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image", [])
    images = images if isinstance(images, list) else [images]
    pixels = images[index]["Pixels"] if index < len(images) else {}
    try:
        x, y = (
            float(pixels[f"PhysicalSize{axis}"]) * UM_PER[pixels.get(f"PhysicalSize{axis}Unit", "µm")] for axis in "XY"
        )
    except (KeyError, ValueError):
        return None
    return x, y


def _aperio_sizes(series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", series.keyframe.description or "")
    return (float(found[1]), float(found[1])) if found else None


def _imagej_sizes(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    unit = (tif.imagej_metadata or {}).get("unit", "").replace("\\u00B5", "µ")
    return _per_unit(series, UM_PER[unit]) if unit in UM_PER else None


def _tag_sizes(series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    unit = series.keyframe.tags.get("ResolutionUnit")
    if unit is None or unit.value not in UM_PER_TAG:
        return None
    return _per_unit(series, UM_PER_TAG[unit.value])


def _per_unit(series: tifffile.TiffPageSeries, um: float) -> tuple[float, float] | None:
    tags = series.keyframe.tags
    values = [tags[name].value if name in tags else (0, 0) for name in ("XResolution", "YResolution")]
    if any(0 in value for value in values):
        return None
    x, y = (um * below / above for above, below in values)
    return x, y
