"""Drawing in micrometres: image underlay, locations at their true size, scale bar, shared norm.

The underlay is read through the section's ``ImageSource`` at the resolution of the screen, so that the crop and the
level of the pyramid are chosen there and the full-resolution image is never touched. spatialdata-plot draws the whole
slide with one norm per panel, and takes 5.2 s for four panels of a section of 92 megapixels, where this takes 0.9 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import shapely
from matplotlib.collections import EllipseCollection, PathCollection, PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import Collection

    from hisdiff._json import Plain
    from hisdiff._section import Box, ImageSource, Locations

UNDERLAY_PX = 1000
"""Longer side of the underlay: sharp at 200 dpi for a panel of 5 inches, 3 MB in memory."""
MAP_INCH = 3.6
"""Width of a map."""
MAX_BESIDE = 3
"""Maps in a row, where there is one column of them."""


class NotebookFigure(Figure):
    """A figure that a notebook shows once.

    A figure of pyplot that is also the value of a cell is drawn twice by the inline backend: as the value, and when
    pyplot's open figures are flushed. Whichever comes first takes it off pyplot's list.
    """

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Plain:
        if "inline" in mpl.get_backend():
            plt.close(self)
        return {}  # the formatters for the wanted image formats follow


def new_figure(n_rows: int, n_cols: int, *, figsize: tuple[float, float], layout: str) -> tuple[Figure, np.ndarray]:
    """Return a figure and its ``(n_rows, n_cols)`` axes; ``figsize`` in inches."""
    return plt.subplots(n_rows, n_cols, figsize=figsize, layout=layout, squeeze=False, FigureClass=NotebookFigure)


def map_panels(
    n_rows: int, n_cols: int, box: Box, n_bars: float = 1, figsize: tuple[float, float] | None = None
) -> tuple[Figure, np.ndarray]:
    """Return a figure for maps of a box and its ``(n_rows, n_cols)`` axes, with room for the colour bars of a row.

    A single column of maps is laid out in rows of a few maps. ``figsize`` in inches replaces the usual size.
    """
    aspect, width = (box[3] - box[1]) / (box[2] - box[0]), map_width(box)
    height = width * aspect + 0.65  # the title above and the scale bar below
    tall, wide, bars = n_rows, n_cols, 0.8 * n_bars
    if n_cols == 1:
        tall, wide = -(-n_rows // MAX_BESIDE), min(n_rows, MAX_BESIDE)
        bars *= wide
    size = (width * wide + bars, height * tall) if figsize is None else figsize
    figure, axes = new_figure(tall, wide, figsize=size, layout="compressed")
    for spare in axes.flat[n_rows * n_cols :]:
        spare.remove()
    return figure, axes.ravel()[: n_rows * n_cols].reshape(n_rows, n_cols)


def map_width(box: Box) -> float:
    """Return the width of a map of a box, in inches; it is smaller for a tall section, whose figure would be too high."""
    return MAP_INCH * min(1.0, 1.5 * (box[2] - box[0]) / (box[3] - box[1]))


def checked_percentiles(percentiles: Any) -> tuple[float, float]:
    """Return the ends of a colour scale, after checking that they are two percentiles."""
    ends = np.asarray(percentiles)
    if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not 0 <= ends[0] < ends[1] <= 100:
        raise ValueError(f"percentiles are the two ends of the colour scale, such as (1, 99), not {percentiles!r}.")
    return float(ends[0]), float(ends[1])


def radii(locations: Locations) -> np.ndarray:
    """Return ``(n,)`` radii; for outlines, half of the longer side of their bounds."""
    if _outlined(locations):
        x0, y0, x1, y1 = shapely.bounds(np.asarray(locations.footprint, dtype=object)).T
        return np.maximum(x1 - x0, y1 - y0) / 2
    return np.broadcast_to(np.asarray(locations.footprint, dtype=float), len(locations))


def crop_box(locations: Locations, bounds: Box | None = None, margin: float = 0.04) -> Box:
    """Return the box around locations with a margin (share of the longer side), inside the bounds of the image."""
    reach = radii(locations)[:, None]
    return padded_box((locations.xy_um - reach).min(axis=0), (locations.xy_um + reach).max(axis=0), bounds, margin)


def padded_box(low: np.ndarray, high: np.ndarray, bounds: Box | None = None, margin: float = 0.04) -> Box:
    """Return the box between two corners with a margin (share of the longer side), inside the bounds of the image."""
    pad = margin * float((high - low).max())
    (x0, y0), (x1, y1) = low - pad, high + pad
    if bounds is not None and bounds[0] < x1 and bounds[1] < y1 and bounds[2] > x0 and bounds[3] > y0:
        x0, y0, x1, y1 = max(x0, bounds[0]), max(y0, bounds[1]), min(x1, bounds[2]), min(y1, bounds[3])
    return float(x0), float(y0), float(x1), float(y1)


def read_underlay(image: ImageSource, box: Box, side_px: int = UNDERLAY_PX) -> np.ndarray:
    """Read the image in a box, uint8 ``(y, x, 3)``, with at most about ``side_px`` pixels a side."""
    side = max(box[2] - box[0], box[3] - box[1])
    return image.read(box, max(image.mpp, side / side_px))


def frame(ax: Axes, box: Box) -> None:
    """Set limits in um with the origin at the top left, equal aspect, and no ticks (the scale bar says the scale)."""
    ax.set_aspect("equal")
    ax.set_xlim(box[0], box[2])
    ax.set_ylim(box[3], box[1])
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def draw_underlay(ax: Axes, pixels: np.ndarray, box: Box, alpha: float, turn: np.ndarray | None = None) -> None:
    """Draw pixels that cover a box; ``alpha`` below one lets the paper through so that colours stand out.

    ``turn`` is a ``(3, 3)`` matrix from um of the image to those of the panel, where these differ.
    """
    limits = ax.axis()
    drawn = ax.imshow(pixels, extent=(box[0], box[2], box[3], box[1]), origin="upper", alpha=alpha, zorder=0)
    if turn is not None:
        drawn.set_transform(Affine2D(turn) + ax.transData)
    ax.axis(limits)  # imshow sets the limits of what it draws


def draw_locations(ax: Axes, locations: Locations, values: np.ndarray, **style: Any) -> Collection:
    """Draw locations with their footprint in data units, coloured by ``values``; those with NaN are left out."""
    keep = np.isfinite(values)
    collection = _footprints(ax, locations.take(keep), linewidths=0, zorder=2, rasterized=True, **style)
    collection.set_array(values[keep])
    ax.add_collection(collection, autolim=False)
    return collection


def ring_locations(ax: Axes, locations: Locations, color: str) -> Collection:
    """Draw the outlines of locations."""
    rings = _footprints(ax, locations, facecolors="none", edgecolors=color, linewidths=1.2, zorder=3)
    ax.add_collection(rings, autolim=False)
    return rings


def _footprints(ax: Axes, locations: Locations, **style: Any) -> Collection:
    if _outlined(locations):
        outlines = np.asarray(locations.footprint)
        if _simple(outlines):  # 20 times faster for the bins and nuclei that come in hundreds of thousands
            points, which = shapely.get_coordinates(outlines, return_index=True)
            return PolyCollection(np.split(points, np.flatnonzero(np.diff(which)) + 1), closed=False, **style)
        return PathCollection([_path(outline) for outline in outlines], **style)
    diameters = 2 * radii(locations)
    angles = np.zeros(len(locations))
    return EllipseCollection(
        diameters, diameters, angles, units="xy", offsets=locations.xy_um, offset_transform=ax.transData, **style
    )


def scale_bar(ax: Axes, box: Box) -> AnchoredSizeBar:
    """Draw a bar of a round length, about a fifth of the width, below the panel where it hides nothing."""
    length = round_length((box[2] - box[0]) / 4)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        label,
        "upper left",
        pad=0,
        borderpad=0.3,
        sep=3,
        frameon=False,
        size_vertical=(box[3] - box[1]) * 0.008,
        fill_bar=True,
        label_top=False,
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes,
    )
    bar.txt_label.get_children()[0].set_fontsize("small")
    return ax.add_artist(bar)


def round_length(most: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above ``most``."""
    decade = 10.0 ** np.floor(np.log10(most))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= most * (1 + 1e-9)))


