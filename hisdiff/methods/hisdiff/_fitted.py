"""The fitted method: from draws to predictions, and to and from saved arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._log import progress as progress_bar
from hisdiff._prediction._cohort_model import CohortModel
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._field import PatchField
from hisdiff._training._config import config_from
from hisdiff.methods._base import BaseFitted
from hisdiff.methods.hisdiff.factor._field import TwoScaleField
from hisdiff.methods.hisdiff.factor._model import FactorModel
from hisdiff.methods.hisdiff.factor.config import FactorConfig
from hisdiff.methods.hisdiff.gene._around import AroundModel
from hisdiff.methods.hisdiff.gene._model import GeneModel
from hisdiff.methods.hisdiff.gene.config import GeneConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods._base import PredictRun
    from hisdiff.methods._protocols import Field


def _generator_of(config: FactorConfig | GeneConfig) -> type[Any]:
    """Return the class of what makes draws by settings."""
    if isinstance(config, FactorConfig):
        return FactorModel
    return GeneModel if config.around is None else AroundModel


@dataclass(frozen=True, eq=False)
class FittedHisDiff(BaseFitted):
    """A fitted generative model of expression given morphology.

    Attributes
    ----------
    config
        What it was fitted with.
    generator
        What makes draws.
    radius_um
        Of a training spot, to which counts refer; NaN where that is not known.
    """

    config: FactorConfig | GeneConfig
    generator: FactorModel | AroundModel | GeneModel
    radius_um: float = math.nan

    @property
    def n_steps(self) -> int:
        """Default number of sampling steps."""
        return self.config.n_steps

    @property
    def usual_draws(self) -> int | None:
        """Draws where a caller asks for no number: one, as published, or None for the usual number."""
        return 1 if self.config.as_published else None

    @property
    def cohort_model(self) -> CohortModel | None:
        """What is known of sections unlike one another; None for denoisers that know nothing of it."""
        return self.generator if isinstance(self.generator, CohortModel) else None

    def adapted(self, section: Section, rows: np.ndarray) -> FittedHisDiff:
        """Return the model given the counts of some spots of a section; see ``CohortModel.adapted``."""
        assert isinstance(self.generator, CohortModel)
        return replace(self, generator=self.generator.adapted(section, rows, self.genes))

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return mean and spread: in closed form for the factor model, over ``n_draws`` draws for the gene model.

        Of the draws of the factor model only those that are kept are made.
        """
        model = self.generator
        if isinstance(model, CohortModel):
            return model.predict(
                section,
                locations,
                genes=self.genes,
                library_size=run.library_size,
                n_draws=run.n_draws,
                keep_draws=run.keep_draws,
                units=run.units,
                seed=run.seed,
                n_steps=run.n_steps,
                device=run.device,
                show=run.progress,
            )
        draws = DrawAccumulator(run.units, run.keep_draws)
        made = model.draws(
            section,
            locations,
            log2_size=self._log2_size(section, run.library_size),
            n_draws=run.n_draws,
            n_steps=run.n_steps or self.n_steps,
            seed=run.seed,
            device=run.device,
        )
        for draw in progress_bar(made, desc="drawing", total=run.n_draws, enabled=run.progress, unit="draws"):
            draws.add(draw)
        return draws.result(self.genes)

    def _log2_size(self, section: Section, library_size: float | None) -> float:
        """Return log2 of the library size to predict at: the one asked for, the section's own, or the usual one."""
        if isinstance(self.generator, CohortModel):
            return self.generator.log2_size_of(section, library_size)
        wanted = section.library_size if library_size is None else library_size
        return self.generator.log2_size if wanted is None else math.log2(wanted)

    def field_with(self, section: Section, run: PredictRun) -> Field:
        """Return predictions anywhere in a section, with detail below a spot where the model has learned it."""
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
                log2_size=self._log2_size(section, run.library_size),
                n_draws=run.n_draws,
                n_steps=run.n_steps or self.n_steps,
                seed=run.seed,
                device=run.device,
            )
        return PatchField(self, section, np.pi * radius**2, run.n_draws, run.at_bins)

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays, settings = self.generator.state()
        return arrays, {"config": self.config.to_dict(), "generator": settings, "radius_um": self.radius_um}

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedHisDiff:
        """Rebuild what ``state`` described."""
        config = config_from((FactorConfig, GeneConfig), settings["config"])
        generator = _generator_of(config).from_state(config, arrays, settings["generator"])
        return cls(genes, config, generator, settings["radius_um"])
