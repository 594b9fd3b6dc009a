"""How sections outside a cohort may differ from it, fitted in one call: spread and transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._training._features import Features
from hisdiff._training._relation import of_all
from hisdiff._training._spots import Projection
from hisdiff._training._spread import fit_spread
from hisdiff._training._transfer import fit_transfer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._training._context import Scaling
    from hisdiff._training._spots import TrainingSpots
    from hisdiff._training._spread import Axes, Spread
    from hisdiff._training._transfer import Transfer

# Spots whose genes are worked on at once.
_ROWS = 1024


@dataclass(frozen=True)
class Laws:
    """What was fitted, and what the fit knows of its training spots.

    Attributes
    ----------
    spread, transfer
        The laws.
    rows, scores
        Spots that factors were learned from, and their scores ``(k, <= K)``: those of the leading factors, which are more than noise.
    values
        ``(n, p)`` features of the relation.
    variance
        float32 ``(n, G)`` of the mean at each spot, had its section not been seen.
    """

    spread: Spread
    transfer: Transfer
    rows: np.ndarray
    scores: np.ndarray
    values: np.ndarray
    variance: np.ndarray


def fit_laws(
    spots: TrainingSpots,
    held_out: np.ndarray,
    axes: Axes,
    known: Mapping[Scaling, Features],
    *,
    n_components: int,
    n_factors: int,
    seed: int,
) -> Laws:
    """Fit on left-out predictions ``(n, G)``, aligned.

    The relation is a function of standardized embeddings, in which the look of a slide is no distance; whether a section is
    like the cohort is told from raw and standardized ones together. Features that are ``known`` are not fitted again.
    """
    of: dict[Scaling, Features] = dict(known)
    values: dict[Scaling, np.ndarray] = {}
    for scaling in ("standardized", "both"):
        if scaling not in of:
            projection = Projection.fit(spots.sections, scaling, spots.pitch_um, n_components)
            of[scaling] = Features.fit(projection, spots.features(projection))
        values[scaling] = of[scaling].of(spots)
    inside = values["standardized"]
    spread, rows, scores = fit_spread(
        spots, held_out, axes, of["standardized"], inside, n_factors=n_factors, seed=seed
    )  # fmt: skip
    transfer = fit_transfer(spots, of["both"], values["both"])
    # The spots are training tissue, where less is open than where they are left out.
    seen = spread.relation.uncertainty(inside)
    more = spread.usual / max(float(seen.mean()), 1e-12) - 1
    fewer = of_all(*(np.unique(number[rows], return_inverse=True)[1] for number in (spots.section, spots.fold)))
    variance = np.empty(spots.targets.shape, dtype=np.float32)
    for start in range(0, len(inside), _ROWS):
        part = slice(start, start + _ROWS)
        open_ = spread.relation_variance(inside[part], more * seen[part], 1 / fewer)
        variance[part] = spread.levels.variance + open_
    return Laws(spread, transfer, rows, scores, inside, variance)
