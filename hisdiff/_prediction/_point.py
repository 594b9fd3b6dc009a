"""What methods share that give one value for a place instead of draws, from the counts of the section itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hisdiff._check import one_of
from hisdiff._keys import COUNTS, LOG2
from hisdiff._section import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hisdiff._section import Locations, Section
    from hisdiff._training._calibration import Dispersion


class PointField:
    """Base of fields with one value for a place, from the counts of the section itself; see ``hisdiff.methods.Field``.

    Attributes
    ----------
    genes
        ``(G,)`` names.
    footprint_um2
        Area of a spot of the section.
    """

    n_draws: int = 1
    fitted_to_section: bool = True
    dispersion: Dispersion | None = None
    genes: np.ndarray
    footprint_um2: float

    def at(self, locations: Locations) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return expected counts of a footprint, float32 ``(n, G)``, and ``(n,)`` flags by name."""
        raise NotImplementedError

    def mean(self, bins: Locations) -> None:
        """Return None: the one value is the mean."""

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield the one value of each bin, float32 ``(n, G)``; NaN where no prediction is made."""
        yield self.at(bins)[0]


def point_prediction(
    counts: np.ndarray, genes: np.ndarray, units: str, obs: dict[str, np.ndarray] | None = None
) -> Prediction:
    """Return expected counts ``(n, G)`` as a prediction without draws; its spread is unknown (NaN)."""
    one_of(units, (LOG2, COUNTS), "units")
    mean = (np.log2(1 + counts) if units == LOG2 else counts).astype(np.float32)
    return Prediction(mean, np.full_like(mean, np.nan), genes, units, None, dict(obs or {}))


def size_factor(section: Section, library_size: float | None) -> float:
    """Return the factor that brings a section's expected counts to a library size; None is the section's own."""
    if library_size is None or section.library_size is None:
        return 1.0
    return library_size / section.library_size


def columns_of(genes: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Return the column of each gene among the available ones, int64 ``(G,)``, -1 where it is not there."""
    where = {gene: i for i, gene in enumerate(available)}
    return np.array([where.get(gene, -1) for gene in genes], dtype=np.int64)
