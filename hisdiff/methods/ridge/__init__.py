"""Ridge regression on own and surrounding embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hisdiff._log import logger
from hisdiff._prediction._cohort_model import CohortModel, moments
from hisdiff._stats._ridge_path import solve
from hisdiff._training._calibration import Calibration
from hisdiff._training._laws import fit_laws
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._spots import TrainingSpots
from hisdiff._training._spread import Axes
from hisdiff.methods.ridge._baseline import BaselineRidge, baseline_calibration
from hisdiff.methods.ridge._fit import choose, moments_of, out_of_fold, residuals_of
from hisdiff.methods.ridge._fitted import FittedRidge, LinearMean
from hisdiff.methods.ridge.config import RidgeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hisdiff._section import Section

__all__ = ["FittedRidge", "Ridge", "RidgeConfig"]

# Of the embedding that the relation is a function of, and of what the regression leaves.
_COMPONENTS, _FACTORS = 64, 16


class Ridge:
    """PCA and ridge on own and surrounding embeddings, and what a section may differ by from that.

    Scaling, number of components and penalty are those with the best mean correlation over genes on left-out tissue:
    whole sections, one at a time, or contiguous blocks of a single section. Correlation, since the squared error on a
    left-out section is mostly its offset in library size and stain, which the penalty cannot mend but does react to.
    Spread and draws come from out-of-fold residuals, so that they are those of new tissue: level, relation to the image,
    factors and counting are modelled; with ``spread="residuals"`` a draw is the regression plus a whole residual vector.
    """

    name: ClassVar[str] = "ridge"
    needs: ClassVar[frozenset[str]] = frozenset({"counts", "features"})
    needs_to_predict: ClassVar[frozenset[str]] = frozenset({"image", "features"})
    config_type: ClassVar[type] = RidgeConfig
    fitted_type: ClassVar[type] = FittedRidge

    def fit(
        self,
        sections: Sequence[Section],
        config: RidgeConfig,
        *,
        validation: Sequence[Section] = (),
        seed: int = 0,
        device: str | None = None,
        progress: bool | None = None,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> FittedRidge | BaselineRidge:
        """Fit on sections that share one panel (``Section.with_panel``).

        ``validation`` sections, where given, choose among the settings instead of the left-out folds. The fit takes
        seconds on the CPU, so ``device``, ``progress``, ``checkpoint`` and ``resume`` have no use here.
        """
        training = TrainingSpots.of(sections, n_blocks=config.n_blocks)
        watched = TrainingSpots.of(validation, log2_size=training.log2_size) if validation else None
        projection, alpha, history = choose(training, watched, config)
        features = training.features(projection)
        held_out = out_of_fold(features, training, alpha)
        slopes, intercept = solve(moments_of(features, training), alpha)
        mean = LinearMean(projection, slopes, intercept)
        fitted = (
            _baseline(sections[0].genes, mean, training, held_out, config, seed, history)
            if config.spread == "residuals"
            else _modelled(sections[0].genes, mean, training, held_out, seed, history)
        )
        logger.info(
            "ridge: %s embedding, %d components, penalty %g", projection.scaling, projection.axes.shape[1], alpha
        )
        return fitted


def _baseline(
    genes: np.ndarray,
    mean: LinearMean,
    training: TrainingSpots,
    held_out: np.ndarray,
    config: RidgeConfig,
    seed: int,
    history: list[dict[str, float]],
) -> BaselineRidge:
    residuals = residuals_of(training, held_out, config.n_residuals, seed)
    usual = float(np.median(training.log2_sizes))
    parts = mean.projection, mean.slopes, mean.intercept, residuals
    fitted = BaselineRidge(genes, *parts, training.log2_size, usual, training.radius_um, history=history)
    return replace(fitted, calibration=baseline_calibration(fitted, training, held_out, seed))


def _modelled(
    genes: np.ndarray,
    mean: LinearMean,
    training: TrainingSpots,
    held_out: np.ndarray,
    seed: int,
    history: list[dict[str, float]],
) -> FittedRidge | BaselineRidge:
    own = [held_out[training.section == s] for s in range(len(training.sections))]
    gauge = SizeGauge.fit(own, training.log2_size)
    aligned = gauge.aligned(held_out, training.section)
    laws = fit_laws(training, aligned, Axes.of(training), {}, n_components=_COMPONENTS, n_factors=_FACTORS, seed=seed)
    usual = float(np.median(training.log2_sizes))
    cohort_model = CohortModel(mean, gauge, laws.spread, laws.transfer, usual, None)
    shift = np.asarray(training.log2_sizes)[training.section] - gauge.log2_size
    found = [
        moments(aligned[rows], laws.variance[rows] + laws.spread.factors.variance, float(shift[rows][0]))
        for rows in (training.section == s for s in range(len(training.sections)))
    ]
    mean_of, std_of = (np.concatenate(part) for part in zip(*found))
    calibration = Calibration.from_held_out(training.measured, mean_of, std_of, training.section)
    return FittedRidge(genes, cohort_model, training.radius_um, calibration, history)
