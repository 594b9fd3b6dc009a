"""The closed-form part of a model: the cross-fitted mean, the laws of what it leaves, and what a flow sees of a location."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._cores import cores_for
from hisdiff._training._laws import Laws, fit_laws
from hisdiff._training._once import is_shared, once
from hisdiff._training._size_gauge import SizeGauge
from hisdiff._training._spots import TrainingSpots
from hisdiff._training._spread import Axes, Spread
from hisdiff._training._transfer import Transfer
from hisdiff.methods.hisdiff.factor._mean import ConditionalMean, cross_fit
from hisdiff.methods.hisdiff.factor._model import Summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from hisdiff._json import State
    from hisdiff._prediction._cohort_model import Parts
    from hisdiff._section import Section
    from hisdiff.methods._base import FitRun
    from hisdiff.methods.hisdiff.factor.config import FactorConfig


@dataclass(frozen=True)
class ClosedForm:
    """What is fitted without a network.

    Attributes
    ----------
    spots
        Training spots.
    mean
        Fitted on all spots.
    explained
        Part of the variance of left-out tissue that it explains, see ``CrossFitted``.
    gauge
        Measures library sizes by means.
    held_out
        ``(n, G)`` means of the spots by fits without their fold, aligned.
    laws
        Spread and transfer; scores of the factors, and the spots that those are of.
    summary
        Of means.
    """

    spots: TrainingSpots
    mean: ConditionalMean
    explained: float
    gauge: SizeGauge
    held_out: np.ndarray
    laws: Laws
    summary: Summary

    @classmethod
    def fit(cls, sections: Sequence[Section], config: FactorConfig, run: FitRun) -> ClosedForm:
        """Fit on sections; of several processes the first one computes."""
        spots = TrainingSpots.of(sections, n_blocks=config.n_blocks)
        with cores_for(len(spots.section)):
            if is_shared():
                return cls.from_state(spots, *once(lambda: cls._computed(spots, config, run).state(), run.device))
            return cls._computed(spots, config, run)

    @classmethod
    def _computed(cls, spots: TrainingSpots, config: FactorConfig, run: FitRun) -> ClosedForm:
        axes = Axes.of(spots)
        mean, apart, explained, features = cross_fit(
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
        gauge = SizeGauge.fit((apart[spots.section == s] for s in range(len(spots.sections))), spots.log2_size)
        held_out = gauge.aligned(apart, spots.section)
        del apart  # as large as the expression of the cohort
        sizes = {"n_components": config.n_components, "n_factors": config.n_factors}
        laws = fit_laws(spots, held_out, axes, features, **sizes, seed=run.seed)
        left = spots.targets[laws.rows] - held_out[laws.rows]
        residual_sd = np.maximum(left.std(axis=0, dtype=np.float64), 1e-3)
        summary = Summary.fit(held_out[laws.rows], residual_sd, config.n_condition)
        return cls(spots, mean, explained, gauge, held_out, laws, summary)

    def state(self) -> State:
        """Return arrays and plain settings, of all but the spots."""
        laws, summary = self.laws, self.summary
        arrays, mean = self.mean.state()
        spread, of_spread = laws.spread.state()
        transfer, of_transfer = laws.transfer.state()
        arrays = arrays | {f"spread/{name}": array for name, array in spread.items()}
        arrays |= {f"transfer/{name}": array for name, array in transfer.items()}
        arrays |= {"held_out": self.held_out, "center": summary.center, "axes": summary.axes}
        arrays |= {"rows": laws.rows, "scores": laws.scores, "values": laws.values, "variance": laws.variance}
        plain = {"mean": mean, "spread": of_spread, "transfer": of_transfer, "explained": self.explained}
        return arrays, plain | {"gauge": asdict(self.gauge)}

    @classmethod
    def from_state(cls, spots: TrainingSpots, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Self:
        """Rebuild what ``state`` described."""

        def part(name: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(f"{name}/"): a for n, a in arrays.items() if n.startswith(f"{name}/")}

        mean = ConditionalMean.from_state(arrays, settings["mean"])
        spread = Spread.from_state(part("spread"), settings["spread"])
        transfer = Transfer.from_state(part("transfer"), settings["transfer"])
        laws = Laws(spread, transfer, *(arrays[name] for name in ("rows", "scores", "values", "variance")))
        summary = Summary(arrays["center"], arrays["axes"])
        gauge = SizeGauge(**settings["gauge"])
        return cls(spots, mean, settings["explained"], gauge, arrays["held_out"], laws, summary)

    @property
    def parts(self) -> Parts:
        """What a ``CohortModel`` has beside the mean."""
        n_sections, n_folds = len(self.spots.sections), len(np.unique(self.spots.fold))
        between = self.laws.spread.levels.between(n_sections)
        return {
            "gauge": self.gauge.of_all(self.held_out, between, n_sections, n_folds),
            "spread": self.laws.spread,
            "transfer": self.laws.transfer,
            "log2_size": float(np.median(self.spots.log2_sizes)),
            "given": None,
        }
