"""Read an image file into the levels of a pyramid."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from hisdiff.io._build import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels: slides are larger than the web images it is meant for."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def decode(path: Path) -> np.ndarray:
    """Return an image in a format without random access (jpg, png, ...) as uint8 ``(3, y, x)``, decoded once."""
    from PIL import Image

    try:
        with _any_size(), Image.open(path) as image:
            image.load()
            pixels = np.empty((3, image.height, image.width), dtype=np.uint8)
            for top in range(0, image.height, CHUNK):  # in strips: a whole copy beside Pillow's own doubles the memory
                bottom = min(top + CHUNK, image.height)
                strip = image.crop((0, top, image.width, bottom)).convert("RGB")
                pixels[:, top:bottom] = np.asarray(strip).transpose(2, 0, 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}. Is the file complete?") from error
    return pixels
