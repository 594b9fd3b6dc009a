"""TIFF files, scanners' and others, through tifffile: lazy levels and the pixel size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from hisdiff._log import logger
from hisdiff.io._build import chunked
from hisdiff.io._color import CHANNELS, Kind, Stored, check_channels
from hisdiff.io._lazy import FileArray, Unreadable
from hisdiff.io._limits import check_decoded
from hisdiff.io._tiff_scale import tiff_sources

if TYPE_CHECKING:
    from pathlib import Path

    import dask.array as da

    from hisdiff.io._scale import Source

_PLANES = re.compile(r"\bSize([CZT])\s*=\s*[\"'](\d+)[\"']")
LARGEST_BLOCK = 64 * 2**20
"""Bytes that a stored block may have to be read lazily; an image stored in larger ones is decoded once."""


class CannotDecode(Exception):
    """The file is a TIFF, but its compression is not known to tifffile."""


# Baseline and common values of PhotometricInterpretation that hold colours.
_KINDS: dict[int, Kind] = {
    tifffile.PHOTOMETRIC.RGB: "rgb",
    tifffile.PHOTOMETRIC.YCBCR: "ycbcr",
    tifffile.PHOTOMETRIC.SEPARATED: "cmyk",
    tifffile.PHOTOMETRIC.PALETTE: "palette",
}
_GREY = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
# These decoders give RGB of YCbCr themselves.
_JPEG = (6, 7, 34892, 33007)
_APERIO_YCBCR = 33003
"""JPEG 2000 of YCbCr, also where the tag differs."""


def open_tiff(path: Path) -> tuple[Stored, list[Source]]:
    """Return the levels of the largest image of a TIFF, and the micrometres per pixel in its metadata."""
    try:
        with tifffile.TiffFile(path) as tif:
            _check_planes(tif, path)
            if not tif.series:
                raise ValueError(
                    f"{path} holds no image: the first of its directories cannot be found. Is the file complete?"
                )
            index, series = max(enumerate(tif.series), key=lambda item: item[1].size)
            _check_complete(tif, series, path)
            _check_axes(series, path)
            stored = _stored(path, index, series)
            sources = tiff_sources(path, tif, index, series)
        stored.levels[-1][:, :1, :1].compute(scheduler="synchronous")
    except Unreadable as error:
        raise CannotDecode(f"tifffile cannot decode {path}: {error.__cause__}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser raises of damaged metadata, the user has to learn which file it was
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a TIFF: {reason}. Is the file complete?") from error
    return stored, sources


def _check_planes(tif: tifffile.TiffFile, path: Path) -> None:
    """Raise where OME metadata claim so many planes that a list of them alone would fill the memory."""
    for axis, size in _PLANES.findall((tif.ome_metadata or "") if tif.is_ome else ""):
        if len(size) > 6:
            raise ValueError(
                f"{path} has OME metadata with Size{axis}={size[:20]!r}; one plane of rows, columns and colours is needed."
            )


def _stored(path: Path, index: int, series: tifffile.TiffPageSeries) -> Stored:
    """Return the levels of a series with what their channels stand for."""
    page = series.keyframe
    levels = [_level(path, index, k, level, series.axes) for k, level in enumerate(series.levels)]
    channels = levels[0].shape[0]
    kind: Kind | None = "ycbcr" if page.compression == _APERIO_YCBCR else _KINDS.get(page.photometric)
    if kind is None and page.photometric not in _GREY:
        name = getattr(page.photometric, "name", page.photometric)
        raise ValueError(
            f"{path} has its colours as {name} (PhotometricInterpretation {int(page.photometric)}); RGB, YCbCr, CMYK and palettes can be "
            "read. Convert it to RGB."
        )
    if kind == "ycbcr" and (page.compression in _JPEG or channels == 1):
        kind = "rgb"
    if kind == "palette":
        if channels != 1 or page.colormap is None:
            raise ValueError(f"{path} is a palette image of {channels} channels, or has no palette.")
        return Stored(levels, "palette", palette=(np.asarray(page.colormap).T >> 8).astype(np.uint8))
    colors = channels if kind is None else CHANNELS[kind]
    if kind is None or channels < colors:
        check_channels(channels, series.axes, str(path))
        return Stored(levels)
    # Samples after the colours are opacity only where the file declares it.
    opacity = [k for k, extra in enumerate(page.extrasamples) if extra in (1, 2)]
    alpha = colors + opacity[0] if opacity and colors + opacity[0] < channels else None
    premultiplied = alpha is not None and page.extrasamples[opacity[0]] == 1
    if alpha is None and channels > colors:
        logger.info("%s: %d channels that are neither colour nor alpha were left out.", path, channels - colors)
    return Stored(levels, kind, alpha, premultiplied)


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


def _check_axes(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Raise unless all axes of a series but rows, columns and colours have length one."""
    sizes = dict(zip(series.axes, series.shape))
    long = {axis for axis, size in sizes.items() if size > 1 or axis in "YX"}
    if not {"Y", "X"} <= long or len(long) > 3 or long & set("ZT"):
        raise ValueError(
            f"{path} has axes {series.axes} of {series.shape}; one plane of rows, columns and colours is needed."
        )


def _level(path: Path, index: int, level: int, series: tifffile.TiffPageSeries, axes: str) -> da.Array:
    array = _TiffLevel(path, index, level, series, axes)
    stored = series.keyframe.chunks
    planes = series.keyframe.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    tile = (1, 1) if array.contiguous else (stored[-2], stored[-1]) if planes else (stored[0], stored[1])
    if tile[0] * tile[1] * series.dtype.itemsize > LARGEST_BLOCK:
        check_decoded(path, array.shape, series.dtype.itemsize)
        logger.info("%s is stored in one block and cannot be read in part; it was decoded into memory.", path)
        return chunked(array[:, :, :])
    return array.as_dask(tile)


class _TiffLevel(FileArray):
    """One pyramid level of a TIFF."""

    def __init__(self, path: Path, index: int, level: int, series: tifffile.TiffPageSeries, axes: str) -> None:
        sizes = dict(zip(axes, series.shape))
        self.color = next((axis for axis in axes if axis not in "YX" and sizes[axis] > 1), "")
        super().__init__(path, (sizes.get(self.color, 1), sizes["Y"], sizes["X"]), series.dtype)
        self.index, self.level, self.axes = index, level, axes
        self.contiguous = series.dataoffset is not None

    def _open(self) -> tuple[Any, Any]:
        if self.contiguous:  # the operating system reads what is asked for; tifffile would read the whole
            return tifffile.memmap(self.path, series=self.index, level=self.level, mode="r"), None
        import zarr

        tif = tifffile.TiffFile(self.path)
        return zarr.open_array(tif.series[self.index].aszarr(level=self.level), mode="r"), tif

    def _read(self, opened: Any, key: tuple[slice, ...]) -> np.ndarray:
        wanted = {axis: part for axis, part in zip((self.color, "Y", "X"), key) if axis}
        box = np.asarray(opened[tuple(wanted.get(axis, 0) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in wanted]
        if not self.color:
            return (box if left == ["Y", "X"] else box.T)[None]
        return box.transpose([left.index(axis) for axis in (self.color, "Y", "X")])
