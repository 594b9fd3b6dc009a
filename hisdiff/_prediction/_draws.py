"""From draws to a prediction: mean, spread and the draws to keep, one draw in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import one_of
from hisdiff._keys import COUNTS, LOG2
from hisdiff._section import Prediction

if TYPE_CHECKING:
    from collections.abc import Mapping


class DrawAccumulator:
    """Collects draws of log2(1 + count) into a ``Prediction``.

    Every draw is clipped at zero expression and brought to the wanted units *before* it is averaged: the mean of
    counts is not the count of a mean.

    Parameters
    ----------
    units
        Of the result: ``"log2"``, log2(1 + count), or ``"counts"``.
    keep
        How many of the first draws to keep, in ``units``.
    """

    def __init__(self, units: str = LOG2, keep: int = 0) -> None:
        self.units: str = one_of(units, (LOG2, COUNTS), "units")
        self.keep = keep
        self.n_draws = 0
        self._mean = self._m2 = np.empty(0, dtype=np.float32)
        self._kept: list[np.ndarray] = []

    def add(self, draw_log2: np.ndarray) -> None:
        """Take in one draw, ``(n, G)`` in log2(1 + count); the array is left as it is."""
        draw = np.maximum(draw_log2, 0, dtype=np.float32)
        if self.units == COUNTS:
            np.exp2(draw, out=draw)
            draw -= 1
        self._take(draw)

    def add_counts(self, counts: np.ndarray) -> None:
        """Take in one draw of expected counts ``(n, G)``; the array is left as it is."""
        draw = np.maximum(counts, 0, dtype=np.float32)
        self._take(np.log2(1 + draw) if self.units == LOG2 else draw)

    def _take(self, draw: np.ndarray) -> None:
        self.n_draws += 1
        if len(self._kept) < self.keep:
            self._kept.append(draw.copy())
        if self.n_draws == 1:
            self._mean, self._m2 = draw, np.zeros_like(draw)
            return
        # Welford: squared deviations add up without the cancellation that a sum of squares suffers in float32.
        delta = draw - self._mean
        self._mean += delta / self.n_draws
        self._m2 += delta * (draw - self._mean)

    def result(self, genes: np.ndarray, obs: Mapping[str, np.ndarray] | None = None) -> Prediction:
        """Return mean, standard deviation (divisor ``draws - 1``; NaN after a single draw) and the kept draws."""
        if self.n_draws == 0:
            raise ValueError("No draw was added; a prediction needs at least one.")
        std = np.sqrt(self._m2 / (self.n_draws - 1)) if self.n_draws > 1 else np.full_like(self._mean, np.nan)
        draws = np.stack(self._kept) if self._kept else None
        return Prediction(self._mean, std, np.asarray(genes), self.units, draws, dict(obs or {}), self.n_draws)
