"""Open an image file, of any format, as a pyramid of lazy levels with its pixel size."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._log import logger
from hisdiff.io._build import CHUNK, extended, levels_of
from hisdiff.io._color import Stored, check_channels, to_rgb, warn_if_gray
from hisdiff.io._limits import check_decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dask.array as da

    from hisdiff.io._scale import Source

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SLIDE_SUFFIXES = {".mrxs", ".vms", ".vmu", ".czi"}
"""Formats whose main file may be a preview that Pillow reads well, at a fraction of the resolution."""
PLAIN_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
PREFERS_OPENSLIDE = {".ndpi"}
DICOM_MAGIC = b"DICM"
GZIP_MAGIC = b"\x1f\x8b"
CONVERTED = ("P", "PA", "CMYK", "YCbCr")
"""Modes of Pillow that stand for three colours with another number of channels."""
UNKNOWN_MODES = ("LAB", "HSV")


@dataclass(frozen=True)
class Raster:
    """An image as a pyramid.

    Attributes
    ----------
    levels
        ``(3, y, x)`` of uint8 RGB, finest first.
    sources
        Pixel sizes of the finest one that the file states.
    n_stored
        How many levels can be read without reading a finer one.
    """

    levels: list[da.Array]
    sources: tuple[Source, ...] = ()
    n_stored: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in full-resolution pixels."""
        return self.levels[0].shape[1], self.levels[0].shape[2]


def open_raster(path: str | Path) -> Raster:
    """Open an image file, whatever its suffix says.

    TIFF (also OME, Aperio svs) is read lazily, with the file's own pyramid if it has one; formats without random access
    (jpg, png) are decoded once; ndpi, DICOM (a file, or the folder of a slide's files) and other scanner formats are read
    through OpenSlide.
    """
    folder = Path(path).expanduser()
    path = _image_path(folder)
    magic = _magic(path)
    if not magic:
        raise ValueError(f"{path} is empty.")
    suffix = path.suffix.lower()
    if magic[:4] in TIFF_MAGIC and not (suffix in PREFERS_OPENSLIDE and _has_openslide()):
        from hisdiff.io._tiff import CannotDecode, open_tiff

        try:
            stored, sources = open_tiff(path)
        except CannotDecode as error:
            stored, sources = _open_slide(path, str(error))
        return _raster(stored, sources, path)
    dicom = magic[128:132] == DICOM_MAGIC
    if suffix not in SLIDE_SUFFIXES and not dicom and magic[:4] not in TIFF_MAGIC and _is_pillows(path):
        levels = levels_of(decode(path))
        warn_if_gray(levels[-1], str(path))
        return Raster(levels, n_stored=len(levels))
    if magic.startswith(GZIP_MAGIC):
        raise ValueError(f"{path} is packed with gzip and holds no image that Pillow reads; unpack it.")
    if magic.startswith(PLAIN_MAGIC) and suffix not in SLIDE_SUFFIXES:
        raise ValueError(f"{path} cannot be read as an image: it ends in its header. Is the file complete?")
    reason = f"{path} is no image: it is neither a TIFF nor of a format that Pillow reads"
    if dicom:
        reason = f"{path} is a DICOM file"
        if folder.is_dir():
            _check_one_slide(_dicom_files(folder), reason)
    if not dicom and suffix not in SLIDE_SUFFIXES | {".dcm", ".svslide"} and magic[:4] not in TIFF_MAGIC:
        raise ValueError(f"{reason}, nor is its name that of a scanner's format; it begins with {magic[:16]!r}.")
    return _raster(*_open_slide(path, reason), path)


def _image_path(path: str | Path) -> Path:
    """Return a file: the one that is named, or the first of a folder of DICOM files."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no image file {path}.")
    if not path.is_dir():
        return path
    files = _dicom_files(path)
    if not files:
        raise ValueError(f"{path} is a folder; an image file is needed, or a folder of the DICOM files of one slide.")
    return files[0]


def _dicom_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and _magic(file)[128:132] == DICOM_MAGIC)


def _magic(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; an image file is needed.")
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error


def _has_openslide() -> bool:
    return importlib.util.find_spec("openslide") is not None


def _open_slide(path: Path, reason: str) -> tuple[Stored, list[Source]]:
    from hisdiff.io._openslide import open_slide

    return open_slide(path, reason)


def _check_one_slide(files: list[Path], reason: str) -> None:
    from hisdiff.io._openslide import check_one_slide

    check_one_slide(files, reason)


def _raster(stored: Stored, sources: list[Source], path: Path) -> Raster:
    levels = to_rgb(stored, str(path))
    warn_if_gray(levels[-1], str(path))
    return Raster(extended(levels), tuple(sources), len(levels))


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
        with _any_size(), _unpacked(path) as file, Image.open(file):
            return True
    except (UnidentifiedImageError, EOFError, gzip.BadGzipFile, zlib.error):
        return False


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """Open a file, which may be packed as files from GEO are."""
    with gzip.open(path) if _magic(path).startswith(GZIP_MAGIC) else path.open("rb") as file:
        yield file


def decode(path: Path) -> np.ndarray:
    """Return an image in a format without random access (jpg, png, ...) as uint8 ``(3, y, x)``, decoded once.

    Opacity is laid over white, the colour of an empty slide, but where it is zero everywhere.
    """
    from PIL import Image

    try:
        with _any_size(), _unpacked(path) as file, Image.open(file) as image:
            mode, bands = image.mode, image.getbands()
            if mode in UNKNOWN_MODES:
                raise ValueError(
                    f"{path} has its colours as {mode}; RGB, CMYK and palettes can be read. Convert it to RGB."
                )
            if mode not in CONVERTED:
                check_channels(len([band for band in bands if band not in "Aa"]), mode, str(path))
            check_decoded(path, (3, image.height, image.width))
            image.load()
            clear = mode == "RGBa" or "A" in bands or "transparency" in image.info
            if "A" in bands and image.getchannel("A").getextrema()[1] == 0:
                logger.warning(
                    "%s: its alpha channel is zero everywhere and was left out; the colours are shown.", path
                )
                clear = False
            pixels = np.empty((3, image.height, image.width), dtype=np.uint8)
            for top in range(0, image.height, CHUNK):  # in strips: a whole copy beside Pillow's own doubles the memory
                bottom = min(top + CHUNK, image.height)
                strip = image.crop((0, top, image.width, bottom)).convert("RGBA" if clear else "RGB")
                if clear:
                    strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")
                pixels[:, top:bottom] = np.asarray(strip).transpose(2, 0, 1)
    except (
        OSError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:  # Pillow has SyntaxError for a broken PNG
        raise ValueError(f"{path} cannot be read as an image: {error}. Is the file complete?") from error
    return pixels
