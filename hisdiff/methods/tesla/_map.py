"""One section as TESLA sees it: spots and superpixels with a colour coordinate, and the reach of a spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import MultiPolygon, affinity

from hisdiff._geometry import find_tissue
from hisdiff._geometry._grid import bins_within
from hisdiff._log import logger
from hisdiff._section import Locations, needed
from hisdiff.methods.tesla._color import ColorDepth, ColorRaster
from hisdiff.methods.tesla._weights import distance_threshold, neighbor_weights, neighbors_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from shapely import Polygon

    from hisdiff._section import Box, Section
    from hisdiff.methods.tesla.config import TeslaConfig

# Where no outline is stored it is found as `hd.pp.tissue_mask` finds it.
_TISSUE_MPP, _MIN_AREA_UM2, _MIN_HOLE_UM2 = 8.0, 50_000.0, 20_000.0
# The published code adds .1 of a pixel to distances and enlarges the outline of the tissue about its centroid.
_OFFSET = 0.1
_REFERENCE_ENLARGEMENT = 1.05


class TeslaMap:
    """Weights of a section's spots at any place of it.

    What concerns the section as a whole (weights of the colour channels, mean and sd of colour, reach of a spot) is
    computed here once, from superpixels of ``config.step_um`` over the whole tissue, so that the value at a place does
    not depend on which places are asked for.

    Attributes
    ----------
    n_superpixels
        Superpixels that these statistics are from.
    depth, spot_depth
        From colour to z, for superpixels and for spots; the same unless ``reference_compat``.
    spots
        ``(N, 3)``, x, y and z in um.
    threshold
        Farthest distance of a neighbour, in um.
    """

    def __init__(self, section: Section, config: TeslaConfig) -> None:
        tissue, xy = tissue_of(section), needed(section.spots).xy_um
        if config.reference_compat:
            factor = _REFERENCE_ENLARGEMENT
            tissue = affinity.scale(tissue, factor, factor, origin=shapely.centroid(tissue))
        centers = Locations.bins(bins_within(tissue, config.step_um), config.step_um).xy_um
        if not len(centers):
            raise ValueError(
                f"No superpixel of {config.step_um:g} um lies inside the tissue of {section.name!r}; a smaller step_um is needed."
            )
        self.config, self.n_superpixels = config, len(centers)
        self._raster = ColorRaster.read(needed(section.image), _box(np.concatenate([centers, xy])), config.step_um)
        colors = self._raster.at(centers)
        scale = config.color_weight * float(centers.std(axis=0).max())
        self.depth = ColorDepth.by_variance(colors, scale)
        at_spots = self._raster.at(xy)
        self.spot_depth = ColorDepth.of_gray(at_spots, scale) if config.reference_compat else self.depth
        self.spots = np.column_stack([xy, self.spot_depth(at_spots)])
        superpixels = np.column_stack([centers, self.depth(colors)])
        self.threshold = distance_threshold(superpixels, self.spots, config.n_neighbors)
        self._offset = _OFFSET * (needed(section.image).mpp if config.reference_compat else 1.0)

    def weights(self, xy_um: np.ndarray, *, leave_out_self: bool = False) -> csr_matrix:
        """Return the weights of the spots at places, csr ``(n, N)``; a row is empty where no spot is near enough.

        Any value of the spots, such as another layer or a score, is brought to the places by multiplying with it.
        ``leave_out_self``: the places are the spots, and each is left out of its own.
        """
        points = np.column_stack([xy_um, self.depth(self._raster.at(xy_um))])
        rows = neighbors_of(points, self.spots, self.config.n_neighbors, without_self=leave_out_self)
        return neighbor_weights(
            points,
            self.spots,
            rows,
            threshold=self.threshold,
            offset=self._offset,
            kernel=self.config.kernel,
            power=self.config.power,
        )


def tissue_of(section: Section) -> Polygon | MultiPolygon:
    """Return the outline of a section's tissue in um: as stored, else as the image shows it, else around its spots."""
    if section.tissue is not None and not section.tissue.is_empty:
        return section.tissue
    image = needed(section.image)
    scale = max(_TISSUE_MPP, image.mpp)
    rgb = image.read(image.bounds_um, scale)
    outline = find_tissue(rgb, scale, min_area_um2=_MIN_AREA_UM2, min_hole_um2=_MIN_HOLE_UM2)
    if not outline.is_empty:
        return outline
    logger.warning("%s: no tissue was found in the image; the convex hull of the spots is used instead", section.name)
    spots = needed(section.spots)
    radius = float(np.median(spots.radius_um))
    return MultiPolygon([shapely.convex_hull(shapely.MultiPoint(spots.xy_um)).buffer(radius)])


def _box(xy_um: np.ndarray) -> Box:
    (x0, y0), (x1, y1) = xy_um.min(axis=0), xy_um.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)
