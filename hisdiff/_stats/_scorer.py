"""What predictions of some spots are measured against: the counts there, as they are and library-size normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._accuracy import pearson
from hisdiff._stats._gene_modules import centered
from hisdiff._stats._metrics import metrics_of
from hisdiff._stats._proper import crps, energy_score
from hisdiff._stats._resample import half_molecules
from hisdiff._stats._structure import normalize_library_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hisdiff._stats._gene_modules import GeneModules
    from hisdiff._stats._spatial import Layout

SCORES = (
    "energy_score",
    "module_crps",
    "module_energy_score",
    "module_crps_centered",
    "module_energy_score_centered",
)
"""Names of proper scores."""
# Half the distance between two independent halves, each scaled up, is that of whole spots times the root of two.
_HALVES = 0.5 / np.sqrt(2)
# The halves are dealt with a seed of their own: the floor is a property of the measurement, not of a prediction.
_DEAL = 0


@dataclass(frozen=True)
class Scorer:
    """Measured spots of some sections.

    Metrics of a view carry its suffix: none for values as they are, ``"_norm"`` after every spot, measured or predicted,
    was scaled to the median total count of the measured ones.

    Attributes
    ----------
    counts
        ``(n, G)`` raw counts.
    layout
        Of the spots.
    modules
        Of the genes, or None where they are not known.
    normalize
        Whether there is the view ``"_norm"``.
    """

    counts: np.ndarray
    layout: Layout
    modules: GeneModules | None = None
    normalize: bool = True

    @cached_property
    def measured(self) -> np.ndarray:
        """``(n, G)``, log2(1 + count)."""
        return np.log2(1 + self.counts)

    @cached_property
    def total(self) -> float:
        """Total count that spots are scaled to."""
        totals = self.counts.sum(axis=1)
        return float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0

    @cached_property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Halves of the molecules, ``(n, G)`` each."""
        return half_molecules(self.counts, _DEAL)

    def views(self) -> Iterator[_View]:
        """Yield the views."""
        modules = self.modules
        yield _View("", np.asarray, None if modules is None else modules.raw)
        if self.normalize:
            # A single gene is all of the library size: nothing is left of it when that is taken out.
            single = self.counts.shape[1] == 1
            look = (
                partial(np.full_like, fill_value=np.nan)
                if single
                else partial(normalize_library_size, total=self.total)
            )
            yield _View("_norm", look, None if modules is None else modules.normalized)

    def correlations(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Return the correlation of every gene, ``(G,)``, by suffix."""
        return {view.suffix: pearson(view(self.measured), view(predicted)) for view in self.views()}

    def metrics(self, predicted: np.ndarray) -> dict[str, dict[str, float]]:
        """Return the metrics of :func:`metrics_of` for one value per spot and gene ``(n, G)``, by suffix."""
        return {view.suffix: metrics_of(view(self.measured), view(predicted), self.layout) for view in self.views()}

    def scores(self, draws: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
        """Return the scores of :func:`proper_scores` of draws, ``k`` times ``(n, G)``, by suffix."""
        return {
            view.suffix: proper_scores(
                [view(one) for one in draws], view(self.measured), view.modules, self.layout.section
            )
            for view in self.views()
        }

    def floors(self) -> dict[str, dict[str, float]]:
        """Return the floor of each score, see :func:`score_floor`, by suffix; names end with ``_floor``."""
        return {
            view.suffix: {
                f"{name}_floor": value
                for name, value in score_floor(
                    (view(self.halves[0]), view(self.halves[1])), view.modules, self.layout.section
                ).items()
            }
            for view in self.views()
        }


@dataclass(frozen=True)
class _View:
    suffix: str
    look: Callable[[np.ndarray], np.ndarray]
    modules: np.ndarray | None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.look(values)


def proper_scores(
    draws: Sequence[np.ndarray], measured: np.ndarray, modules: np.ndarray | None, section: np.ndarray
) -> dict[str, float]:
    """Return the scores of a law by its draws: ``energy_score``, and with ``modules`` those on them.

    ``module_crps`` is the mean over modules of the CRPS of each, ``module_energy_score`` the energy score of all
    together; ``_centered``: with the mean of each section taken out of every draw and of the measurement, which leaves
    what a prediction says of places inside a section. A single draw is scored as a point.

    Parameters
    ----------
    draws
        ``k`` times ``(n, G)``, log2(1 + count).
    measured
        ``(n, G)``.
    modules
        ``(G, K)`` weights of :class:`GeneModules`, or None where there are none.
    section
        ``(n,)`` section of each location.
    """
    scores = {"energy_score": float(energy_score(np.stack(draws), measured).mean())}
    if modules is None or not modules.shape[1]:
        return scores
    drawn, true = np.stack([np.asarray(one) @ modules for one in draws]), measured @ modules
    for end, view in (("", np.asarray), ("_centered", lambda values: centered(values, section))):
        pair = view(drawn), view(true)
        scores[f"module_crps{end}"] = float(crps(*pair).mean())
        scores[f"module_energy_score{end}"] = float(energy_score(*pair).mean())
    return scores


def score_floor(
    halves: tuple[np.ndarray, np.ndarray], modules: np.ndarray | None, section: np.ndarray
) -> dict[str, float]:
    """Return the scores that the law of counts given each spot's own rates would have.

    No image determines the rates of a spot, so no prediction is expected to reach these: they are the part of a score that
    counting noise makes. Two halves of the molecules are two independent draws of that law, and the score of a law is half
    the mean distance between two of its draws. The distance is divided by the root of two, by which the noise of halves
    that were scaled up is larger: within 10 % where counts average one or more, up to 15 % too low in sparser data.

    Parameters
    ----------
    halves
        Of :func:`half_molecules`, maybe normalised.
    modules, section
        As in ``proper_scores``.
    """
    one, other = halves
    return {name: float(_HALVES * score) for name, score in proper_scores([one], other, modules, section).items()}
