"""The fitted ridge: a regression, and what a section may differ by from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hisdiff._prediction._cohort_model import SHAPES, CohortModel
from hisdiff._training._checkpoint import check_shapes
from hisdiff._training._spots import Projection
from hisdiff.methods._base import BaseFitted
from hisdiff.methods.ridge._baseline import BaselineRidge

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from hisdiff._json import State
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods._base import PredictRun


# Sizes of the arrays of a saved model: embedding, components, inputs of the regression, genes.
_SHAPES = {
    "mean/center": "D",
    "mean/scale": "D",
    "mean/axes": "D A",
    "mean/slopes": "B G",
    "mean/intercept": "G",
}


@dataclass(frozen=True)
class LinearMean:
    """Mean of log2(1 + count) at the cohort's library size, linear in the features of a location.

    Attributes
    ----------
    projection
        Embeddings to features.
    slopes, intercept
        ``(3 k, G)``, ``(G,)``.
    """

    projection: Projection
    slopes: np.ndarray
    intercept: np.ndarray

    def __call__(self, section: Section, locations: Locations) -> np.ndarray:
        """Return the mean at locations, float64 ``(n, G)``."""
        return self.projection.features(section, locations) @ self.slopes + self.intercept

    def state(self) -> State:
        """Return arrays and plain settings."""
        of = self.projection
        arrays = {"center": of.center, "scale": of.scale, "axes": of.axes}
        arrays |= {"slopes": self.slopes, "intercept": self.intercept}
        named = {f"mean/{name}": array for name, array in arrays.items()}
        return named, {"scaling": of.scaling, "pitch_um": of.pitch_um}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> LinearMean:
        """Rebuild what ``state`` described."""
        of = {name.removeprefix("mean/"): array for name, array in arrays.items() if name.startswith("mean/")}
        projection = Projection(settings["scaling"], settings["pitch_um"], of["center"], of["scale"], of["axes"])
        return cls(projection, of["slopes"], of["intercept"])


@dataclass(frozen=True, eq=False)
class FittedRidge(BaseFitted):
    """A fitted ridge.

    Attributes
    ----------
    cohort_model
        The regression, and the laws of what sections differ by from it.
    radius_um
        Of a training spot.
    """

    cohort_model: CohortModel
    radius_um: float

    def predict_with(self, section: Section, locations: Locations, run: PredictRun) -> Prediction:
        """Return mean and spread in closed form; of the draws only those that are kept are made."""
        return self.cohort_model.predict(
            section,
            locations,
            genes=self.genes,
            library_size=run.library_size,
            n_draws=run.n_draws,
            keep_draws=run.keep_draws,
            units=run.units,
            seed=run.seed,
            show=run.progress,
        )

    def adapted(self, section: Section, rows: np.ndarray) -> FittedRidge:
        """Return the ridge given the counts of some spots of a section; see ``CohortModel.adapted``."""
        return replace(self, cohort_model=self.cohort_model.adapted(section, rows, self.genes))

    def state(self) -> State:
        """Return named arrays and JSON-able settings from which ``from_state`` rebuilds the same object."""
        arrays, plain = self.cohort_model.state()
        return arrays, {"cohort_model": plain, "radius_um": self.radius_um}

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], genes: np.ndarray
    ) -> FittedRidge | BaselineRidge:
        """Rebuild what ``state`` described, here or in ``BaselineRidge``."""
        if "cohort_model" not in settings:
            return BaselineRidge.from_parts(arrays, settings, genes)
        check_shapes(arrays, _SHAPES | SHAPES, G=len(genes))
        plain = settings["cohort_model"]
        mean = LinearMean.from_state(arrays, plain["mean"])
        cohort_model = CohortModel(mean=mean, **CohortModel.parts_of(arrays, plain))
        return cls(genes, cohort_model, settings["radius_um"])
