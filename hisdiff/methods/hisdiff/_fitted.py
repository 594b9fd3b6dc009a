"""The fitted method: from draws to predictions, and to and from saved arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Mapping, Sequence

    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._calibration import Calibration
    from hisdiff.methods._protocols import Field


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
        generator: FactorModel | GeneModel,
        calibration: Calibration | None = None,
        history: list[dict[str, float]] | None = None,
        radius_um: float = float("nan"),
    ) -> None:
        self.genes, self.config, self.generator = np.asarray(genes), config, generator
        self.calibration, self.history, self.radius_um = calibration, history or [], radius_um
        self.n_steps = config.n_steps

    @property
    def cohort_model(self) -> FactorModel | None:
        """What is known of sections unlike one another; None for denoisers that know nothing of it."""
        return self.generator if isinstance(self.generator, FactorModel) else None

    def adapted(self, section: Section, rows: np.ndarray) -> FittedHisDiff:
        """Return the model given the counts of some spots of a section; see ``CohortModel.adapted``."""
        assert isinstance(self.generator, FactorModel)
        generator = self.generator.adapted(section, rows, self.genes)
        return FittedHisDiff(self.genes, self.config, generator, self.calibration, self.history, self.radius_um)

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

        Mean and spread of the denoiser ``"mlp"`` are in closed form, and only the draws that are kept are made; those of
        the others are over ``n_draws`` draws.
        """
        steps = None if n_steps is None else positive(n_steps, "n_steps", integer=True)
        n_draws = positive(n_draws, "n_draws", integer=True)
        model = self.generator
        if isinstance(model, FactorModel):
            return model.predict(
                section,
                locations,
                genes=self.genes,
                library_size=library_size,
                n_draws=n_draws,
                keep_draws=keep_draws,
                units=units,
                seed=seed_of(seed),
                n_steps=steps,
                device=device,
            )
        draws = DrawAccumulator(units, keep_draws)
        made = model.draws(
            section,
            locations,
            log2_size=self._log2_size(section, library_size),
            n_draws=n_draws,
            n_steps=self.config.n_steps if steps is None else steps,
            seed=seed_of(seed),
            device=device,
        )
        for draw in progress_bar(made, desc="drawing", total=n_draws, enabled=progress):
            draws.add(draw)
        return draws.result(self.genes)

    def _log2_size(self, section: Section, library_size: float | None) -> float:
        """Return log2 of the library size to predict at: the one asked for, the section's own, or the usual one."""
        if isinstance(self.generator, FactorModel):
            return self.generator.log2_size_of(section, library_size)
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
        cls,
        arrays: Mapping[str, np.ndarray],
        settings: Mapping[str, Any],
        genes: np.ndarray,
        *,
        calibration: Calibration | None = None,
        history: Sequence[dict[str, float]] = (),
    ) -> FittedHisDiff:
        """Rebuild what ``state`` described."""
        config = config_from(tuple(GENERATORS), settings["config"])
        generator = GENERATORS[type(config)].from_state(config, arrays, settings["generator"])
        return cls(genes, config, generator, calibration, list(history), settings["radius_um"])
