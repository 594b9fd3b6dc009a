"""Values at locations, bins of a grid or spots, as a raster without gaps between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from hisdiff._geometry._lattice import pitch_of

# A pixel belongs to its nearest location up to this many pitches: more than half the diagonal of a square lattice,
# less than the pitch, so that a missing bin stays a hole.
_REACH = 0.75
# Pixels across the distance of two spots.
_PIXELS_PER_PITCH = 4


@dataclass(frozen=True)
class PointRaster:
    """A raster over locations.

    Attributes
    ----------
    origin_um
        ``(x, y)`` of the outer corner of the first pixel.
    pixel_um
        Side of a pixel.
    pixel
        ``(n, 2)`` row and column of the pixel that each location lies in.
    nearest
        ``(rows, columns)`` the nearest location of each pixel, -1 where none is near.
    """

    origin_um: np.ndarray
    pixel_um: float
    pixel: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, xy_um: np.ndarray, *, bins: bool, max_px: int | None = None) -> PointRaster:
        """Lay a raster over locations ``(n, 2)``.

        Parameters
        ----------
        bins
            Whether locations are bins of a grid, which become one pixel each, or spots, which become several.
        max_px
            Most pixels along the shorter side; pixels become larger where that is needed.
        """
        pitch = pitch_of(xy_um)
        pixel = pitch if bins else pitch / _PIXELS_PER_PITCH
        low, high = xy_um.min(axis=0), xy_um.max(axis=0)
        margin = 0.5 * pitch
        if max_px is not None:
            pixel = max(pixel, float((high - low).min() + 2 * margin) / max_px)
        origin = low - margin
        columns, rows = np.maximum(np.ceil((high + margin - origin) / pixel - 1e-6).astype(int), 1)
        place = np.floor((xy_um - origin) / pixel + 1e-9).astype(int)
        place = np.clip(place[:, ::-1], 0, [rows - 1, columns - 1])
        y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
        centers = np.stack([x, y], axis=-1) * pixel + origin
        distance, nearest = cKDTree(xy_um).query(centers, distance_upper_bound=_REACH * max(pitch, pixel))
        return cls(origin, pixel, place, np.where(np.isfinite(distance), nearest, -1))

    @property
    def inside(self) -> np.ndarray:
        """``(rows, columns)`` pixels that belong to a location."""
        return self.nearest >= 0

    @property
    def box_um(self) -> tuple[float, float, float, float]:
        """Extent as (x0, y0, x1, y1)."""
        rows, columns = self.nearest.shape
        x0, y0 = (float(v) for v in self.origin_um)
        return x0, y0, x0 + columns * self.pixel_um, y0 + rows * self.pixel_um

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Return ``(rows, columns)``: the mean of the locations in a pixel, else its nearest one's value, 0 outside."""
        rows, columns = self.nearest.shape
        flat = self.pixel[:, 0] * columns + self.pixel[:, 1]
        count = np.bincount(flat, minlength=rows * columns).reshape(rows, columns)
        total = np.bincount(flat, weights=values, minlength=rows * columns).reshape(rows, columns)
        filled = np.where(self.inside, np.asarray(values, dtype=float)[self.nearest], 0.0)
        return np.where(count > 0, total / np.maximum(count, 1), filled)

    def at(self, raster: np.ndarray) -> np.ndarray:
        """Return the value of a raster at each location, ``(n,)``."""
        return raster[self.pixel[:, 0], self.pixel[:, 1]]


def depth_inside(mask: np.ndarray, pixel_um: float) -> np.ndarray:
    """Return how far inside a region each pixel's centre lies, in um; 0 outside. The border of the raster is outside."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return np.where(mask, (distance - 0.5) * pixel_um, 0.0)


def large_parts(mask: np.ndarray, min_px: float) -> np.ndarray:
    """Return the connected parts (4 neighbours) of a region that have at least so many pixels, int, 0 outside."""
    parts, count = ndimage.label(mask)
    size = np.bincount(parts.ravel(), minlength=count + 1)
    kept = np.flatnonzero(size[1:] >= min_px) + 1
    order = np.zeros(count + 1, dtype=int)
    order[kept[np.argsort(-size[kept], kind="stable")]] = np.arange(1, len(kept) + 1)
    return order[parts]
