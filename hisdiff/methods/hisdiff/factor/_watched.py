"""Left-out tissue on which a factor model is judged: when its flow stops, what the flow brings, and the accuracy to expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from hisdiff._prediction._cohort_model import moments
from hisdiff._prediction._noise import BlockNoise
from hisdiff._prediction._section_effects import SectionEffects
from hisdiff._section import needed
from hisdiff._stats._counting import count, latent
from hisdiff._stats._gene_modules import GeneModules, evenly
from hisdiff._stats._proper import crps, energy_score
from hisdiff._training._calibration import Calibration
from hisdiff._training._loop import Validation
from hisdiff._training._spots import TrainingSpots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from hisdiff._section import Locations, Section
    from hisdiff._training._loop import TrainingResult
    from hisdiff._training._size_gauge import SizeGauge
    from hisdiff._training._spread import Spread
    from hisdiff.methods.hisdiff.factor._closed import ClosedForm
    from hisdiff.methods.hisdiff.factor._model import Summary

N_DRAWS = 8
"""Draws at a look."""
# Draws of validation must not be those of a later prediction with the same seed.
_OWN_SEED = 104_729
# The mean score of so many spots is known to a few thousandths, and steps are compared on the same ones.
_MAX_ROWS = 2000
# With thousands of genes fewer do, since their modules carry less noise; draws of all of them are held.
_MAX_VALUES, _MIN_ROWS = 4_000_000, 200


class Judged(Protocol):
    """A model with a closed-form part and a summary of its mean."""

    @property
    def gauge(self) -> SizeGauge: ...

    @property
    def spread(self) -> Spread: ...

    @property
    def summary(self) -> Summary: ...

    def means(self, section: Section, locations: Locations) -> np.ndarray: ...


@dataclass(frozen=True)
class _Part:
    """Spots of one section that some members of the flow have not seen.

    Attributes
    ----------
    member
        Index of the member of the flow that draws; -1 where none may.
    rows
        ``(n,)`` of the watched spots.
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
    rows: np.ndarray
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
        cls, model: Judged, spots: TrainingSpots, rows: np.ndarray, member: int,
        center: np.ndarray, values: np.ndarray, variance: np.ndarray,
    ) -> _Part:  # fmt: skip
        """Gather the given rows of spots, all of one section."""
        section = int(spots.section[rows][0])
        shift = spots.log2_sizes[section] - model.gauge.log2_size
        whole = (variance[rows] + model.spread.factors.variance).astype(np.float32)
        level = latent(center[rows], np.sqrt(whole)).astype(np.float32)
        arrays = center[rows], spots.measured[rows], level, whole, spots.xy_um[rows], values[rows]
        return cls(member, rows, *arrays, shift, section)


@dataclass(frozen=True)
class Prepared:
    """Draws of a part, all but what the flow makes of them; the same noise at every look.

    Attributes
    ----------
    member
        That makes the scores.
    rows
        ``(n,)`` of the watched spots.
    condition, start
        ``(D n, C)`` summaries of the means, and ``(D n, K)``.
    level, counting
        ``(D n, G)``: centre, what sections differ in and gene-specific noise; and normal noise of counting.
    measured
        ``(n, 8)`` modules, less their mean.
    shift
        See ``_Part``.
    """

    member: int
    rows: np.ndarray
    condition: torch.Tensor
    start: torch.Tensor
    level: np.ndarray
    counting: np.ndarray
    measured: np.ndarray
    shift: float

    @classmethod
    def of(cls, model: Judged, part: _Part, modules: np.ndarray, step: int) -> Prepared:
        spread, rows = model.spread, np.arange(len(part.center))
        effects = SectionEffects(spread, part.values)
        noise, kept = BlockNoise.for_rows(_OWN_SEED, len(rows)), rows[::step]
        places = effects.places(part.xy_um[kept], part.values[kept])
        k, n_genes = spread.factors.loadings.shape
        start, level, counting = [], [], []
        for draw in range(N_DRAWS):
            start.append(noise.normal(draw, 0, kept, k))
            own = part.level[kept] + effects.draw(places, _OWN_SEED, draw)
            own += spread.factors.specific * noise.normal(draw, 1, kept, n_genes)
            level.append(own.astype(np.float32))
            counting.append(noise.normal(draw, 2, kept, n_genes))
        measured = part.measured[kept] @ modules
        return cls(
            part.member,
            part.rows[::step],
            torch.from_numpy(np.tile(model.summary(part.center[kept]), (N_DRAWS, 1))),
            torch.from_numpy(np.concatenate(start)),
            np.concatenate(level),
            np.concatenate(counting),
            measured - measured.mean(axis=0),
            part.shift,
        )

    def modules(self, scores: np.ndarray, loadings: np.ndarray, modules: np.ndarray) -> np.ndarray:
        """Return modules of draws with scores ``(D n, K)``, less the mean of each draw, ``(D, n, 8)``."""
        level = np.maximum(self.level + scores @ loadings, 0)
        drawn = (count(level, self.counting, self.shift) @ modules).reshape(N_DRAWS, len(self.measured), -1)
        return drawn - drawn.mean(axis=1, keepdims=True)


