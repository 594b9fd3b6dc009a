"""Pixel sizes in the metadata of a TIFF, in the notations of OME, scanner vendors, ImageJ and resolution tags."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from hisdiff._log import logger
from hisdiff.io._scale import MPP_RANGE, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRUSTED_MPP = 10.0
"""Coarser resolution tags are those of a printer (300 dots per inch are 85 um), not of a microscope."""
UM_PER = {
    "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "pm": 1e-6, "\u00e5": 1e-4, "\u212b": 1e-4, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "thou": 25.4, "in": 25400.0,
    "inch": 25400.0, "inches": 25400.0,
}  # fmt: skip
UM_PER_TAG = {
    tifffile.RESUNIT.INCH: 25400.0,
    tifffile.RESUNIT.CENTIMETER: 10000.0,
    tifffile.RESUNIT.MILLIMETER: 1000.0,
    tifffile.RESUNIT.MICROMETER: 1.0,
}
_NUMBER = r"([-+]?[0-9.,]+(?:[eE][-+]?[0-9]+)?)"
_APERIO = re.compile(rf"(?:^|\||\n)\s*MPP\s*[=:]\s*{_NUMBER}", re.IGNORECASE)
_PHILIPS = re.compile(
    r'DICOM_PIXEL_SPACING"[^>]*>\s*(?:"|&quot;)([^"&]+)(?:"|&quot;)\s+(?:"|&quot;)([^"&]+)(?:"|&quot;)'
)
_OPENSLIDE = re.compile(rf"openslide\.mpp-([xy])</name>\s*<value[^>]*>\s*{_NUMBER}", re.IGNORECASE)
_VENTANA = re.compile(rf"ScanRes\s*=\s*[\"']{_NUMBER}[\"']")
_XMP = 700
Sizes = tuple[float, float]


def tiff_sources(path: Path, tif: tifffile.TiffFile, index: int, series: tifffile.TiffPageSeries) -> list[Source]:
    """Return all pixel sizes in the metadata of a series, the most exact kind first.

    Values that no microscope can have are ignored: resolutions of printers, and tags that were never filled in.
    """
    found = []
    for name, sizes in _all_sizes(tif, index, series):
        if not np.isfinite(sizes).all() or min(sizes) < MPP_RANGE[0] or max(sizes) > TRUSTED_MPP:
            logger.info(
                "%s: %s say %g um per pixel, which no microscope's image has; that is left aside.", path, name, sizes[0]
            )
            continue
        if max(sizes) / min(sizes) > 1.01:
            raise ValueError(f"{path} has pixels of {sizes[0]:g} x {sizes[1]:g} um; they have to be square.")
        found.append(Source(f"{name} of the image file", float(np.mean(sizes))))
    return found


def _all_sizes(tif: tifffile.TiffFile, index: int, series: tifffile.TiffPageSeries) -> Iterator[tuple[str, Sizes]]:
    description = series.keyframe.description or ""
    first = (tif.pages.first.description or "") if len(tif.pages) else ""
    candidates = {
        "the OME metadata": _ome(tif, index),
        "the Aperio description": _both(_APERIO.search(description)),
        "the Philips metadata": _philips(first),
        "the OpenSlide properties": _openslide(first),
        "the Ventana metadata": _both(_VENTANA.search(_xmp(tif))),
        "the ImageJ metadata": _imagej(tif, series),
        "the resolution tags": _tags(series),
    }
    for name, sizes in candidates.items():
        if sizes is not None:
            yield name, sizes


def _float(text: str) -> float:
    """Return a number in any notation; NaN where it is not a number."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return float("nan")


def _both(match: re.Match[str] | None) -> Sizes | None:
    return None if match is None else (_float(match[1]), _float(match[1]))


def _ome(tif: tifffile.TiffFile, index: int) -> Sizes | None:
    if not tif.is_ome or tif.ome_metadata is None:
        return None
    images = (tifffile.xml2dict(tif.ome_metadata, sep="").get("OME") or {}).get("Image") or []
    images = images if isinstance(images, list) else [images]
    pixels = (images[index].get("Pixels") or {}) if index < len(images) else {}
    sizes = []
    for axis in "XY":
        unit = str(pixels.get(f"PhysicalSize{axis}Unit", "um")).strip().lower()
        if f"PhysicalSize{axis}" in pixels and unit in UM_PER:
            sizes.append(_float(pixels[f"PhysicalSize{axis}"]) * UM_PER[unit])
    return (sizes[0], sizes[-1]) if sizes else None


def _philips(description: str) -> Sizes | None:
    """Return the spacing of the finest level, which is the smallest of all; Philips has it in mm."""
    found = [(_float(y) * 1e3, _float(x) * 1e3) for y, x in _PHILIPS.findall(description)]
    return min((sizes for sizes in found if np.isfinite(sizes).all() and min(sizes) > 0), default=None)


def _openslide(description: str) -> Sizes | None:
    """Return what programs that copy a slide with its properties (libvips) write into the description."""
    found = {axis.lower(): _float(value) for axis, value in _OPENSLIDE.findall(description)}
    return (found["x"], found.get("y", found["x"])) if "x" in found else None


def _xmp(tif: tifffile.TiffFile) -> str:
    for page in tif.pages[:2]:
        tag = getattr(page, "tags", {}).get(_XMP)
        if tag is not None:
            value = tag.value
            return value.decode("utf8", "ignore") if isinstance(value, bytes) else str(value)
    return ""


def _imagej(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Sizes | None:
    unit = str((tif.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "\u00b5").lower()
    return _per_unit(series, UM_PER[unit]) if unit in UM_PER else None


def _tags(series: tifffile.TiffPageSeries) -> Sizes | None:
    unit = series.keyframe.tags.get("ResolutionUnit")
    if unit is None or unit.value not in UM_PER_TAG:
        return None
    return _per_unit(series, UM_PER_TAG[unit.value])


def _per_unit(series: tifffile.TiffPageSeries, um: float) -> Sizes | None:
    tags = series.keyframe.tags
    values = [tags[name].value if name in tags else (0, 0) for name in ("XResolution", "YResolution")]
    if any(0 in value for value in values):
        return None
    x, y = (um * below / above for above, below in values)
    return x, y
