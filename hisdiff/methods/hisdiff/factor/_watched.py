"""Left-out tissue on which a factor model is judged: when its flow stops, what the flow brings, and the accuracy to expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._prediction._cohort_model import moments
from hisdiff._prediction._noise import BlockNoise
from hisdiff._prediction._section_effects import SectionEffects
from hisdiff._section import needed
from hisdiff._stats._counting import count, latent
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._proper import crps, energy_score
from hisdiff._training._calibration import Calibration
from hisdiff._training._loop import Validation
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff.factor._flow import FactorFlow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from hisdiff._section import Section
    from hisdiff._training._laws import Laws
    from hisdiff.methods.hisdiff.factor._model import FactorModel

_DRAWS = 8
# Draws of validation must not be those of a later prediction with the same seed.
_OWN_SEED = 104_729
# The mean score of so many spots is known to a few thousandths, and steps are compared on the same ones.
_MAX_ROWS = 2000


@dataclass(frozen=True)
class _Part:
    """Spots of one section that some members of the flow have not seen.

    Attributes
    ----------
    member
        Index of the member of the flow that draws.
    center, measured
        ``(n, G)`` aligned mean, by a fit that has not seen the spots either, and log2(1 + count).
    level, variance
        ``(n, G)`` centre of the level in a section that was not seen, and its variance, factors included.
    xy_um, values
        ``(n, 2)`` places, and ``(n, p)`` features of the relation.
    shift, section
        log2 of the library size over that of the model, and index of the section.
    """

    member: int
    center: np.ndarray
    measured: np.ndarray
    level: np.ndarray
    variance: np.ndarray
    xy_um: np.ndarray
    values: np.ndarray
    shift: float
    section: int

    @classmethod
    def of(
        cls, model: FactorModel, spots: TrainingSpots, rows: np.ndarray, member: int,
        center: np.ndarray, values: np.ndarray, variance: np.ndarray,
    ) -> _Part:  # fmt: skip
        """Gather the given rows of spots, all of one section."""
        section = int(spots.section[rows][0])
        shift = spots.log2_sizes[section] - model.gauge.log2_size
        whole = variance[rows] + model.spread.factors.variance
        level = latent(center[rows], np.sqrt(whole))
        arrays = center[rows], spots.measured[rows], level, whole, spots.xy_um[rows], values[rows]
        return cls(member, *arrays, shift, section)


@dataclass(frozen=True)
class _Prepared:
    """Draws of a part, all but what the flow makes of them; the same noise at every look.

    Attributes
    ----------
    member
        That makes the scores.
    condition, start
        ``(D n, C)`` and ``(D n, K)``.
    level, counting
        ``(D n, G)``: centre, what sections differ in and gene-specific noise; and normal noise of counting.
    measured
        ``(n, 8)`` modules, less their mean.
    shift
        See ``_Part``.
    """

    member: int
    condition: torch.Tensor
    start: torch.Tensor
    level: np.ndarray
    counting: np.ndarray
    measured: np.ndarray
    shift: float

    @classmethod
    def of(cls, model: FactorModel, part: _Part, modules: np.ndarray, step: int) -> _Prepared:
        spread, rows = model.spread, np.arange(len(part.center))
        effects = SectionEffects(spread, part.values)
        places, noise = effects.places(part.xy_um, part.values), BlockNoise.for_rows(_OWN_SEED, len(rows))
        kept = rows[::step]
        k, n_genes = spread.factors.loadings.shape
        start, level, counting = [], [], []
        for draw in range(_DRAWS):
            start.append(noise.normal(draw, 0, kept, k))
            own = part.level + effects.draw(places, _OWN_SEED, draw)
            level.append(own[kept] + spread.factors.specific * noise.normal(draw, 1, kept, n_genes))
            counting.append(noise.normal(draw, 2, kept, n_genes))
        measured = part.measured[kept] @ modules
        return cls(
            part.member,
            torch.from_numpy(np.tile(model.summary(part.center[kept]), (_DRAWS, 1))),
            torch.from_numpy(np.concatenate(start)),
            np.concatenate(level).astype(np.float32),
            np.concatenate(counting),
            measured - measured.mean(axis=0),
            part.shift,
        )

    def modules(self, scores: np.ndarray, loadings: np.ndarray, modules: np.ndarray) -> np.ndarray:
        """Return modules of draws with scores ``(D n, K)``, less the mean of each draw, ``(D, n, 8)``."""
        level = np.maximum(self.level + scores @ loadings, 0)
        drawn = (count(level, self.counting, self.shift) @ modules).reshape(_DRAWS, len(self.measured), -1)
        return drawn - drawn.mean(axis=1, keepdims=True)


@dataclass(frozen=True)
class Watched:
    """Held-out tissue, and the modules of genes that draws are judged on."""

    model: FactorModel
    parts: list[_Part]
    prepared: list[_Prepared]
    gene_modules: np.ndarray

    @classmethod
    def of(
        cls, model: FactorModel, spots: TrainingSpots, held_out: np.ndarray, laws: Laws, validation: Sequence[Section]
    ) -> Watched:
        """Gather validation sections, or the training spots, each with a member that has not seen it."""
        folds = model.flow.member_folds.cpu().numpy()
        every = int(np.flatnonzero(folds < 0)[0])
        modules = GeneModules.fit(spots.measured, spots.section).raw
        parts: list[_Part] = []
        if validation:
            spots = TrainingSpots.of(validation, log2_size=model.gauge.log2_size)
            values = model.spread.features.of(spots)
            variance = model.spread.levels.variance + model.spread.relation_variance(values)
            means = [model.means(s, needed(s.spots))[rows] for s, rows in zip(spots.sections, spots.kept)]
            center = model.gauge.aligned(np.concatenate(means), spots.section)
            for section in np.unique(spots.section):
                rows = np.flatnonzero(spots.section == section)
                parts.append(_Part.of(model, spots, rows, every, center, values, variance))
        else:
            for section in np.unique(spots.section):
                for fold in np.unique(spots.fold[spots.section == section]):
                    rows = np.flatnonzero((spots.fold == fold) & (spots.section == section))
                    members = np.flatnonzero(folds == fold)  # none where there are too few spots to leave any out
                    member = int(members[0]) if len(members) else every
                    parts.append(_Part.of(model, spots, rows, member, held_out, laws.values, laws.variance))
        step = -(-sum(len(part.center) for part in parts) // _MAX_ROWS)
        return cls(model, parts, [_Prepared.of(model, part, modules, step) for part in parts], modules)

    def score(self, flow: nn.Module) -> Validation:
        """Return the energy score of a few draws on modules of genes, the mean of each section taken out."""
        if not isinstance(flow, FactorFlow):
            raise TypeError(f"A flow makes draws, not a {type(flow).__name__}.")
        config, loadings, device = self.model.config, self.model.spread.factors.loadings, flow.member_folds.device
        whole, single = [], []
        for member in sorted({part.member for part in self.prepared}):
            own = flow.take(np.array([member]))
            for part in (part for part in self.prepared if part.member == member):
                condition, start = part.condition.to(device), part.start[None].to(device)
                made = own.sample(condition, start, n_steps=config.n_steps, sampler=SAMPLERS[config.sampler])
                drawn = part.modules(made[0].cpu().numpy(), loadings, self.gene_modules)
                whole.append(energy_score(drawn, part.measured))
                single.append(crps(drawn, part.measured).mean(axis=1))
        return Validation(float(np.concatenate(whole).mean()), {"module_crps": float(np.concatenate(single).mean())})

    def calibration(self) -> Calibration:
        """Return accuracy and interval factors on held-out tissue."""
        mean, std = [], []
        for part in self.parts:
            found = moments(part.center, part.variance, part.shift)
            mean.append(found[0])
            std.append(found[1])
        section = np.concatenate([np.full(len(part.measured), part.section) for part in self.parts])
        measured = np.concatenate([part.measured for part in self.parts])
        return Calibration.from_held_out(measured, np.concatenate(mean), np.concatenate(std), section)
