"""Fit the `fast` model: mean, factors, flow, and calibration on left-out tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._device import one_thread
from hisdiff._keys import LOG2
from hisdiff._log import logger
from hisdiff._nn._initialize import initialize
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._proper import energy_score
from hisdiff._training._calibration import Calibration
from hisdiff._training._loop import Validation, generator_for, train
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff._fitted import FittedHisDiff
from hisdiff.methods.hisdiff.factor._factors import fit_factors
from hisdiff.methods.hisdiff.factor._flow import FactorFlow
from hisdiff.methods.hisdiff.factor._local import fit_local
from hisdiff.methods.hisdiff.factor._mean import cross_fit
from hisdiff.methods.hisdiff.factor._model import FactorModel, SizeGauge, Summary, new_flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from hisdiff._section import Section
    from hisdiff.methods.hisdiff.factor._model import Draw
    from hisdiff.methods.hisdiff.factor.config import FactorConfig

_VALIDATION_DRAWS = 8
_CALIBRATION_DRAWS = 16
_DEEP = 0.5
# Draws of validation and of the calibration must not be those of a later prediction with the same seed.
_OWN_SEED = 104_729


def fit_factor_model(
    sections: Sequence[Section],
    config: FactorConfig,
    *,
    validation: Sequence[Section] = (),
    seed: int = 0,
    device: str | None = None,
    progress: bool | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> FittedHisDiff:
    """Fit mean, factors and flow.

    For every fold there is one member of the flow that does not see it; together they predict all spots out of fold,
    which decides when to stop and what the model knows about itself. The members that see all spots are trained beside
    them, for as many steps, and make the predictions.
    """
    spots = TrainingSpots.of(sections, n_blocks=config.n_blocks)
    fitted = cross_fit(
        spots,
        scalings=config.scalings,
        n_components=config.n_components,
        linear=config.linear,
        gammas=config.gammas,
        penalties=config.penalties,
        n_landmarks=config.n_landmarks,
        seed=seed,
    )
    sections_of = [spots.section == s for s in range(len(spots.sections))]
    gauge = SizeGauge.fit([fitted.held_out[rows] for rows in sections_of], spots.log2_size)
    held_out = np.empty_like(fitted.held_out)
    for rows in sections_of:
        held_out[rows] = gauge.align(fitted.held_out[rows], fitted.held_out[rows])
    # Counts of shallow sections, scaled up, are noisier than counting at the cohort's library size is.
    deep = spots.weight >= _DEEP * spots.weight.max()
    section = np.unique(spots.section[deep], return_inverse=True)[1]
    factors, scores = fit_factors(spots.targets[deep], held_out[deep], section, config.n_factors)
    spread = np.maximum((spots.targets - held_out)[deep].std(axis=0), 1e-3)
    summary = Summary.fit(held_out[deep], spread, config.n_condition)
    folds = np.unique(spots.fold)
    left_out = folds if len(folds) > 1 else np.empty(0, dtype=np.int64)
    member_folds = torch.from_numpy(np.concatenate([left_out, np.full(config.n_members, -1)]).astype(np.int64))
    flow = initialize(
        new_flow(config, len(factors.loadings), summary.axes.shape[1], member_folds), generator_for(seed, -1)
    )
    usual = float(np.median(spots.log2_sizes))
    local = None
    if config.fine:
        local = fit_local(
            spots, held_out, n_components=config.n_components, linear=config.linear, gammas=config.gammas, seed=seed
        )
    model = FactorModel(config, fitted.mean, gauge, summary, factors, flow, usual, local)
    watched = _Watched.of(model, spots, held_out, validation)
    data = {
        "scores": torch.from_numpy(scores.astype(np.float32)),
        "condition": torch.from_numpy(summary(held_out[deep])),
        "fold": torch.from_numpy(spots.fold[deep]),
    }
    with one_thread():
        result = train(
            flow,
            data,
            config,
            seed=seed,
            validate=watched.score,
            device=device,
            checkpoint=checkpoint,
            resume=resume,
            progress_bar=progress,
            desc="fitting hisdiff",
        )
    logger.info(
        "hisdiff: mean explains %.0f %% of left-out variance, %d factors, %d steps kept",
        100 * fitted.explained, len(factors.loadings), result.best_step,
    )  # fmt: skip
    flow.cpu()
    return FittedHisDiff(sections[0].genes, config, model, watched.calibration(seed), result.history, spots.radius_um)


@dataclass(frozen=True)
class _Part:
    """Spots of one section, and the members of the flow that have not seen them.

    Attributes
    ----------
    members
        Indices of those members.
    center, measured
        ``(n, G)`` aligned mean, by a fit that has not seen the spots either, and log2(1 + count).
    log2_size, section
        Library size and index of the section.
    """

    members: np.ndarray
    center: np.ndarray
    measured: np.ndarray
    log2_size: float
    section: int


@dataclass(frozen=True)
class _Watched:
    """Held-out tissue.

    Attributes
    ----------
    axes
        ``(G, K)`` of the cohort's gene modules, on which draws are scored: over single genes the noise of counting
        hides whether a flow has learned anything.
    """

    model: FactorModel
    parts: list[_Part]
    axes: np.ndarray

    @classmethod
    def of(
        cls, model: FactorModel, spots: TrainingSpots, held_out: np.ndarray, validation: Sequence[Section]
    ) -> _Watched:
        folds = model.flow.member_folds.cpu().numpy()
        axes = GeneModules.fit(spots.measured, spots.section).raw
        parts: list[_Part] = []
        if validation:
            known = TrainingSpots.of(validation, log2_size=model.gauge.log2_size)
            members = np.flatnonzero(folds < 0)
            center = [model.means(s, s.spots)[rows] for s, rows in zip(known.sections, known.kept)]
            for s, own in enumerate(center):
                measured = known.measured[known.section == s]
                parts.append(_Part(members, model.gauge.align(own, own), measured, known.log2_sizes[s], s))
            return cls(model, parts, axes)
        for section in np.unique(spots.section):
            for fold in np.unique(spots.fold[spots.section == section]):
                rows = (spots.fold == fold) & (spots.section == section)
                members = np.flatnonzero(folds == fold)
                if not len(members):  # too few spots to leave any out
                    members = np.flatnonzero(folds < 0)
                parts.append(_Part(members, held_out[rows], spots.measured[rows], spots.log2_sizes[section], section))
        return cls(model, parts, axes)

    def score(self, flow: nn.Module) -> Validation:
        """Return the energy score of a few draws on the modules."""
        scores = []
        for part in self.parts:
            draws = [draw.values for draw in self._draws(flow, part, _VALIDATION_DRAWS, 0)]
            scores.append(energy_score(np.stack(draws) @ self.axes, part.measured @ self.axes))
        return Validation(float(np.concatenate(scores).mean()), {})

    def calibration(self, seed: int) -> Calibration:
        """Return accuracy and interval factors on held-out tissue."""
        mean, std = [], []
        for part in self.parts:
            draws = list(self._draws(self.model.flow, part, _CALIBRATION_DRAWS, seed))
            mean.append(np.mean([draw.expected for draw in draws], axis=0))
            std.append(np.std([draw.values for draw in draws], axis=0, ddof=1))
        section = np.concatenate([np.full(len(part.measured), part.section) for part in self.parts])
        measured = np.concatenate([part.measured for part in self.parts])
        return Calibration.from_held_out(measured, np.concatenate(mean), np.concatenate(std), section)

    def _draws(self, flow: nn.Module, part: _Part, n_draws: int, seed: int) -> Iterator[Draw]:
        model = self.model
        if not isinstance(flow, FactorFlow):
            raise TypeError(f"A flow makes draws, not a {type(flow).__name__}.")
        own = FactorModel(model.config, model.mean, model.gauge, model.summary, model.factors, flow, model.log2_size)
        return own.draws_around(
            part.center,
            log2_size=part.log2_size,
            n_draws=n_draws,
            n_steps=model.config.n_steps,
            units=LOG2,
            seed=seed + _OWN_SEED,
            device=str(flow.member_folds.device),
            members=part.members,
        )
