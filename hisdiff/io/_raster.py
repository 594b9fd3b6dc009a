"""Open an image file, of any format, as a pyramid of lazy levels with its pixel size."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import positive
from hisdiff._log import logger
from hisdiff.io._build import CHUNK, check_mpp, extended, levels_of
from hisdiff.io._colour import Stored, check_channels, to_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dask.array as da

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLIDE_SUFFIXES = {".mrxs", ".vms", ".vmu", ".czi"}
"""Formats whose main file may be a preview that Pillow reads well, at a fraction of the resolution."""
MPP_TOLERANCE = 0.05


@dataclass(frozen=True)
class Raster:
    """Levels ``(3, y, x)`` of uint8 RGB, finest first, and micrometres per pixel of the finest where the file says."""

    levels: list[da.Array]
    mpp: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in full-resolution pixels."""
        return self.levels[0].shape[1], self.levels[0].shape[2]


def open_raster(path: str | Path) -> Raster:
    """Open an image file, whatever its suffix says.

    TIFF (also OME, Aperio svs, ndpi) is read lazily, with the file's own pyramid if it has one; formats without random
    access (jpg, png) are decoded once; other scanner formats are read through OpenSlide.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no image file {path}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; an image file is needed.")
    with path.open("rb") as file:
        magic = file.read(4)
    if not magic:
        raise ValueError(f"{path} is empty.")
    if magic in TIFF_MAGIC:
        from hisdiff.io._tiff import CannotDecode, open_tiff

        try:
            stored, mpp = open_tiff(path)
        except CannotDecode as error:
            stored, mpp = _open_slide(path, str(error))
        return _raster(stored, mpp, path)
    if path.suffix.lower() not in SLIDE_SUFFIXES and _is_pillows(path):
        return Raster(levels_of(decode(path)))
    return _raster(*_open_slide(path, f"{path} is no TIFF and no format that Pillow reads"), path)


def _open_slide(path: Path, reason: str) -> tuple[Stored, float | None]:
    from hisdiff.io._openslide import open_slide

    return open_slide(path, reason)


def _raster(stored: Stored, mpp: float | None, path: Path) -> Raster:
    return Raster(extended(to_rgb(stored, str(path))), mpp)


def settle_mpp(raster: Raster, mpp: float | None, what: str, remedy: str = "pass mpp=") -> float:
    """Return the pixel size that is given, else the file's; none is a ``ValueError``, a contradiction is said."""
    if mpp is None:
        if raster.mpp is None:
            raise ValueError(
                f"{what} does not say how many micrometres a pixel has; {remedy}, such as mpp=0.5 for 20x."
            )
        return check_mpp(raster.mpp, what)
    mpp = check_mpp(positive(mpp, "mpp"), what)
    if raster.mpp is not None and abs(raster.mpp / mpp - 1) > MPP_TOLERANCE:
        logger.info("%s says %.4g um per pixel; the given %.4g is used.", what, raster.mpp, mpp)
    return mpp


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels: slides are larger than the web images it is meant for."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_pillows(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with _any_size(), Image.open(path):
            return True
    except UnidentifiedImageError:
        return False


def decode(path: Path) -> np.ndarray:
    """Return an image in a format without random access (jpg, png, ...) as uint8 ``(3, y, x)``, decoded once.

    Alpha is laid over white, the colour of an empty slide.
    """
    from PIL import Image

    try:
        with _any_size(), Image.open(path) as image:
            check_channels(len([band for band in image.getbands() if band != "A"]), image.mode, str(path))
            image.load()
            clear = "A" in image.getbands() or "transparency" in image.info
            pixels = np.empty((3, image.height, image.width), dtype=np.uint8)
            for top in range(0, image.height, CHUNK):  # in strips: a whole copy beside Pillow's own doubles the memory
                bottom = min(top + CHUNK, image.height)
                strip = image.crop((0, top, image.width, bottom)).convert("RGBA" if clear else "RGB")
                if clear:
                    strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
                pixels[:, top:bottom] = np.asarray(strip).transpose(2, 0, 1)
    except (OSError, SyntaxError) as error:  # Pillow has SyntaxError for a broken PNG
        raise ValueError(f"{path} cannot be read as an image: {error}. Is the file complete?") from error
    return pixels
