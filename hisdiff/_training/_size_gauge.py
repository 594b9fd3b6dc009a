"""The library size that predicted means of a section amount to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._counting import count_mean, count_rate

if TYPE_CHECKING:
    from collections.abc import Iterable

# A section whose means are off by more than a factor of 8 is a case of its own, not one of stain.
_MAX_SHIFT = 3.0
# Spots whose counts are worked on at once.
_ROWS = 1024


@dataclass(frozen=True)
class SizeGauge:
    """Measures the library size of a section by its predicted means.

    A stain that the training sections do not have moves all means of a section up or down together. Where the library size of
    a section is known, that falls out when the means are first brought to the library size they are meant to be at.

    Attributes
    ----------
    log2_size
        log2 of the median total count over the panel that means are meant to be at.
    bias
        By how much left-out training sections are deeper than their means imply, on average.
    """

    log2_size: float
    bias: float

    @classmethod
    def fit(cls, means: Iterable[np.ndarray], log2_size: float) -> SizeGauge:
        """Calibrate on out-of-fold means ``(n_s, G)`` of sections whose counts were scaled to ``log2_size``."""
        return cls(log2_size, float(np.mean([log2_size - cls(log2_size, 0.0).read(mean) for mean in means])))

    def of_all(self, means: np.ndarray, level_variance: np.ndarray, n_sections: int, n_folds: int) -> SizeGauge:
        """Return the gauge for a fit on all sections, where this one was calibrated on fits without a fold of them.

        The mean of more sections is smoother, so that counts exceed ``2 ** mean`` by more: of a log-normal rate by half the
        variance that averaging took out.

        Parameters
        ----------
        means
            ``(n, G)`` at training spots.
        level_variance
            ``(G,)`` between sections.
        n_sections, n_folds
            Of the training.
        """
        if n_sections < 2 or n_folds < 2:
            return self
        rates = np.sum([count_rate(part).sum(axis=0) for part in _parts(means)], axis=0) / len(means)
        taken_out = level_variance / (n_sections * (n_folds - 1))
        more = np.log2((rates * np.exp(np.log(2) ** 2 / 2 * taken_out)).sum() / max(rates.sum(), 1e-12))
        return SizeGauge(self.log2_size, self.bias + float(more))

    def read(self, mean: np.ndarray) -> float:
        """Return the library size that means ``(n, G)`` at a section's spots amount to."""
        totals = np.concatenate([count_rate(part).sum(axis=1) for part in _parts(mean)])
        return float(np.log2(np.median(totals[totals > 0]))) + self.bias if (totals > 0).any() else self.log2_size

    def shift(self, spots_mean: np.ndarray) -> float:
        """Return what brings means to ``log2_size``, in octaves, from those at the section's spots."""
        return float(np.clip(self.log2_size - self.read(spots_mean), -_MAX_SHIFT, _MAX_SHIFT))

    def align(self, mean: np.ndarray, spots_mean: np.ndarray) -> np.ndarray:
        """Bring means to ``log2_size``, by what those at the section's spots amount to."""
        shift = self.shift(spots_mean)
        return np.concatenate([count_mean(part, shift).astype(mean.dtype, copy=False) for part in _parts(mean)])

    def aligned(self, means: np.ndarray, section: np.ndarray) -> np.ndarray:
        """Bring means ``(n, G)`` at spots of sections ``(n,)`` to ``log2_size``, each by those of its own section."""
        out = np.empty_like(means)
        for s in np.unique(section):
            out[section == s] = self.align(means[section == s], means[section == s])
        return out


def _parts(means: np.ndarray) -> list[np.ndarray]:
    return np.array_split(means, max(1, len(means) // _ROWS))
