"""From markers to regions: bands of an image, target labels, and the score of several programmes together."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Target = Literal["small", "large"]
# A label is a target above this part of the highest mean.
CUTS: dict[Target, float] = {"small": 1 / 2, "large": 1 / 3}


class Regions(NamedTuple):
    """Labels of an image and which of them show a programme.

    Attributes
    ----------
    density
        ``(k,)`` mean of the gene band over the pixels of each label; NaN for labels outside the tissue.
    target
        ``(k,)`` bool.
    """

    density: np.ndarray
    target: np.ndarray


def unit_range(values: np.ndarray, where: np.ndarray | None = None, axis: int | None = None) -> np.ndarray:
    """Bring values to 0..1 by their extremes (over ``where``); constant values become 0."""
    kept = values if where is None else values[where]
    low, high = kept.min(axis=axis), kept.max(axis=axis)
    span = np.where(high > low, high - low, 1.0)
    return np.clip((values - low) / span, 0, 1)


def programme(values: np.ndarray, n_required: int, pool: Literal["min", "mean"]) -> np.ndarray:
    """Return one value in 0..1 for each location.

    Every marker is scaled to 0..1; of the ``n_required`` highest markers of a location the lowest, or their mean, is its
    value, so that with ``"min"`` so many markers have to be there together.

    Parameters
    ----------
    values
        ``(n, m)`` log expression of the markers.
    """
    highest = np.sort(unit_range(values, axis=0), axis=1)[:, ::-1][:, :n_required]
    return unit_range(highest.min(axis=1) if pool == "min" else highest.mean(axis=1))


def find_targets(labels: np.ndarray, band: np.ndarray, inside: np.ndarray, target: Target) -> Regions:
    """Return the mean of a band over each label inside the tissue, and the labels whose mean is high."""
    k = int(labels.max()) + 1
    count = np.bincount(labels[inside], minlength=k)
    total = np.bincount(labels[inside], weights=band[inside], minlength=k)
    density = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    highest = np.nanmax(density) if count.any() else 0.0
    return Regions(density, (density > highest * CUTS[target]) & (highest > 0))


def together(scores: np.ndarray, n_required: int, least: float) -> np.ndarray:
    """Return the ``n_required``-th highest of several scores ``(n, m)``, scaled to 0..1, 0 below ``least``."""
    pooled = unit_range(np.sort(scores, axis=1)[:, -n_required])
    return np.where(pooled < least, 0.0, pooled)
