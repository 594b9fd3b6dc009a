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
from hisdiff._stats._counting import count_at, latent, levels_of
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
# Spots whose counts are worked on at once.
_ROWS = 1024


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
        ``(k,)`` of the held-out spots.
    shift
        log2 of the library size over that of the model.
    """

    member: int
    rows: np.ndarray
    shift: float


@dataclass(frozen=True)
class _Tissue:
    """Held-out spots.

    Attributes
    ----------
    center, measured
        ``(n, G)`` aligned mean, by a fit that has not seen the spots either, and log2(1 + count).
    open, chance
        ``(n, G)`` variance of the mean in a section that was not seen, and ``(G,)`` of what is left to chance.
    xy_um, values
        ``(n, 2)`` places, and ``(n, p)`` features of the relation.
    section
        ``(n,)`` index of the section.
    """

    center: np.ndarray
    measured: np.ndarray
    open: np.ndarray
    chance: np.ndarray
    xy_um: np.ndarray
    values: np.ndarray
    section: np.ndarray

    def variance(self, rows: np.ndarray) -> np.ndarray:
        """Return the variance of the level, factors included, float32."""
        return (self.open[rows] + self.chance).astype(np.float32)

    def level(self, rows: np.ndarray) -> np.ndarray:
        """Return the centre of the level in a section that was not seen, float32."""
        return latent(self.center[rows], np.sqrt(self.variance(rows))).astype(np.float32)


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
        ``(D n, G)``: centre, what sections differ in and gene-specific noise; and levels of the noise of counting.
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
    def of(cls, model: Judged, tissue: _Tissue, part: _Part, modules: np.ndarray, step: int) -> Prepared:
        spread, rows = model.spread, part.rows[::step]
        effects = SectionEffects(spread, tissue.values[part.rows])
        noise, kept = BlockNoise.for_rows(_OWN_SEED, len(part.rows)), np.arange(len(part.rows))[::step]
        places = effects.places(tissue.xy_um[rows], tissue.values[rows])
        around = tissue.level(rows)
        k, n_genes = spread.factors.loadings.shape
        start, level, counting = [], [], []
        for draw in range(N_DRAWS):
            start.append(noise.normal(draw, 0, kept, k))
            own = around + effects.draw(places, _OWN_SEED, draw)
            own += spread.factors.specific * noise.normal(draw, 1, kept, n_genes)
            level.append(own.astype(np.float32))
            counting.append(levels_of(noise.normal(draw, 2, kept, n_genes)))
        measured = tissue.measured[rows] @ modules
        return cls(
            part.member,
            rows,
            torch.from_numpy(np.tile(model.summary(tissue.center[rows]), (N_DRAWS, 1))),
            torch.from_numpy(np.concatenate(start)),
            np.concatenate(level),
            np.concatenate(counting),
            measured - measured.mean(axis=0),
            part.shift,
        )

    def modules(self, scores: np.ndarray, loadings: np.ndarray, modules: np.ndarray) -> np.ndarray:
        """Return modules of draws with scores ``(D n, K)``, less the mean of each draw, ``(D, n, 8)``."""
        level = np.maximum(self.level + scores @ loadings, 0)
        drawn = (count_at(level, self.counting, self.shift) @ modules).reshape(N_DRAWS, len(self.measured), -1)
        return drawn - drawn.mean(axis=1, keepdims=True)


@dataclass(frozen=True)
class Watched:
    """Held-out tissue, and the modules of genes that draws are judged on.

    Attributes
    ----------
    tissue
        The spots.
    parts, prepared
        Of each section, and those that a network is judged on.
    gene_modules
        ``(G, 8)``.
    draw
        Makes scores ``(D n, K)`` of a part by a network.
    """

    model: Judged
    tissue: _Tissue
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
        spots, center, values, variance = closed.spots, closed.held_out, closed.laws.values, closed.laws.variance
        modules = GeneModules.fit(*evenly(spots.measured, spots.section)).raw
        every = int(np.flatnonzero(members < 0)[0])
        of_parts: list[tuple[int, np.ndarray]] = []
        if validation:
            spots = TrainingSpots.of(validation, log2_size=model.gauge.log2_size)
            values = model.spread.features.of(spots)
            variance = model.spread.levels.variance + model.spread.relation_variance(values)
            means = [model.means(s, needed(s.spots))[rows] for s, rows in zip(spots.sections, spots.kept)]
            center = model.gauge.aligned(np.concatenate(means), spots.section)
            of_parts = [(every, np.flatnonzero(spots.section == section)) for section in np.unique(spots.section)]
        else:
            lone = len(np.unique(spots.fold)) == 1  # too few spots to leave any out
            for section in np.unique(spots.section):
                for fold in np.unique(spots.fold[spots.section == section]):
                    rows = np.flatnonzero((spots.fold == fold) & (spots.section == section))
                    own = np.flatnonzero(members == fold)
                    member = every if lone else int(own[0]) if len(own) else -1
                    of_parts.append((member, rows))
        shift = np.asarray(spots.log2_sizes)[spots.section] - model.gauge.log2_size
        parts = [_Part(member, rows, float(shift[rows[0]])) for member, rows in of_parts]
        chance = model.spread.factors.variance
        tissue = _Tissue(center, spots.measured, variance, chance, spots.xy_um, values, spots.section)
        judged = [part for part in parts if part.member >= 0]
        most = min(_MAX_ROWS, max(_MIN_ROWS, _MAX_VALUES // spots.measured.shape[1]))
        step = -(-sum(len(part.rows) for part in judged) // most)
        prepared = [Prepared.of(model, tissue, part, modules, step) for part in judged]
        return cls(model, tissue, parts, prepared, modules, draw)

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
        of = self.tissue
        mean, std = np.empty_like(of.measured), np.empty_like(of.measured)
        for part in self.parts:
            for start in range(0, len(part.rows), _ROWS):
                rows = part.rows[start : start + _ROWS]
                mean[rows], std[rows] = moments(of.center[rows], of.variance(rows), part.shift)
        return Calibration.from_held_out(of.measured, mean, std, of.section)


def of_network(result: TrainingResult | None) -> str:
    """Return what a flow brought on left-out tissue, in words."""
    if result is None:
        return "no flow was trained, so the factors are normal"
    scores = {row["step"]: row["val_score"] for row in result.history if "val_score" in row}
    if result.best_step == 0 or 0 not in scores:
        return "the flow predicts left-out tissue no better than normal factors do, which are kept"
    gain = 1 - scores[result.best_step] / scores[0]
    return f"the flow, trained for {result.best_step} steps, brings left-out tissue {100 * gain:.1f} % closer than normal factors do"
