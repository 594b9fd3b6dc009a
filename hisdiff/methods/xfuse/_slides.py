"""Sections as the model sees them: a reduced image, discs painted with the numbers of spots, and their counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from hisdiff._geometry import find_tissue
from hisdiff._section import needed

if TYPE_CHECKING:
    from shapely import MultiPolygon, Polygon

    from hisdiff._section import Locations, Section

# As hd.pp.tissue_mask finds it.
_TISSUE_MPP, _MIN_AREA_UM2, _MIN_HOLE_UM2 = 8.0, 50_000.0, 20_000.0
_MARGIN = 0.12
"""Of the longer side, kept around what is of interest."""
_AMPLITUDE = 0.9
"""Largest absolute value of a scaled image, which keeps tanh off its limits."""


@dataclass(frozen=True)
class Slide:
    """One section at the resolution of the model; pixel (0, 0) of the whole image lies at the origin of um.

    Attributes
    ----------
    name
        For messages.
    mpp
        Micrometres per pixel.
    origin
        Row and column of the first pixel, multiples of the side of a pixel of the coarsest level.
    image
        float32 ``(3, h, w)`` within -0.9..0.9.
    labels
        int32 ``(h, w)``: 1 + row of the spot that a pixel belongs to, 0 for none.
    background
        bool ``(h, w)``: neither tissue nor spot; counts are known to be zero there.
    centers, radii
        ``(n, 2)`` row and column, and ``(n,)``, of the spots in pixels, from ``origin``.
    areas
        float32 ``(n,)`` areas of the spots in pixels.
    counts
        float32 ``(n, G)``.
    """

    name: str
    mpp: float
    origin: tuple[int, int]
    image: np.ndarray
    labels: np.ndarray
    background: np.ndarray
    centers: np.ndarray
    radii: np.ndarray
    areas: np.ndarray
    counts: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.image.shape[1], self.image.shape[2]

    @classmethod
    def of(cls, section: Section, mpp: float, step_px: int) -> Slide:
        """Read a section.

        Parameters
        ----------
        section
            With an image; spots and counts where it has them.
        mpp
            Micrometres per pixel.
        step_px
            What origin and sides are multiples of.
        """
        tissue = _outline(section)
        (y0, x0), (h, w) = _frame(section, tissue, mpp, step_px)
        image = needed(section.image).read((x0 * mpp, y0 * mpp, (x0 + w) * mpp, (y0 + h) * mpp), mpp)
        spots = section.spots if section.counts is not None else None
        n = 0 if spots is None else len(spots)
        centers = np.zeros((0, 2)) if spots is None else spots.xy_um[:, ::-1] / mpp - (y0, x0)
        radii = np.zeros(0) if spots is None else np.asarray(spots.radius_um) / mpp
        labels = paint(centers, radii, (h, w))
        counts = np.zeros((0, len(section.genes))) if n == 0 else needed(section.counts).toarray()
        return cls(
            section.name, mpp, (y0, x0), _scaled(image), labels, _off_tissue(tissue, labels, mpp, (y0, x0)),
            centers, radii, (np.pi * radii**2).astype(np.float32), counts.astype(np.float32),
        )  # fmt: skip


def paint(centers: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return int32 labels: 1 + row of the disc that a pixel's centre lies in (the nearest one's), 0 for none."""
    labels = np.zeros(shape, dtype=np.int32)
    nearest = np.full(shape, np.inf)
    for number, ((y, x), radius) in enumerate(zip(centers, radii), 1):
        rows = slice(max(int(y - radius - 1), 0), max(int(y + radius + 2), 0))
        columns = slice(max(int(x - radius - 1), 0), max(int(x + radius + 2), 0))
        part, best = labels[rows, columns], nearest[rows, columns]
        i, j = np.ogrid[rows.start : rows.start + part.shape[0], columns.start : columns.start + part.shape[1]]
        distance = (i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2
        mine = (distance <= radius**2) & (distance < best)
        part[mine], best[mine] = number, distance[mine]
    return labels


def _outline(section: Section) -> Polygon | MultiPolygon | None:
    """Return the outline of the tissue: as stored, else as the image shows it; None where it shows none."""
    if section.tissue is not None:
        return section.tissue
    image = needed(section.image)
    scale = max(_TISSUE_MPP, image.mpp)
    rgb = image.read(image.bounds_um, scale)
    found = find_tissue(rgb, scale, min_area_um2=_MIN_AREA_UM2, min_hole_um2=_MIN_HOLE_UM2)
    return None if found.is_empty else found


def _frame(
    section: Section, tissue: Polygon | MultiPolygon | None, mpp: float, step: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first pixel and the size of what is kept, in multiples of ``step``."""
    x0, y0, x1, y1 = (side / mpp for side in needed(section.image).bounds_um)
    parts = [] if tissue is None else [np.asarray(tissue.bounds)]
    if section.spots is not None and len(section.spots):
        parts.append(_extent(section.spots))
    if parts:
        boxes = np.stack(parts) / mpp
        left, top = boxes[:, :2].min(axis=0).tolist()
        right, bottom = boxes[:, 2:].max(axis=0).tolist()
        margin = _MARGIN * max(right - left, bottom - top)
        x0, y0, x1, y1 = (
            max(x0, left - margin),
            max(y0, top - margin),
            min(x1, right + margin),
            min(y1, bottom + margin),
        )
    first = int(np.floor(y0 / step)) * step, int(np.floor(x0 / step)) * step
    size = (int(np.ceil(end / step - 1e-9)) * step - start for end, start in zip((y1, x1), first))
    h, w = (max(side, step) for side in size)
    return first, (h, w)


def _extent(spots: Locations) -> np.ndarray:
    radius = np.asarray(spots.radius_um)[:, None]
    return np.concatenate([(spots.xy_um - radius).min(axis=0), (spots.xy_um + radius).max(axis=0)])


def _scaled(image: np.ndarray) -> np.ndarray:
    """Scale each colour to its range."""
    values = np.moveaxis(image, -1, 0).astype(np.float32)
    low, high = values.min(axis=(1, 2), keepdims=True), values.max(axis=(1, 2), keepdims=True)
    return _AMPLITUDE * (2 * (values - low) / np.maximum(high - low, 1) - 1)


def _off_tissue(
    tissue: Polygon | MultiPolygon | None, labels: np.ndarray, mpp: float, origin: tuple[int, int]
) -> np.ndarray:
    if tissue is None:
        return np.zeros(labels.shape, dtype=bool)
    shapely.prepare(tissue)
    x = (np.arange(labels.shape[1]) + origin[1] + 0.5) * mpp
    y = (np.arange(labels.shape[0]) + origin[0] + 0.5) * mpp
    inside = shapely.contains_xy(tissue, *np.meshgrid(x, y))
    return ~inside & (labels == 0)
