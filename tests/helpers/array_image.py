"""An image source over an array, read at its own pixel size."""

from __future__ import annotations

import numpy as np


class ArrayImage:
    """Pixels ``(y, x, 3)`` of ``mpp`` um; white outside."""

    def __init__(self, pixels: np.ndarray, mpp: float) -> None:
        self.pixels, self.mpp = pixels, mpp
        self.bounds_um = (0.0, 0.0, pixels.shape[1] * mpp, pixels.shape[0] * mpp)

    def read(self, box_um, mpp):
        x0, y0, x1, y1 = (round(side / mpp) for side in box_um)
        height, width = self.pixels.shape[:2]
        out = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        ys, xs = np.arange(max(y0, 0), min(y1, height)), np.arange(max(x0, 0), min(x1, width))
        if len(ys) and len(xs):
            out[np.ix_(ys - y0, xs - x0)] = self.pixels[np.ix_(ys, xs)]
        return out