@dataclass(frozen=True)
class Watched:
    """Held-out tissue, and the modules of genes that draws are judged on.

    Attributes
    ----------
    parts, prepared
        Of each section, and those that a network is judged on.
    gene_modules
        ``(G, 8)``.
    draw
        Makes scores ``(D n, K)`` of a part by a network.
    """

    model: Judged
    parts: list[_Part]
    prepared: list[Prepared]
    gene_modules: np.ndarray
    draw: Callable[[nn.Module, Prepared], torch.Tensor]

    @classmethod
    def of(
        cls,
        model: Judged,
        closed: ClosedForm,
        validation: Sequence[Section],
        members: np.ndarray,
        draw: Callable[[nn.Module, Prepared], torch.Tensor],
    ) -> Watched:
        """Gather validation sections, or the training spots, each with a member that has not seen it.

        ``members`` ``(M,)`` are the folds that members do not see, -1 for those that see all.
        """
        spots, held_out, values, variance = closed.spots, closed.held_out, closed.laws.values, closed.laws.variance
        modules = GeneModules.fit(*evenly(spots.measured, spots.section)).raw
        every = int(np.flatnonzero(members < 0)[0])
        parts: list[_Part] = []
        if validation:
            spots = TrainingSpots.of(validation, log2_size=model.gauge.log2_size)
            values = model.spread.features.of(spots)
            variance = model.spread.levels.variance + model.spread.relation_variance(values)
            means = [model.means(s, needed(s.spots))[rows] for s, rows in zip(spots.sections, spots.kept)]
            held_out = model.gauge.aligned(np.concatenate(means), spots.section)
            for section in np.unique(spots.section):
                rows = np.flatnonzero(spots.section == section)
                parts.append(_Part.of(model, spots, rows, every, held_out, values, variance))
        else:
            lone = len(np.unique(spots.fold)) == 1  # too few spots to leave any out
            for section in np.unique(spots.section):
                for fold in np.unique(spots.fold[spots.section == section]):
                    rows = np.flatnonzero((spots.fold == fold) & (spots.section == section))
                    own = np.flatnonzero(members == fold)
                    member = every if lone else int(own[0]) if len(own) else -1
                    parts.append(_Part.of(model, spots, rows, member, held_out, values, variance))
        judged = [part for part in parts if part.member >= 0]
        most = min(_MAX_ROWS, max(_MIN_ROWS, _MAX_VALUES // spots.measured.shape[1]))
        step = -(-sum(len(part.center) for part in judged) // most)
        return cls(model, parts, [Prepared.of(model, part, modules, step) for part in judged], modules, draw)

    def score(self, network: nn.Module) -> Validation:
        """Return the energy score of a few draws on modules of genes, the mean of each section taken out."""
        loadings = self.model.spread.factors.loadings
        whole, single = [], []
        for part in self.prepared:
            drawn = part.modules(self.draw(network, part).cpu().numpy(), loadings, self.gene_modules)
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


def of_network(result: TrainingResult | None) -> str:
    """Return what a flow brought on left-out tissue, in words."""
    if result is None:
        return "no flow was trained, so the factors are normal"
    scores = {row["step"]: row["val_score"] for row in result.history if "val_score" in row}
    if result.best_step == 0 or 0 not in scores:
        return "the flow predicts left-out tissue no better than normal factors do, which are kept"
    gain = 1 - scores[result.best_step] / scores[0]
    closer = f"{100 * gain:.1f} %" if gain >= 0.001 else "less than 0.1 %"
    return (
        f"the flow, trained for {result.best_step} steps, brings left-out tissue {closer} closer than normal factors do"
    )
