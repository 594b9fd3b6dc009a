"""The closed-form part of a model: the cross-fitted mean, the laws of what it leaves, and what a flow sees of a location."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._training._laws import Laws, fit_laws
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._spots import TrainingSpots
from hisdiff._training._spread import Axes
from hisdiff.methods.hisdiff.factor._mean import cross_fit
from hisdiff.methods.hisdiff.factor._model import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._prediction._cohort_model import Parts
    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.factor._mean import ConditionalMean
    from hisdiff.methods.hisdiff.factor.config import FactorConfig


@dataclass(frozen=True)
class ClosedForm:
    """What is fitted without a network.

    Attributes
    ----------
    spots
        Training spots.
    mean
        Fitted on all spots.
    explained
        Part of the variance of left-out tissue that it explains, see ``CrossFitted``.
    gauge
        Measures library sizes by means.
    held_out
        ``(n, G)`` means of the spots by fits without their fold, aligned.
    laws
        Spread and transfer; scores of the factors, and the spots that those are of.
    summary
        Of means.
    """

    spots: TrainingSpots
    mean: ConditionalMean
    explained: float
    gauge: SizeGauge
    held_out: np.ndarray
    laws: Laws
    summary: Summary

    @classmethod
    def fit(cls, sections: Sequence[Section], config: FactorConfig, run: FitRun) -> ClosedForm:
        """Fit on sections."""
        spots = TrainingSpots.of(sections, n_blocks=config.n_blocks)
        axes = Axes.of(spots)
        mean, apart, explained, features = cross_fit(
            spots,
            axes,
            scalings=config.scalings,
            n_components=config.n_components,
            linear=config.linear,
            gammas=config.gammas,
            penalties=config.penalties,
            n_landmarks=config.n_landmarks,
            profile=config.profile,
            seed=run.seed,
            show=run.progress,
        )
        gauge = SizeGauge.fit((apart[spots.section == s] for s in range(len(spots.sections))), spots.log2_size)
        held_out = gauge.aligned(apart, spots.section)
        del apart  # as large as the expression of the cohort
        sizes = {"n_components": config.n_components, "n_factors": config.n_factors}
        laws = fit_laws(spots, held_out, axes, features, **sizes, seed=run.seed)
        left = spots.targets[laws.rows] - held_out[laws.rows]
        residual_sd = np.maximum(left.std(axis=0, dtype=np.float64), 1e-3)
        summary = Summary.fit(held_out[laws.rows], residual_sd, config.n_condition)
        return cls(spots, mean, explained, gauge, held_out, laws, summary)

    @property
    def parts(self) -> Parts:
        """What a ``CohortModel`` has beside the mean."""
        n_sections, n_folds = len(self.spots.sections), len(np.unique(self.spots.fold))
        between = self.laws.spread.levels.between(n_sections)
        return {
            "gauge": self.gauge.of_all(self.held_out, between, n_sections, n_folds),
            "spread": self.laws.spread,
            "transfer": self.laws.transfer,
            "log2_size": float(np.median(self.spots.log2_sizes)),
            "given": None,
        }
