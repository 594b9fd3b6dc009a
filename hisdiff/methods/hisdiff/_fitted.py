"""The fitted method: from draws to predictions, and to and from saved arrays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hisdiff._check import positive, seed_of
from hisdiff._keys import LOG2
from hisdiff._log import progress as progress_bar
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._field import PatchField
from hisdiff._training._config import config_from
from hisdiff.methods.hisdiff.factor._field import TwoScaleField
from hisdiff.methods.hisdiff.factor._model import FactorModel
from hisdiff.methods.hisdiff.factor.config import FactorConfig
from hisdiff.methods.hisdiff.gene._model import GeneModel
from hisdiff.methods.hisdiff.gene.config import GeneConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._calibration import Calibration
    from hisdiff.methods._protocols import Field
    from hisdiff.methods.hisdiff.factor._model import Draw


class Generator(Protocol):
    """What makes draws: ``FactorModel`` or ``GeneModel``."""

    log2_size: float

    def draws(
        self,
        section: Section,
        locations: Locations,
        *,
        log2_size: float,
        n_draws: int,
        n_steps: int,
        units: str,
        seed: int,
        device: str | None,
    ) -> Iterator[Draw]: ...

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...


GENERATORS: dict[type, Any] = {FactorConfig: FactorModel, GeneConfig: GeneModel}
"""Settings -> what makes draws."""


class FittedHisDiff:
    """A fitted generative model of expression given morphology.

    Attributes
    ----------
    genes
        ``(G,)`` names.
    config
        What it was fitted with.
    generator
        What makes draws.
    calibration
        Accuracy and interval factors measured on left-out training tissue.
    history
        Training curve.
    radius_um
        Of a training spot, to which counts refer; NaN where that is not known.
    """

    def __init__(
        self,
        genes: np.ndarray,
        config: FactorConfig | GeneConfig,
        generator: Generator,
        calibration: Calibration | None = None,
        history: list[dict[str, float]] | None = None,
        radius_um: float = float("nan"),
    ) -> None:
        self.genes, self.config, self.generator = np.asarray(genes), config, generator
        self.calibration, self.history, self.radius_um = calibration, history or [], radius_um
        self.n_steps = config.n_steps

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
        """Predict at locations of a section, in the order of ``genes``.

        Mean and standard deviation are those of ``n_draws`` independent draws, except for the part of the mean that is known
        in closed form (see ``Draw.expected``).
        """
        draws = DrawAccumulator(units, keep_draws)
        made = self.generator.draws(
            section,
            locations,
            log2_size=self._log2_size(section, library_size),
            n_draws=positive(n_draws, "n_draws", integer=True),
            n_steps=self.config.n_steps if n_steps is None else positive(n_steps, "n_steps", integer=True),
            units=units,
            seed=seed_of(seed),
            device=device,
        )
        total: np.ndarray | None = None
        for draw in progress_bar(made, desc="drawing", total=n_draws, enabled=progress):
            draws.add(draw.values)
            if draw.expected is not None:
                total = draw.expected if total is None else total + draw.expected
        result = draws.result(self.genes)
        return result if total is None else replace(result, mean=(total / n_draws).astype(np.float32))

    def _log2_size(self, section: Section, library_size: float | None) -> float:
        """Return log2 of the library size to predict at: the requested one, that of the section, or that of the training."""
        wanted = section.library_size if library_size is None else library_size
        return self.generator.log2_size if wanted is None else math.log2(wanted)

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
    ) -> Field:
        """Return predictions anywhere in a section."""
        radius = self.radius_um
        if not np.isfinite(radius):
            if section.spots is None:
                raise ValueError(f"Neither the model nor section {section.name!r} gives the size of a spot.")
            radius = float(np.median(section.spots.radius_um))
        model = self.generator
        if isinstance(model, FactorModel) and model.local is not None and section.dense is not None:
            return TwoScaleField(
                model,
                model.local,
                section,
                genes=self.genes,
                dispersion=None if self.calibration is None else self.calibration.dispersion,
                radius_um=radius,
                log2_size=self._log2_size(section, library_size),
                n_draws=positive(n_draws, "n_draws", integer=True),
                n_steps=self.config.n_steps if n_steps is None else positive(n_steps, "n_steps", integer=True),
                seed=seed_of(seed),
                device=device,
            )
        options = {"n_steps": n_steps, "library_size": library_size, "seed": seed, "device": device, "progress": False}
        return PatchField(self, section, np.pi * radius**2, n_draws, options)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays, settings = self.generator.state()
        return arrays, {"config": self.config.to_dict(), "generator": settings, "radius_um": self.radius_um}

    @classmethod
    def from_state(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedHisDiff:
        """Rebuild what ``state`` described."""
        config = config_from(tuple(GENERATORS), settings["config"])
        generator = GENERATORS[type(config)].from_state(config, arrays, settings["generator"])
        return cls(genes, config, generator, radius_um=settings["radius_um"])
