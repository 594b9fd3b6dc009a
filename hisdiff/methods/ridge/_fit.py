"""Fit ridge: settings are chosen on left-out tissue, and so are the residuals that spread and draws come from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._log import logger
from hisdiff._prediction._cohort_model import CohortModel, moments
from hisdiff._stats._ridge_path import Moments, held_out_correlations, solve
from hisdiff._training._calibration import Calibration
from hisdiff._training._laws import fit_laws
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._spots import Projection, TrainingSpots
from hisdiff._training._spread import Axes
from hisdiff.methods.ridge._baseline import BaselineRidge, baseline_calibration
from hisdiff.methods.ridge._fitted import FittedRidge, LinearMean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.ridge.config import RidgeConfig

# A correlation that is better by less is no reason to prefer another scaling.
_TIE = 0.005
# Sections at least this deep, as part of the deepest, give residuals.
_DEEP = 0.5
# Of the embedding that the relation is a function of, and of what the regression leaves.
_COMPONENTS, _FACTORS = 64, 16


def fit_ridge(sections: Sequence[Section], config: RidgeConfig, run: FitRun) -> FittedRidge | BaselineRidge:
    """Fit on sections that share one panel."""
    training = TrainingSpots.of(sections, n_blocks=config.n_blocks)
    watched = TrainingSpots.of(run.validation, log2_size=training.log2_size) if run.validation else None
    projection, alpha, history = choose(training, watched, config)
    features = training.features(projection)
    held_out = out_of_fold(features, training, alpha)
    slopes, intercept = solve(moments_of(features, training), alpha)
    mean = LinearMean(projection, slopes, intercept)
    fitted = (
        _baseline(sections[0].genes, mean, training, held_out, config, run.seed, history)
        if config.spread == "residuals"
        else _modelled(sections[0].genes, mean, training, held_out, run.seed, history)
    )
    scaling = "raw and standardized" if projection.scaling == "both" else projection.scaling
    logger.info("ridge: %s embedding, %d principal components, penalty %g", scaling, projection.axes.shape[1], alpha)
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
    n = len(own)
    gauge_of_all = gauge.of_all(aligned, laws.spread.levels.between(n), n, len(np.unique(training.fold)))
    cohort_model = CohortModel(
        mean=mean, gauge=gauge_of_all, spread=laws.spread, transfer=laws.transfer, log2_size=usual
    )
    shift = np.asarray(training.log2_sizes)[training.section] - gauge.log2_size
    found = [
        moments(aligned[rows], laws.variance[rows] + laws.spread.factors.variance, float(shift[rows][0]))
        for rows in (training.section == s for s in range(len(training.sections)))
    ]
    mean_of, std_of = (np.concatenate(part) for part in zip(*found))
    calibration = Calibration.from_held_out(training.measured, mean_of, std_of, training.section)
    return FittedRidge(genes, cohort_model, training.radius_um, calibration=calibration, history=history)


def choose(
    training: TrainingSpots, watched: TrainingSpots | None, config: RidgeConfig
) -> tuple[Projection, float, list[dict[str, float]]]:
    """Return projection and penalty with the best held-out correlation, and the path of penalties of that projection."""
    best: tuple[float, Projection, float, np.ndarray] | None = None
    for scaling in config.scalings:
        full = Projection.fit(training.sections, scaling, training.pitch_um, max(config.n_components))
        width = full.axes.shape[1]
        folds = _moments(training, full)
        whole = sum(folds[1:], start=folds[0])
        if watched is None:
            splits = [(whole - fold, fold) for fold in folds]
        else:
            splits = [(whole, fold) for fold in _moments(watched, full)]
        for k in sorted({min(k, width) for k in config.n_components}):
            columns = (np.arange(3)[:, None] * width + np.arange(k)).ravel()
            scores = [held_out_correlations(a.take(columns), b.take(columns), config.alphas) for a, b in splits]
            path = _mean_over_genes(scores, [held.n for _, held in splits])
            at = int(path.argmax())
            if best is None or path[at] > best[0] + (_TIE if scaling != best[1].scaling else 0):
                best = (path[at], full.take(k), config.alphas[at], path)
    assert best is not None  # the configuration holds at least one scaling and one number of components
    _, projection, alpha, path = best
    history = [{"step": i, "alpha": a, "held_out_pcc": float(p)} for i, (a, p) in enumerate(zip(config.alphas, path))]
    return projection, alpha, history


def _mean_over_genes(scores: Sequence[np.ndarray], sizes: Sequence[float]) -> np.ndarray:
    """Return the mean over folds, weighted by spots, and over genes that vary; ``(alphas,)``, -1 where none does."""
    stacked = np.stack(scores)  # (folds, alphas, G)
    weights = np.where(np.isfinite(stacked), np.asarray(sizes, dtype=np.float64)[:, None, None], 0)
    total = weights.sum(axis=(0, 2))
    return np.where(total > 0, (weights * np.nan_to_num(stacked)).sum(axis=(0, 2)) / np.where(total > 0, total, 1), -1)


def _moments(spots: TrainingSpots, projection: Projection) -> list[Moments]:
    features = spots.features(projection)
    return [moments_of(features, spots, spots.fold == f) for f in range(spots.fold.max() + 1)]


def moments_of(features: np.ndarray, spots: TrainingSpots, rows: np.ndarray | slice = slice(None)) -> Moments:
    """Sum features and centred targets of the given rows, weighted."""
    return Moments.of(features[rows], spots.centered[rows], spots.weight[rows])


def out_of_fold(features: np.ndarray, training: TrainingSpots, alpha: float) -> np.ndarray:
    """Predict every spot by a fit without its fold, float64 ``(n, G)``."""
    folds = [training.fold == f for f in range(training.fold.max() + 1)]
    parts = [moments_of(features, training, rows) for rows in folds]
    whole = sum(parts[1:], start=parts[0])
    predicted = np.empty_like(training.targets)
    for rows, part in zip(folds, parts):
        slopes, intercept = solve(whole - part, alpha)
        predicted[rows] = features[rows] @ slopes + intercept
    return predicted


def residuals_of(training: TrainingSpots, held_out: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return residual vectors to draw from, float32 ``(m, G)``.

    Those of shallow sections are left out: they are mostly counting noise, which is added when drawing.
    """
    rows = np.flatnonzero(training.weight >= _DEEP)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return (training.targets[rows] - held_out[rows]).astype(np.float32)
