"""The fitted method, and the map of a section that it interpolates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._prediction._point import PointField, columns_of, size_factor
from hisdiff._section import needed
from hisdiff.methods._base import PointFitted
from hisdiff.methods.tesla._map import TeslaMap
from hisdiff.methods.tesla.config import TeslaConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scipy.sparse import csr_matrix

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff.methods._base import PredictRun


class TeslaField(PointField):
    """Expected counts anywhere in one section; see :class:`~hisdiff.methods.Field`."""

    def __init__(self, section: Section, genes: np.ndarray, config: TeslaConfig, library_size: float | None) -> None:
        self.genes, self.map = genes, TeslaMap(section, config)
        self.footprint_um2 = float(np.pi * np.median(needed(section.spots).radius_um) ** 2)
        self._absent = 0.0 if config.reference_compat else np.nan
        self._factor = size_factor(section, library_size)
        columns = columns_of(genes, section.genes)
        self._known = columns >= 0
        # Dense: spots are few, and a sparse product with ten neighbours each fills in most of it anyway, ten times slower.
        self._log_counts = np.log1p(needed(section.counts)[:, columns[self._known]].toarray().astype(np.float32))

    def at(self, locations: Locations) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return expected counts, NaN where no spot is near enough, which ``no_neighbour`` flags."""
        weights = self.map.weights(locations.xy_um)
        return self.of(weights), {"no_neighbour": np.diff(weights.indptr) == 0}

    def of(self, weights: csr_matrix) -> np.ndarray:
        """Return expected counts for the weights of places, float32 ``(n, G)``."""
        values = weights.astype(np.float32) @ self._log_counts
        np.expm1(values, out=values)
        values *= np.float32(self._factor)
        values[np.diff(weights.indptr) == 0] = self._absent
        if self._known.all():
            return values
        out = np.full((len(values), len(self.genes)), np.nan, dtype=np.float32)
        out[:, self._known] = values
        return out


@dataclass(frozen=True, eq=False)
class FittedTesla(PointFitted):
    """TESLA with its settings and panel; one section teaches nothing about another.

    At a measured spot the prediction is nearly the spot's own count. ``obs["no_neighbour"]`` flags locations that no spot
    is near enough to.

    Attributes
    ----------
    config
        Settings.
    """

    config: TeslaConfig

    def field_with(self, section: Section, run: PredictRun) -> TeslaField:
        """Prepare the map of a section from its own counts and image."""
        check_has_counts(section)
        return TeslaField(section, self.genes, self.config, run.library_size)

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        return {}, {"config": self.config.to_dict()}

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedTesla:
        """Rebuild what ``state`` described."""
        return cls(genes, TeslaConfig.from_dict(settings["config"]))


def check_has_counts(section: Section) -> None:
    """Raise where a section lacks what TESLA refines."""
    if section.counts is None or section.spots is None or not len(section.spots):
        raise ValueError(
            f"TESLA interpolates the counts of a section's own spots, and {section.name!r} has none; a section with an "
            f"image only is for methods that learn from other sections, such as 'hisdiff'."
        )
    if section.image is None:
        raise ValueError(f"TESLA uses the colour of the image, and {section.name!r} has none.")
