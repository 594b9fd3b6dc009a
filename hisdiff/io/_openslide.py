"""Scanner formats that tifffile cannot read, through OpenSlide (extra ``wsi``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hisdiff._check import listing
from hisdiff.io._color import Stored
from hisdiff.io._lazy import FileArray
from hisdiff.io._scale import Source

if TYPE_CHECKING:
    from pathlib import Path


_SERIES = "dicom.SeriesInstanceUID"


def _library(reason: str) -> Any:
    try:
        import openslide
    except ImportError as error:
        raise ImportError(
            f"{reason}. If it is a scanner's format, OpenSlide may read it: pip install 'hisdiff[wsi]'."
        ) from error
    return openslide


def check_one_slide(files: list[Path], reason: str) -> None:
    """Raise unless the DICOM files of a folder are those of one slide; what OpenSlide does not read (labels) does not count."""
    openslide = _library(reason)
    first: dict[str, Path] = {}
    for file in files:
        try:
            with openslide.OpenSlide(file) as slide:
                first.setdefault(slide.properties.get(_SERIES, ""), file)
        except openslide.OpenSlideError:
            continue
    if len(first) > 1:
        raise ValueError(
            f"{files[0].parent} holds the DICOM files of {len(first)} slides, such as {listing([f.name for f in first.values()])}; name a file of "
            "one of them."
        )


def open_slide(path: Path, reason: str) -> tuple[Stored, list[Source]]:
    """Return the levels of a slide, and the micrometres per pixel in its metadata.

    Parameters
    ----------
    reason
        Why the file could not be read otherwise, for the error where OpenSlide is missing or fails.
    """
    openslide = _library(reason)
    try:
        with openslide.OpenSlide(path) as slide:
            sizes = slide.level_dimensions
            mpp = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
            for level, (width, height) in enumerate(sizes):  # the last pixels, which a file that was cut off lacks
                reduced = slide.level_downsamples[level]
                slide.read_region((int((width - 1) * reduced), int((height - 1) * reduced)), level, (1, 1))
    except openslide.OpenSlideError as error:
        raise ValueError(f"{reason}, and OpenSlide cannot read it: {error}. Is the file complete?") from error
    levels = [_SlideLevel(path, k, size, sizes[0]).as_dask() for k, size in enumerate(sizes)]
    try:
        sources = [] if mpp is None else [Source("the OpenSlide properties of the image file", float(mpp))]
    except ValueError:
        sources = []
    return Stored(levels), sources


class _SlideLevel(FileArray):
    """One pyramid level of a slide, in RGB over white; OpenSlide gives it clear where the scanner saw nothing."""

    def __init__(self, path: Path, level: int, size: tuple[int, int], full: tuple[int, int]) -> None:
        super().__init__(path, (3, size[1], size[0]), np.dtype(np.uint8))
        self.level = level
        self.factor = full[0] / size[0], full[1] / size[1]

    def _open(self) -> tuple[Any, Any]:
        slide = _library(f"{self.path} is a slide").OpenSlide(self.path)
        return slide, slide

    def _read(self, opened: Any, key: tuple[slice, ...]) -> np.ndarray:
        (y0, y1, _), (x0, x1, _) = (part.indices(size) for part, size in zip(key[1:], self.shape[1:]))
        corner = round(x0 * self.factor[0]), round(y0 * self.factor[1])
        region = opened.read_region(corner, self.level, (x1 - x0, y1 - y0))
        # Here and not block by block later, so that a patch reads no more than itself.
        rgb = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region).convert("RGB")
        return np.asarray(rgb).transpose(2, 0, 1)[key[0]]
