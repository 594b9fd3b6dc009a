"""Nuclei in tiles of an H&E image: a watershed on hematoxylin, outlines of labels, and tiles put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

# Smoothing of the stain, and least distance between the centres of two nuclei, in um.
_SMOOTH_UM, _APART_UM = 0.75, 3.0
# What surrounds a nucleus: the stain there is the least that it has.
_AROUND_UM = 10.0
# Nuclei of human tissue, in um2; what is smaller is debris or out of focus, what is larger is several that cannot be split.
_SMALLEST_UM2, _LARGEST_UM2 = 10.0, 600.0
# Part of the smaller of two outlines that the other covers, from which on they are the same nucleus, seen in two tiles.
_SAME = 0.3


@dataclass(frozen=True)
class Watershed:
    """Segments nuclei by their hematoxylin; touching ones are split where they are narrow.

    Attributes
    ----------
    threshold
        Hematoxylin above which a pixel belongs to a nucleus: one for a slide, so that tiles agree.
    um_per_px
        Scale of the tiles.
    """

    threshold: float
    um_per_px: float

    @classmethod
    def fit(cls, tiles: Sequence[np.ndarray], um_per_px: float) -> Watershed:
        """Find the threshold between nuclei and the rest on some tiles of tissue, by Otsu's method."""
        from skimage.filters import threshold_otsu

        values = np.concatenate([hematoxylin(tile, um_per_px).ravel() for tile in tiles])
        return cls(float(threshold_otsu(values)), um_per_px)

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        """Label the nuclei of a tile, uint8 ``(y, x, 3)``: int ``(y, x)``, 0 where there is none."""
        from skimage.feature import peak_local_max
        from skimage.morphology import remove_small_holes
        from skimage.segmentation import watershed

        px = self.um_per_px
        stain = hematoxylin(tile, px)
        # Between crowded nuclei there is stain above the threshold of the slide, but less than around.
        mask = stain > np.maximum(self.threshold, ndimage.gaussian_filter(stain, _AROUND_UM / px))
        mask = remove_small_holes(mask, max_size=round(_SMALLEST_UM2 / px**2))
        mask = ndimage.binary_opening(mask, iterations=max(1, round(_SMOOTH_UM / px)))
        # Nuclei are round and dark: either alone misses the border of two that touch.
        width = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), _SMOOTH_UM / px) * px / _APART_UM
        height = width + ndimage.gaussian_filter(stain, 2 * _SMOOTH_UM / px) / self.threshold
        peaks = peak_local_max(height, min_distance=max(1, round(_APART_UM / px)), labels=mask.astype(int))
        seeds = np.zeros(mask.shape, dtype=np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        labels = watershed(-height, seeds, mask=mask)
        area = np.bincount(labels.ravel()) * px**2
        return np.where((area >= _SMALLEST_UM2) & (area <= _LARGEST_UM2), np.arange(len(area)), 0)[labels]


def hematoxylin(tile: np.ndarray, um_per_px: float) -> np.ndarray:
    """Return the smoothed amount of hematoxylin in a tile, float ``(y, x)``, after Ruifrok and Johnston."""
    from skimage.color import rgb2hed

    return ndimage.gaussian_filter(rgb2hed(tile)[..., 0], _SMOOTH_UM / um_per_px)


def label_polygons(labels: np.ndarray) -> np.ndarray:
    """Return the outlines of labels in pixels, ``(n,)`` polygons with (x, y), whole at the corners of pixels.

    Of a label in several pieces the largest counts; holes are filled. Labels that touch the border are left out: they may go on.
    """
    from skimage.measure import find_contours

    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    found = []
    for label, where in enumerate(ndimage.find_objects(labels), start=1):
        if where is None or label in border:
            continue
        contours = find_contours(np.pad(labels[where] == label, 1).astype(float), 0.5)
        ring = max(contours, key=len)[:, ::-1] + [where[1].start - 0.5, where[0].start - 0.5]
        polygon = shapely.make_valid(shapely.Polygon(ring))
        found.append(max(shapely.get_parts(polygon), key=lambda part: part.area))
    return np.array(found, dtype=object)


def without_doubles(outlines: np.ndarray) -> np.ndarray:
    """Return outlines ``(n,)`` of which no two are the same nucleus; of two that are, the larger stays."""
    order = np.argsort(-shapely.area(outlines), kind="stable")
    tree = shapely.STRtree(outlines[order])
    first, second = tree.query(outlines[order], predicate="intersects")
    pairs = first < second
    first, second = first[pairs], second[pairs]
    shared = shapely.area(shapely.intersection(outlines[order][first], outlines[order][second]))
    same = shared > _SAME * shapely.area(outlines[order][second])
    kept = np.ones(len(outlines), dtype=bool)
    for i, j in sorted(zip(first[same].tolist(), second[same].tolist())):
        kept[j] &= not kept[i]
    return outlines[np.sort(order[kept])]
