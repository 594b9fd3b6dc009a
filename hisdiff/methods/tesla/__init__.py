"""TESLA: a section's own counts refined between its spots, by nearness in the plane and likeness in colour.

Hu et al. (2023), Cell Systems 14, 404-417; written anew from its equations (docs/methods/tesla.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hisdiff._check import positive
from hisdiff._keys import LOG2
from hisdiff._log import logger
from hisdiff._prediction._point import columns_of, point_prediction, size_factor
from hisdiff._section import needed
from hisdiff._training._calibration import Calibration
from hisdiff.methods.tesla._map import TeslaMap
from hisdiff.methods.tesla.config import TeslaConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

    from hisdiff._section import Locations, Prediction, Section

__all__ = ["FittedTesla", "Tesla", "TeslaConfig", "TeslaField"]


class TeslaField:
    """Expected counts anywhere in one section; see :class:`~hisdiff.methods._protocols.Field`."""

    n_draws = 1
    fitted_to_section = True
    dispersion = None

    def __init__(self, section: Section, genes: np.ndarray, config: TeslaConfig, library_size: float | None) -> None:
        self.genes, self.map = genes, TeslaMap(section, config)
        self.footprint_um2 = float(np.pi * np.median(needed(section.spots).radius_um) ** 2)
        self._absent = 0.0 if config.reference_compat else np.nan
        self._factor = size_factor(section, library_size)
        columns = columns_of(genes, section.genes)
        self._known = columns >= 0
        # Dense: spots are few, and a sparse product with ten neighbours each fills in most of it anyway, ten times slower.
        self._log_counts = np.log1p(needed(section.counts)[:, columns[self._known]].toarray().astype(np.float32))

    def mean(self, bins: Locations) -> None:
        """Return None: the one value is all there is."""

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield the one value of each bin, float32 ``(n, G)``; NaN where no spot is near enough."""
        yield self.of(self.map.weights(bins.xy_um))

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
class FittedTesla:
    """TESLA with its settings and panel; there is nothing that one section teaches about another.

    Attributes
    ----------
    genes
        ``(G,)`` names.
    config
        Settings.
    """

    n_steps: ClassVar[int] = 0

    genes: np.ndarray
    config: TeslaConfig
    calibration: Calibration | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def predict(
        self,
        section: Section,
        locations: Locations,
        *,
        n_draws: int,
        keep_draws: int = 0,
        n_steps: int | None = None,
        units: str = LOG2,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> Prediction:
        """Return the map's value at locations, in the order of ``genes``; at a measured spot that is nearly its own count.

        There is one value, so that no draws are kept and the spread is NaN; no steps, no seed, no device.
        ``obs["no_neighbour"]`` flags locations that no spot is near enough to.
        """
        field = self.field(section, n_draws=n_draws, library_size=library_size)
        weights = field.map.weights(locations.xy_um)
        alone = np.diff(weights.indptr) == 0
        return point_prediction(field.of(weights), self.genes, units, {"no_neighbour": alone})

    def field(
        self,
        section: Section,
        *,
        n_draws: int,
        n_steps: int | None = None,
        library_size: float | None = None,
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
    ) -> TeslaField:
        """Prepare the map of a section from its own counts and image."""
        positive(n_draws, "n_draws", integer=True)
        check_has_counts(section)
        return TeslaField(section, self.genes, self.config, library_size)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        return {}, {"config": self.config.to_dict()}

    @classmethod
    def from_state(
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        genes: np.ndarray,
        *,
        calibration: Calibration | None = None,
        history: Sequence[dict[str, float]] = (),
    ) -> FittedTesla:
        """Rebuild what ``state`` described."""
        return cls(genes, TeslaConfig.from_dict(settings["config"]), calibration, list(history))


def check_has_counts(section: Section) -> None:
    """Raise where a section lacks what TESLA refines."""
    if section.counts is None or section.spots is None or not len(section.spots):
        raise ValueError(
            f"TESLA interpolates the counts of a section's own spots, and {section.name!r} has none; a section with an "
            f"image only is for methods that learn from other sections, such as 'hisdiff'."
        )
    if section.image is None:
        raise ValueError(f"TESLA uses the colour of the image, and {section.name!r} has none.")


class Tesla:
    """TESLA. A fit settles options and panel, and measures how well left-out spots are filled in from the others."""

    name: ClassVar[str] = "tesla"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "image"})
    needs_to_predict: ClassVar[frozenset[str]] = needs
    config_type: ClassVar[type] = TeslaConfig
    fitted_type: ClassVar[type] = FittedTesla

    def fit(
        self,
        sections: Sequence[Section],
        config: TeslaConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedTesla:
        """Settle options and panel; nothing is learned, so ``validation`` is an error and the others have no use here."""
        if validation:
            raise ValueError("TESLA learns nothing that another section could validate; validation= has no effect.")
        for section in sections:
            check_has_counts(section)
        fitted = FittedTesla(sections[0].genes, config)
        calibration = Calibration.from_values(*_held_out(fitted, sections))
        logger.info(
            "tesla: left-out spots are filled in with a median correlation of %.2f",
            np.nanmedian(calibration.cv_pcc) if np.isfinite(calibration.cv_pcc).any() else np.nan,
        )
        return replace(fitted, calibration=calibration)


def _held_out(fitted: FittedTesla, sections: Sequence[Section]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what was measured at spots, what the others fill in for them, ``(n, G)`` in log2, and their section."""
    measured, filled, number = [], [], []
    for i, section in enumerate(sections):
        field = fitted.field(section, n_draws=1)
        weights = field.map.weights(needed(section.spots).xy_um, leave_out_self=True)
        near = np.diff(weights.indptr) > 0
        measured.append(np.log2(1 + needed(section.counts)[near].toarray()))
        filled.append(np.log2(1 + field.of(weights[near])))
        number.append(np.full(int(near.sum()), i))
    return np.concatenate(measured), np.concatenate(filled), np.concatenate(number)
