"""Outline of the tissue in a low-magnification image of a slide."""

from __future__ import annotations

import numpy as np
import shapely
from scipy import ndimage
from shapely import MultiPolygon

# Smoothing that joins nuclei to tissue but keeps ducts and clefts of some ten cells.
_BLUR_UM = 16.0
# Optical density that glass, dust and uneven light may reach, above the background's own.
_MIN_DENSITY = 0.02
# Evidence that is beyond doubt: an image that is all tissue must not be split in two.
_SURE_EVIDENCE = 0.1
# No slide's glass is darker than this; an image without glass, cut out of tissue, is judged against plain white.
_DARKEST_GLASS = 175


def find_tissue(rgb: np.ndarray, um_per_px: float, *, min_area_um2: float, min_hole_um2: float) -> MultiPolygon:
    """Outline the tissue by its optical density above the slide's own background.

    The background is the brightest common colour of the slide, so that a grey or a tinted scan is judged by its own
    white. Density counts together with local contrast: fat is as bright as glass but has membranes.

    Parameters
    ----------
    rgb
        uint8 ``(y, x, 3)``.
    um_per_px
        Its scale, about 8.
    min_area_um2, min_hole_um2
        Smaller pieces are dropped, smaller holes filled.

    Returns
    -------
    Polygons in um, with holes; empty where there is no tissue.
    """
    from skimage.morphology import remove_small_holes, remove_small_objects

    sigma = _BLUR_UM / um_per_px
    score = ndimage.gaussian_filter(_evidence(rgb), sigma)
    threshold = _threshold(score)
    mask = score > threshold
    mask = remove_small_objects(mask, max_size=int(min_area_um2 / um_per_px**2))
    mask = remove_small_holes(mask, max_size=int(min_hole_um2 / um_per_px**2))
    return _polygons(mask, um_per_px)


def _evidence(rgb: np.ndarray) -> np.ndarray:
    """Return the geometric mean of optical density above background and local contrast, float ``(y, x)``.

    Either alone is fooled: stain that has run over the glass is dense but smooth, dust and grids are sharp but pale.
    """
    gray = rgb.mean(axis=-1)
    # Pixels that are black or cut off (pen, scanner border) are no measure of light.
    light = gray[(gray > 100) & (gray < 254.5)] if (gray < 254.5).mean() > 0.2 else gray
    bright = np.percentile(light if light.size else gray, 90)
    background = np.median(rgb[gray >= bright - 3], axis=0) if bright > _DARKEST_GLASS else np.full(3, 255.0)
    density = -np.log10(np.clip(rgb, 1, None) / np.maximum(background, 1))
    total = np.clip(density, 0, None).mean(axis=-1)
    color = density.max(axis=-1) - density.min(axis=-1)
    contrast = (
        np.sqrt(np.clip(ndimage.uniform_filter(gray**2, 5) - ndimage.uniform_filter(gray, 5) ** 2, 0, None)) / 255
    )
    return np.sqrt((total + color) * contrast)


def _threshold(score: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    # Otsu on the logarithm: faint stroma belongs to the tissue, however dark the tumour beside it is.
    logs = np.log(np.maximum(score, _MIN_DENSITY / 4))
    if np.ptp(logs) == 0:
        return _MIN_DENSITY
    return float(np.clip(np.exp(threshold_otsu(logs)), _MIN_DENSITY, _SURE_EVIDENCE))


def _polygons(mask: np.ndarray, um_per_px: float) -> MultiPolygon:
    from skimage.measure import find_contours

    if not mask.any():
        return MultiPolygon()
    # A frame of background closes outlines that reach the border of the image.
    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)
    rings = [shapely.LinearRing(contour[:, ::-1] - 0.5) for contour in contours if len(contour) > 3]
    outline = shapely.build_area(shapely.GeometryCollection(rings))
    outline = shapely.simplify(outline, 1.0)
    outline = shapely.transform(shapely.make_valid(outline), lambda p: p * um_per_px)
    polygons = [part for part in shapely.get_parts(outline) if part.geom_type == "Polygon"]
    return MultiPolygon(polygons)
