"""An image read in squares that are anchored at the origin, so that a pixel has one value whatever box is asked for.

Resampling rounds to whole grey levels, and the last digits of a box's corner decide a tie. One grey level is nothing in
a picture, but the logarithm of the energy of a plain area follows it.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hisdiff._section import Box, ImageSource

_SIDE = 512
"""Of a square. Chunks on disk are read whole for every square that touches them, so that small ones are dear."""
_MARGIN = 2
"""Pixels at the border of what is read are resampled from fewer neighbours than others."""
_KEPT = 320
"""Squares in memory, some 250 MB: what the neighbours in the next row of a slide's tiles need again."""


class AnchoredImage:
    """An :class:`~hisdiff._section.ImageSource` at one resolution, on the lattice of pixels that starts at the origin.

    Parameters
    ----------
    image
        What is read.
    mpp
        Micrometres per pixel of the lattice.
    """

    def __init__(self, image: ImageSource, mpp: float) -> None:
        self.source, self.mpp, self.bounds_um = image, mpp, image.bounds_um
        # Not a method: an object that holds itself would keep its squares until garbage is looked for.
        self._square = lru_cache(_KEPT)(partial(_read_square, image, mpp))

    def __reduce__(self) -> tuple[type[AnchoredImage], tuple[ImageSource, float]]:
        """Travel to a worker without the squares that are in memory."""
        return AnchoredImage, (self.source, self.mpp)

    def read(self, box_um: Box, mpp: float) -> np.ndarray:
        """Read a box at the resolution of the lattice, whole pixels of it; see ``ImageSource``."""
        if mpp != self.mpp:
            raise ValueError(f"The image is read at {self.mpp:g} um per pixel here, not {mpp:g}.")
        left, top, right, bottom = (round(side / mpp) for side in box_um)
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        for i in range(top // _SIDE, (bottom - 1) // _SIDE + 1):
            y0, y1 = max(i * _SIDE, top), min((i + 1) * _SIDE, bottom)
            for j in range(left // _SIDE, (right - 1) // _SIDE + 1):
                x0, x1 = max(j * _SIDE, left), min((j + 1) * _SIDE, right)
                part = self._square(i, j)[y0 - i * _SIDE : y1 - i * _SIDE, x0 - j * _SIDE : x1 - j * _SIDE]
                out[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return out


def _read_square(image: ImageSource, mpp: float, i: int, j: int) -> np.ndarray:
    first, last = -_MARGIN, _SIDE + _MARGIN
    x, y = j * _SIDE, i * _SIDE
    box = (x + first) * mpp, (y + first) * mpp, (x + last) * mpp, (y + last) * mpp
    return image.read(box, mpp)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def anchored(image: ImageSource, mpp: float) -> AnchoredImage:
    """Return an image on the lattice of pixels of a resolution; one that is on it already is returned as it is."""
    if not isinstance(image, AnchoredImage):
        return AnchoredImage(image, mpp)
    return image if image.mpp == mpp else AnchoredImage(image.source, mpp)
