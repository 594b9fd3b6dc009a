"""Colour of the image around a place, and the third coordinate that TESLA makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hisdiff._section import Box, ImageSource

# Pixels of the raster along the side of a window.
_PIXELS_PER_WINDOW = 4
# Rows of raster that are read at once, and points whose windows are summed at once.
_ROWS = 512
_POINTS = 4096


@dataclass(frozen=True)
class ColorRaster:
    """Image of a section at a coarse scale, in which means over windows are quick.

    Attributes
    ----------
    pixels
        uint8 ``(y, x, 3)``; whole pixels inside the image only, so that glass beyond its border takes no part.
    first
        Row and column of the first pixel in the grid of pixels anchored at the origin of um.
    pixel_um
        Side of a pixel.
    window_um
        Side of the window whose mean colour is a place's.
    """

    pixels: np.ndarray
    first: tuple[int, int]
    pixel_um: float
    window_um: float

    @classmethod
    def read(cls, image: ImageSource, box_um: Box, window_um: float) -> ColorRaster:
        """Read the part of an image in which windows around places inside a box lie."""
        pixel = max(window_um / _PIXELS_PER_WINDOW, image.mpp)
        _, _, width, height = image.bounds_um
        limit = np.array([int(height / pixel + 1e-6), int(width / pixel + 1e-6)])
        if limit.min() < 1:
            raise ValueError(
                f"A window of {window_um:g} um does not fit into the image, which is {width:.0f} x {height:.0f} um."
            )
        corner = np.array([[box_um[1], box_um[0]], [box_um[3], box_um[2]]]) + [[-window_um] * 2, [window_um] * 2]
        low = np.clip(np.floor(corner[0] / pixel).astype(int), 0, limit - 1)
        high = np.clip(np.ceil(corner[1] / pixel).astype(int), low + 1, limit)
        strips = []
        for row in range(low[0], high[0], _ROWS):
            end = min(row + _ROWS, high[0])
            strips.append(image.read((low[1] * pixel, row * pixel, high[1] * pixel, end * pixel), pixel))
        return cls(np.concatenate(strips), (int(low[0]), int(low[1])), pixel, window_um)

    def at(self, xy_um: np.ndarray) -> np.ndarray:
        """Return the mean colour of the windows around points, float64 ``(n, 3)``; clipped at the border."""
        parts = [self._means(xy_um[start : start + _POINTS]) for start in range(0, len(xy_um), _POINTS)]
        return np.concatenate(parts) if parts else np.empty((0, 3))

    def _means(self, xy_um: np.ndarray) -> np.ndarray:
        limit = np.array(self.pixels.shape[:2])
        center = xy_um[:, ::-1] / self.pixel_um - self.first
        half = self.window_um / self.pixel_um / 2
        low = np.clip(center - half, 0, limit - 1)
        high = np.clip(center + half, low + 1, limit)
        # Sums over the part of the raster that these windows need: integers, so that they do not depend on the part.
        start, stop = np.floor(low.min(axis=0)).astype(int), np.ceil(high.max(axis=0)).astype(int)
        part = self.pixels[start[0] : stop[0], start[1] : stop[1]].astype(np.float64)
        sums = np.pad(part.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
        (top, left), (bottom, right) = (low - start).T, (high - start).T
        total = _at(sums, bottom, right) - _at(sums, top, right) - _at(sums, bottom, left) + _at(sums, top, left)
        return total / np.prod(high - low, axis=1, keepdims=True)


def _at(sums: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Interpolate cumulative sums linearly, which is exact for pixels of even colour, ``(n, 3)``."""
    i, j = np.minimum(y.astype(int), sums.shape[0] - 2), np.minimum(x.astype(int), sums.shape[1] - 2)
    v, u = (y - i)[:, None], (x - j)[:, None]
    upper = sums[i, j] * (1 - u) + sums[i, j + 1] * u
    lower = sums[i + 1, j] * (1 - u) + sums[i + 1, j + 1] * u
    return upper * (1 - v) + lower * v


@dataclass(frozen=True)
class ColorDepth:
    """The line from colour to the coordinate z: ``z = scale_um * (weights . colour - centre) / spread``.

    Attributes
    ----------
    weights
        ``(3,)``, adding up to 1.
    center, spread
        Mean and sd of the weighted colour over the points that fix the line.
    scale_um
        What one sd of colour is worth as a distance.
    """

    weights: np.ndarray
    center: float
    spread: float
    scale_um: float

    @classmethod
    def by_variance(cls, colors: np.ndarray, scale_um: float) -> ColorDepth:
        """Weigh channels by their variance over the points, ``(n, 3)``."""
        variance = colors.var(axis=0)
        total = variance.sum()
        return cls._of(colors, variance / total if total > 0 else np.full(3, 1 / 3), scale_um)

    @classmethod
    def of_gray(cls, colors: np.ndarray, scale_um: float) -> ColorDepth:
        """Weigh channels alike, as the published code does for spots."""
        return cls._of(colors, np.full(3, 1 / 3), scale_um)

    @classmethod
    def _of(cls, colors: np.ndarray, weights: np.ndarray, scale_um: float) -> ColorDepth:
        values = colors @ weights
        return cls(weights, float(values.mean()), float(values.std()), scale_um)

    def __call__(self, colors: np.ndarray) -> np.ndarray:
        """Return z in um, ``(n,)``; zero where all points have one colour."""
        if self.spread < 1e-9:
            return np.zeros(len(colors))
        return self.scale_um * (colors @ self.weights - self.center) / self.spread
