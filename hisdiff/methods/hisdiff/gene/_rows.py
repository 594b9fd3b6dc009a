"""Spots as the networks of genes take them: embeddings, context, counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._section import needed
from hisdiff._training._context import context_of
from hisdiff._training._spots import TrainingSpots
from hisdiff.methods.hisdiff.gene._loss import Anchors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from hisdiff._section import Section
    from hisdiff.methods.hisdiff.gene._model import GeneModel
    from hisdiff.methods.hisdiff.gene.config import GeneConfig


@dataclass(frozen=True)
class Rows:
    """Some of the spots of some sections."""

    spots: TrainingSpots
    mask: np.ndarray

    def locations(self, index: int) -> np.ndarray:
        """Return which spots of a section are meant."""
        return self.spots.kept[index][self.mask[self.spots.section == index]]

    @property
    def counts(self) -> np.ndarray:
        """Counts ``(n, G)``."""
        return np.rint(np.exp2(self.spots.measured[self.mask]) - 1)

    @property
    def log2_sizes(self) -> np.ndarray:
        """Library size of each spot's section ``(n,)``."""
        return np.asarray(self.spots.log2_sizes)[self.spots.section[self.mask]]

    def embeddings(self, config: GeneConfig) -> np.ndarray:
        """Return the embeddings ``(n, D)``."""
        scaling, pitch = config.scaling, self.spots.pitch_um
        return np.concatenate(
            [
                context_of(section, needed(section.spots), scaling=scaling, pitch_um=pitch).own[self.locations(i)]
                for i, section in enumerate(self.spots.sections)
            ]
        )

    def tensors(self, model: GeneModel) -> tuple[dict[str, Tensor], Anchors]:
        """Return what ``GeneLoss`` takes: a row for each spot, and the anchors of all sections."""
        parts, anchors, offset = [], [], 0
        for i, section in enumerate(self.spots.sections):
            context, rows = model.context(section, needed(section.spots)), self.locations(i)
            near, wide = (np.where(a >= 0, a + offset, -1)[rows] for a in (context.near, context.wide))
            parts.append((context.own[rows], near, wide))
            anchors.append(context.anchors)
            offset += len(context.anchors)
        own, near, wide = (np.concatenate(values) for values in zip(*parts))
        arrays = {"own": own, "near": near, "wide": wide, "log2_size": self.log2_sizes, "counts": self.counts}
        tensors = {
            name: torch.from_numpy(a.astype(np.int64 if name in ("near", "wide") else np.float32))
            for name, a in arrays.items()
        }
        return tensors, Anchors(np.concatenate(anchors))

    @classmethod
    def of_sections(cls, sections: Sequence[Section]) -> Rows | None:
        """Return all spots of sections, or None where there are none."""
        if not sections:
            return None
        known = TrainingSpots.of(sections)
        return cls(known, np.ones(len(known.section), dtype=bool))
