"""How the locations of a section are drawn: each at its footprint, or all of a labels element as one raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.transforms import Affine2D

from hisdiff.pl import _canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.transforms import Transform

    from hisdiff._sdata._labels import LabelRaster
    from hisdiff._section import Box, Locations

RASTER_PX = 2000
"""Longer side of a raster of labels: a million bins are drawn one by one, more are thinned out."""


class Marks(Protocol):
    """Locations that can be coloured by one value each; ``alpha`` is the opacity that suits them."""

    @property
    def alpha(self) -> float: ...

    def box(self, bounds: Box) -> Box:
        """Return the box around them with a margin, inside the bounds of the image."""

    def draw(self, ax: Axes, values: np.ndarray, **style: Any) -> ScalarMappable:
        """Draw them coloured by values ``(n,)``; those with NaN are left out. Style: ``norm``, ``cmap``, ``alpha``."""

    def ring(self, ax: Axes, chosen: np.ndarray, color: str) -> None:
        """Outline those that are chosen, bool ``(n,)``."""


@dataclass(frozen=True)
class Footprints:
    """Spots or shapes, as a collection of their footprints."""

    locations: Locations
    alpha: float = 0.95

    def box(self, bounds: Box) -> Box:
        return _canvas.crop_box(self.locations, bounds)

    def draw(self, ax: Axes, values: np.ndarray, **style: Any) -> ScalarMappable:
        return _canvas.draw_locations(ax, self.locations, values, **style)

    def ring(self, ax: Axes, chosen: np.ndarray, color: str) -> None:
        _canvas.ring_locations(ax, self.locations.take(chosen), color)


@dataclass(frozen=True)
class Raster:
    """Labels, as one image."""

    labels: LabelRaster
    alpha: float = 0.6  # bins leave no gap through which the tissue would show

    def box(self, bounds: Box) -> Box:
        row, column = np.nonzero(self.labels.location >= 0)
        if not len(row):
            return bounds
        corners = np.array([[x, y, 1] for x in (column.min(), column.max() + 1) for y in (row.min(), row.max() + 1)])
        xy = (corners @ self.labels.to_um.T)[:, :2]
        return _canvas.padded_box(xy.min(axis=0), xy.max(axis=0), bounds)

    def draw(self, ax: Axes, values: np.ndarray, **style: Any) -> ScalarMappable:
        # Position -1, no location, takes the last value.
        pixels = np.append(values.astype(np.float32), np.float32(np.nan))[self.labels.location]
        height, width = pixels.shape
        style |= {"extent": (0, width, height, 0), "origin": "upper", "transform": self._to_panel(ax), "zorder": 2}
        return ax.imshow(np.ma.masked_invalid(pixels), **style)

    def ring(self, ax: Axes, chosen: np.ndarray, color: str) -> None:
        # A frame of nothing closes the outline at the border.
        inside = np.pad(np.append(chosen, False)[self.labels.location], 1)
        y, x = (np.arange(size) - 0.5 for size in inside.shape)
        ax.contour(x, y, inside, levels=[0.5], colors=[color], linewidths=1.2, transform=self._to_panel(ax), zorder=3)

    def _to_panel(self, ax: Axes) -> Transform:
        return Affine2D(self.labels.to_um) + ax.transData  # rotated where the element is
