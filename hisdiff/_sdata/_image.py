"""A multi-scale image element as an :class:`~hisdiff._section.ImageSource`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

    from hisdiff._section import Box, ImageSource

WHITE = 255
# Largest enlargement that reading does without being asked twice: a patch enlarged more shows nothing new.
MAX_ENLARGEMENT = 4.0


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
        self._levels = [level.data for level in levels_of(element)]
        channels, height, width = self._levels[0].shape
        if channels not in (3, 4):
            raise ValueError(f"Image {name!r} has {channels} channel(s); H&E has 3 (RGB), or 4 with alpha.")
        kind = self._levels[0].dtype
        if kind not in (np.dtype("uint8"), np.dtype("uint16")) and kind.kind != "f":
            raise ValueError(f"Image {name!r} has dtype {kind}; uint8, uint16 and float in 0 to 1 are understood.")
        self.name = name
        self.mpp = float(mpp)
        self.bounds_um: Box = (0.0, 0.0, width * self.mpp, height * self.mpp)
        # Levels need not halve exactly (odd sizes), so each axis has its own factor.
        self._factors = [(width / level.shape[2], height / level.shape[1]) for level in self._levels]

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
        pixels, (px, py) = self._crop(level, left, top, right, bottom)
        box = left - px, top - py, right - px, bottom - py
        if box == (0, 0, pixels.shape[1], pixels.shape[0]) and size == (pixels.shape[1], pixels.shape[0]):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box))

    def _level_for(self, mpp: float) -> int:
        fine_enough = [i for i, (fx, _) in enumerate(self._factors) if fx * self.mpp <= mpp * 1.001]
        return fine_enough[-1] if fine_enough else 0

    def _crop(
        self, level: int, left: float, top: float, right: float, bottom: float
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """Return the whole pixels that cover a box, white where the image has none, and the position of the first."""
        data = self._levels[level]
        height, width = data.shape[1:]
        # A tolerance keeps 12.000000001 from adding a row.
        x0, y0 = int(np.floor(left + 1e-6)), int(np.floor(top + 1e-6))
        x1, y1 = max(x0 + 1, int(np.ceil(right - 1e-6))), max(y0 + 1, int(np.ceil(bottom - 1e-6)))
        inside = slice(max(y0, 0), max(min(y1, height), 0)), slice(max(x0, 0), max(min(x1, width), 0))
        part = data[:, inside[0], inside[1]]
        # Callers read from threads of their own; dask's pool on top of them only costs.
        part = part.compute(scheduler="synchronous") if hasattr(part, "compute") else np.asarray(part)
        out = np.full((y1 - y0, x1 - x0, 3), WHITE, dtype=np.uint8)
        if part.size:
            oy, ox = inside[0].start - y0, inside[1].start - x0
            out[oy : oy + part.shape[1], ox : ox + part.shape[2]] = self._rgb(part)
        return out, (x0, y0)

    def _rgb(self, part: np.ndarray) -> np.ndarray:
        """Turn (c, y, x) of any accepted type into uint8 (y, x, 3)."""
        part = np.moveaxis(part, 0, -1)
        if part.dtype == np.uint8 and part.shape[-1] == 3:
            return part
        full = {"uint8": 255.0, "uint16": 65535.0}.get(part.dtype.name, 1.0)
        unit = part.astype(np.float32) / full
        if part.dtype.kind == "f" and (not np.isfinite(unit).all() or unit.min() < -1e-3 or unit.max() > 1.001):
            raise ValueError(
                f"Image {self.name!r} is of type float with values outside 0 to 1; rescale it to 0 to 1 or to uint8."
            )
        if part.shape[-1] == 4:
            alpha = unit[..., 3:]
            unit = unit[..., :3] * alpha + (1 - alpha)
        return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)