def shared_norm(values: Iterable[np.ndarray], percentiles: tuple[float, float] = (1.0, 99.0)) -> Normalize:
    """Return one norm for several panels: percentiles over all their finite values."""
    pooled = np.concatenate([np.ravel(v)[np.isfinite(np.ravel(v))] for v in values])
    if len(pooled) == 0:
        return Normalize(0.0, 1.0)
    low, high = np.percentile(pooled, percentiles)
    if high <= low:  # a gene seen in fewer spots than the percentile leaves out
        low, high = pooled.min(), pooled.max()
    return Normalize(float(low), float(high if high > low else low + 1.0))


def extend_of(norm: Normalize, values: Sequence[np.ndarray]) -> str:
    """Return which ends of a colour bar need an arrow, since values lie beyond the norm."""
    low = min(np.nanmin(v) for v in values) < (norm.vmin or 0.0)
    high = max(np.nanmax(v) for v in values) > (norm.vmax or 0.0)
    return {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[low, high]


def _outlined(locations: Locations) -> bool:
    return isinstance(locations.footprint, np.ndarray) and locations.footprint.dtype == object


def _simple(outlines: np.ndarray) -> bool:
    kinds, holes = shapely.get_type_id(outlines), shapely.get_num_interior_rings(outlines)
    return bool((kinds == shapely.GeometryType.POLYGON).all() and (holes == 0).all())


def _path(outline: Any) -> Path:
    rings = [ring for part in shapely.get_parts(outline) for ring in (part.exterior, *part.interiors)]
    return Path.make_compound_path(*(Path(shapely.get_coordinates(ring), closed=True) for ring in rings))
