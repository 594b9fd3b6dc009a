"""Expression of a spot as a profile, its library size taken out, and back at the level that it has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._counting import count_rate, mean_of_rate

if TYPE_CHECKING:
    from hisdiff._training._spots import TrainingSpots

# Octaves by which counts of a spot are scaled at most: those of a nearly empty one are noise.
_MAX_SHIFT = 3.0
# Genes that are enough to tell the level of a spot.
_ENOUGH = 256
_TURNS, _STEP, _NEAR = 5, 0.25, 1e-6
_LOWEST, _HIGHEST = -8.0, 8.0


def profiles(spots: TrainingSpots) -> TrainingSpots:
    """Return training spots whose counts are scaled to the median total of their section."""
    targets, centered = np.empty_like(spots.targets), np.empty_like(spots.targets)
    means, weights = [], []
    for s in np.unique(spots.section):
        rows = np.flatnonzero(spots.section == s)
        counts = np.exp2(spots.targets[rows]) - 1
        totals = np.log2(np.maximum(counts.sum(axis=1), 1e-9))
        counts *= np.exp2(np.clip(np.median(totals) - totals, -_MAX_SHIFT, _MAX_SHIFT))[:, None]
        counts = np.log2(1 + counts)
        means.append(counts.mean(axis=0))
        weights.append(spots.weight[rows].max())
        targets[rows], centered[rows] = counts, counts - means[-1]
    centered += np.average(means, axis=0, weights=weights)
    return replace(spots, targets=targets, centered=centered)


def at_level(profile: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Scale the counts of each spot's profile until its mean over genes is that of ``whole``; log2(1 + count), ``(n, G)``."""
    rate = count_rate(np.maximum(profile, 0))
    some = slice(None, None, -(-profile.shape[1] // _ENOUGH))
    wanted = np.maximum(whole[:, some], 0).mean(axis=1)

    def mean_at(shift: np.ndarray) -> np.ndarray:
        return mean_of_rate(rate[:, some] * np.exp2(shift)[:, None]).mean(axis=1)

    shift = np.zeros(len(profile))
    for _ in range(_TURNS):  # Newton steps: the mean rises steadily with the shift
        here = mean_at(shift)
        if np.abs(wanted - here).max(initial=0) < _NEAR:
            break
        slope = np.maximum((mean_at(shift + _STEP) - here) / _STEP, 0.05)
        shift = np.clip(shift + np.clip((wanted - here) / slope, -2, 2), _LOWEST, _HIGHEST)
    return mean_of_rate(rate * np.exp2(shift)[:, None])
