"""Fit the `fast` model: mean, factors, flow, and calibration on left-out tissue."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._device import one_thread, resolve_device
from hisdiff._log import logger
from hisdiff._nn._initialize import initialize
from hisdiff._prediction._cohort_model import moments
from hisdiff._prediction._noise import BlockNoise
from hisdiff._prediction._section_effects import Places, SectionEffects
from hisdiff._section import needed
from hisdiff._stats._counting import count, latent
from hisdiff._stats._gene_modules import GeneModules, evenly
from hisdiff._stats._proper import energy_score
from hisdiff._training._calibration import Calibration
from hisdiff._training._laws import Laws, fit_laws
from hisdiff._training._loop import TrainingResult, Validation, generator_for, train
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._spots import TrainingSpots
from hisdiff._training._spread import Axes, Spread
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._flow import FactorFlow
from hisdiff.methods.hisdiff.factor._local import fit_local
from hisdiff.methods.hisdiff.factor._mean import cross_fit
from hisdiff.methods.hisdiff.factor._model import FactorModel, Summary, new_flow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.factor.config import FactorConfig

_VALIDATION_DRAWS = 8
# The mean energy score of so many spots is known to a few thousandths, and steps are compared on the same ones.
_VALIDATION_SPOTS = 2000
# Draws of validation and of the calibration must not be those of a later prediction with the same seed.
_OWN_SEED = 104_729


def fit_factor_model(sections: Sequence[Section], config: FactorConfig, run: FitRun) -> FittedHisDiff:
    """Fit mean, factors and flow.

    For every fold there is one member of the flow that does not see it; together they predict all spots out of fold,
    which decides when to stop and what the model knows about itself. The members that see all spots are trained beside
    them, for as many steps, and make the predictions.
    """
    spots = TrainingSpots.of(sections, n_blocks=config.n_blocks)
    axes = Axes.of(spots)
    fitted = cross_fit(
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
    gauge = SizeGauge.fit([fitted.held_out[spots.section == s] for s in range(len(spots.sections))], spots.log2_size)
    held_out = gauge.aligned(fitted.held_out, spots.section)
    known = {member.features.projection.scaling: member.features for member in fitted.mean.members[:-1]}
    laws = fit_laws(
        spots, held_out, axes, known, n_components=config.n_components, n_factors=config.n_factors, seed=run.seed
    )
    spread, deep, scores = laws.spread, laws.rows, laws.scores
    size = np.maximum((spots.targets[deep] - held_out[deep]).std(axis=0, dtype=np.float64), 1e-3)
    summary = Summary.fit(held_out[deep], size, config.n_condition)
    folds = np.unique(spots.fold)
    left_out = folds if len(folds) > 1 else np.empty(0, dtype=np.int64)
    member_folds = torch.from_numpy(np.concatenate([left_out, np.full(config.n_members, -1)]).astype(np.int64))
    flow = initialize(
        new_flow(config, len(spread.factors.loadings), summary.axes.shape[1], member_folds), generator_for(run.seed, -1)
    )
    usual = float(np.median(spots.log2_sizes))
    local = None
    if config.fine:
        local = fit_local(
            spots, held_out, n_components=config.n_components, linear=config.linear, gammas=config.gammas, seed=run.seed
        )
    n_sections = len(spots.sections)
    gauge = gauge.of_all(held_out, spread.levels.between(n_sections), n_sections, len(folds))
    model = FactorModel(config, fitted.mean, gauge, spread, laws.transfer, summary, flow, usual, local)
    watched = _Watched.of(model, spots, held_out, laws, run.validation)
    data = {
        "scores": torch.from_numpy(scores.astype(np.float32)),
        "condition": torch.from_numpy(summary(held_out[deep])),
        "fold": torch.from_numpy(spots.fold[deep]),
    }
    with one_thread(resolve_device(run.device)):
        result = train(
            flow,
            data,
            config,
            seed=run.seed,
            validate=watched.score,
            device=run.device,
            checkpoint=run.checkpoint,
            resume=run.resume,
            progress_bar=run.progress,
            desc="fitting hisdiff",
        )
    logger.info(
        "hisdiff: fitted %d genes on %d spots; the image explains %.0f %% of the variance of left-out spots, %d factors describe the "
        "rest; %s",
        len(sections[0].genes), len(spots.section), 100 * fitted.explained, len(spread.factors.loadings), _of_flow(result),
    )  # fmt: skip
    flow.cpu()
    return FittedHisDiff(
        sections[0].genes,
        config,
        model,
        spots.radius_um,
        calibration=watched.calibration(),
        history=result.history,
    )


def _of_flow(result: TrainingResult) -> str:
    """Return what the flow brought on left-out tissue, in words."""
    scores = {row["step"]: row["val_score"] for row in result.history if "val_score" in row}
    if result.best_step == 0 or 0 not in scores:
        return "the flow predicts left-out tissue no better than normal factors do, which are kept"
    gain = 1 - scores[result.best_step] / scores[0]
    return f"the flow, trained for {result.best_step} steps, brings left-out tissue {100 * gain:.1f} % closer than normal factors do"


@dataclass(frozen=True)
class _Part:
    """Spots of one section, and the members of the flow that have not seen them.

    Attributes
    ----------
    members
        Indices of those members.
    center, measured
        ``(n, G)`` aligned mean, by a fit that has not seen the spots either, and log2(1 + count).
    variance
        ``(n, G)`` of the level in a section that was not seen, factors included.
    level
        ``(n, G)``, its centre.
    effects, places
        What is drawn for the section, and where.
    log2_size, section
        Library size and index of the section.
    """

    members: np.ndarray
    center: np.ndarray
    measured: np.ndarray
    variance: np.ndarray
    level: np.ndarray
    effects: SectionEffects
    places: Places
    log2_size: float
    section: int

    @classmethod
    def of(
        cls,
        spots: TrainingSpots,
        rows: np.ndarray,
        center: np.ndarray,
        values: np.ndarray,
        variance: np.ndarray,
        spread: Spread,
        members: np.ndarray,
    ) -> _Part:
        """Gather the given rows of spots, all of one section."""
        section = int(spots.section[rows][0])
        effects = SectionEffects(spread, values[rows])
        places = effects.places(spots.xy_um[rows], values[rows])
        of_section = spots.log2_sizes[section], section
        whole = (variance[rows] + spread.factors.variance).astype(np.float32)
        level = latent(center[rows], np.sqrt(whole)).astype(np.float32)
        return cls(members, center[rows], spots.measured[rows], whole, level, effects, places, *of_section)

    def thinned(self, step: int) -> _Part:
        """Return the part with every ``step``-th of its spots."""
        rows = slice(None, None, step)
        return replace(
            self,
            center=self.center[rows],
            level=self.level[rows],
            measured=self.measured[rows],
            variance=self.variance[rows],
            places=self.places.take(rows),
        )


@dataclass(frozen=True)
class _Watched:
    """Held-out tissue, and the modules of genes that it is judged on."""

    model: FactorModel
    parts: list[_Part]
    modules: np.ndarray

    @classmethod
    def of(
        cls,
        model: FactorModel,
        spots: TrainingSpots,
        held_out: np.ndarray,
        laws: Laws,
        validation: Sequence[Section],
    ) -> _Watched:
        folds = model.flow.member_folds.cpu().numpy()
        every = np.flatnonzero(folds < 0)
        modules = GeneModules.fit(*evenly(spots.measured, spots.section)).raw
        parts: list[_Part] = []
        if validation:
            spots = TrainingSpots.of(validation, log2_size=model.gauge.log2_size)
            values = model.spread.features.of(spots)
            variance = model.spread.levels.variance + model.spread.relation_variance(values)
            means = [model.means(s, needed(s.spots))[rows] for s, rows in zip(spots.sections, spots.kept)]
            center = model.gauge.aligned(np.concatenate(means), spots.section)
            for section in np.unique(spots.section):
                rows = np.flatnonzero(spots.section == section)
                parts.append(_Part.of(spots, rows, center, values, variance, model.spread, every))
            return cls(model, parts, modules)
        for section in np.unique(spots.section):
            for fold in np.unique(spots.fold[spots.section == section]):
                rows = np.flatnonzero((spots.fold == fold) & (spots.section == section))
                members = np.flatnonzero(folds == fold)
                if not len(members):  # too few spots to leave any out
                    members = every
                parts.append(_Part.of(spots, rows, held_out, laws.values, laws.variance, model.spread, members))
        return cls(model, parts, modules)

    @cached_property
    def judged(self) -> list[_Part]:
        """The parts with as many spots as are enough to tell when to stop."""
        step = -(-sum(len(part.center) for part in self.parts) // _VALIDATION_SPOTS)
        return self.parts if step <= 1 else [part.thinned(step) for part in self.parts]

    def score(self, flow: nn.Module) -> Validation:
        """Return the energy score of a few draws on modules of genes, the mean of each section taken out."""
        if not isinstance(flow, FactorFlow):
            raise TypeError(f"A flow makes draws, not a {type(flow).__name__}.")
        scores = []
        for part in self.judged:
            drawn = np.stack([self._draw(flow, part, draw) @ self.modules for draw in range(_VALIDATION_DRAWS)])
            measured = part.measured @ self.modules
            scores.append(energy_score(drawn - drawn.mean(axis=1, keepdims=True), measured - measured.mean(axis=0)))
        return Validation(float(np.concatenate(scores).mean()), {})

    def calibration(self) -> Calibration:
        """Return accuracy and interval factors on held-out tissue."""
        mean, std = [], []
        for part in self.parts:
            found = moments(part.center, part.variance, part.log2_size - self.model.gauge.log2_size)
            mean.append(found[0])
            std.append(found[1])
        section = np.concatenate([np.full(len(part.measured), part.section) for part in self.parts])
        measured = np.concatenate([part.measured for part in self.parts])
        return Calibration.from_held_out(measured, np.concatenate(mean), np.concatenate(std), section)

    def _draw(self, flow: FactorFlow, part: _Part, draw: int) -> np.ndarray:
        """Return one draw of log2(1 + count) at the spots of a part."""
        model = self.model
        own = copy.copy(model)
        own.flow = flow
        rows, factors = np.arange(len(part.center)), model.spread.factors
        noise = BlockNoise.for_rows(_OWN_SEED, len(rows))
        start = noise.normal(draw, 0, rows, len(factors.loadings))
        device = str(flow.member_folds.device)
        member = part.members[[draw % len(part.members)]]
        scores = own.scores_of(member, part.center, start, n_steps=None, device=device)
        level = part.level + part.effects.draw(part.places, _OWN_SEED, draw) + scores @ factors.loadings
        level += factors.specific * noise.normal(draw, 1, rows, level.shape[1])
        shift = part.log2_size - model.gauge.log2_size
        return count(np.maximum(level, 0), noise.normal(draw, 2, rows, level.shape[1]), shift)
