"""A multi-scale image element as an :class:`~hisdiff._section.ImageSource`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._sdata._pixels import Pixels

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

    from hisdiff._section import Box, ImageSource

# Largest enlargement that reading does without being asked twice: a patch enlarged more shows nothing new.
MAX_ENLARGEMENT = 4.0

# Of a pixel.
_OFF = 1e-6


def levels_of(element: Any) -> list[DataArray]:
    """Return the pyramid levels of an image element, finest first."""
    if hasattr(element, "children"):
        return [
            next(iter(element[name].data_vars.values())) for name in sorted(element.children, key=lambda n: int(n[5:]))
        ]
    return [element]


def fingerprint(image: ImageSource) -> str:
    """Return a digest of a small view of an image, by which it is known again."""
    x0, y0, x1, y1 = image.bounds_um
    view = image.read(image.bounds_um, max(x1 - x0, y1 - y0) / 256)
    return hashlib.sha256(view.tobytes()).hexdigest()[:16]


class PyramidImage:
    """Read boxes of an image in micrometres, from the pyramid level that is just fine enough.

    Parameters
    ----------
    element
        Image element with dims (c, y, x): uint8, uint16 (full range) or float in 0 to 1; three channels, or four with
        alpha, which is laid over white.
    mpp
        Micrometres per pixel of the finest level.
    name
        For messages.
    """

    def __init__(self, element: DataArray | DataTree, mpp: float, name: str = "image") -> None:
        levels = [level.data for level in levels_of(element)]
        channels, height, width = levels[0].shape
        if channels not in (3, 4):
            raise ValueError(f"Image {name!r} has {channels} channel(s); H&E has 3 (RGB), or 4 with alpha.")
        kind = levels[0].dtype
        if kind.newbyteorder("=") not in (np.dtype("uint8"), np.dtype("uint16")) and kind.kind != "f":
            raise ValueError(f"Image {name!r} has dtype {kind}; uint8, uint16 and float in 0 to 1 are understood.")
        self.name = name
        self.mpp = float(mpp)
        self.bounds_um: Box = (0.0, 0.0, width * self.mpp, height * self.mpp)
        # Levels need not halve exactly (odd sizes), so each axis has its own factor.
        self._factors = [(width / level.shape[2], height / level.shape[1]) for level in levels]
        self._levels = [Pixels(level, name) for level in levels]

    def read(self, box_um: Box, mpp: float) -> np.ndarray:
        """Read a box; see :class:`~hisdiff._section.ImageSource`."""
        if mpp < self.mpp / MAX_ENLARGEMENT:
            raise ValueError(
                f"Image {self.name!r} has {self.mpp:.3g} um per pixel; reading it at {mpp:.3g} would enlarge it more than "
                f"{MAX_ENLARGEMENT:g} times. Is it the full-resolution image, and is its mpp right?"
            )
        x0, y0, x1, y1 = box_um
        size = max(1, round((x1 - x0) / mpp)), max(1, round((y1 - y0) / mpp))
        level = self._level_for(mpp)
        fx, fy = (factor * self.mpp for factor in self._factors[level])
        left, top, right, bottom = x0 / fx, y0 / fy, x1 / fx, y1 / fy
        # A tolerance keeps 12.000000001 from adding a row.
        px, py = int(np.floor(left + 1e-6)), int(np.floor(top + 1e-6))
        qx, qy = max(px + 1, int(np.ceil(right - 1e-6))), max(py + 1, int(np.ceil(bottom - 1e-6)))
        pixels = self._levels[level].box(py, px, qy, qx)
        height, width = pixels.shape[1:]
        # Rounding may put the border slightly outside the image.
        box = max(left - px, 0.0), max(top - py, 0.0), min(right - px, width), min(bottom - py, height)
        # Rounding may also put the sides of whole pixels beside them, by less than any resampling shows.
        off = max(abs(side - whole) for side, whole in zip(box, (0, 0, width, height)))
        if off < _OFF and size == (width, height):
            out = np.empty((height, width, 3), dtype=np.uint8)
            for color, values in enumerate(pixels):  # four times as fast as all at once
                out[..., color] = values
            return out
        from hisdiff._sdata._resize import resized  # numba takes a quarter of a second to import

        return resized(pixels, *map(np.float32, box), *size)

    def _level_for(self, mpp: float) -> int:
        fine_enough = [i for i, (fx, _) in enumerate(self._factors) if fx * self.mpp <= mpp * 1.001]
        return fine_enough[-1] if fine_enough else 0
