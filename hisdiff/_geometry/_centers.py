"""Centers of shapes."""

from __future__ import annotations

import numpy as np
import shapely


def centers_of(geometry: np.ndarray, what: str) -> np.ndarray:
    """Return the centers ``(n, 2)`` of the shapes of ``what``; missing and empty ones, and those that are not finite, are a ``ValueError``."""
    centers = np.asarray(shapely.centroid(geometry))
    there = ~(shapely.is_missing(centers) | shapely.is_empty(centers))
    xy = np.full((len(centers), 2), np.nan)
    xy[there] = shapely.get_coordinates(centers[there])
    nowhere = ~np.isfinite(xy).all(axis=1)
    if nowhere.any():
        raise ValueError(
            f"{int(nowhere.sum())} of {len(xy)} shapes of {what} have no place: they are missing or empty, or their coordinates are NaN or "
            f"infinite; leave them out."
        )
    return xy
