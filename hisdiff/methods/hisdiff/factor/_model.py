"""The `fast` model: a closed-form conditional mean, a flow over the factors of its residuals, and counting noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from hisdiff._device import one_thread, resolve_device
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._keys import COUNTS
from hisdiff._nn._mlp import StackedMLP
from hisdiff._prediction._noise import BlockNoise
from hisdiff._training._checkpoint import check_shapes
from hisdiff.methods.hisdiff.factor._factors import Factors, count, count_mean, count_rate
from hisdiff.methods.hisdiff.factor._flow import FactorFlow
from hisdiff.methods.hisdiff.factor._local import LocalRates
from hisdiff.methods.hisdiff.factor._mean import ConditionalMean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hisdiff._section import Locations, Section
    from hisdiff.methods.hisdiff.factor.config import FactorConfig

_CHUNK = 16_384
# A section whose means are off by more than a factor of 8 is a case of its own, not one of stain.
_MAX_SHIFT = 3.0
# What the numbers of a draw are for; the second argument of BlockNoise.normal.
_SCORES, _SPECIFIC, _COUNTING = range(3)
# Sizes of the arrays of a saved model: genes, inputs of the flow, factors, sections.
_SHAPES = {
    "summary/center": "G",
    "summary/axes": "G C",
    "factors/loadings": "K G",
    "factors/specific": "G",
    "factors/offsets": "S G",
    "mean/intercept": "G",
}


class Draw(NamedTuple):
    """One draw, and its contribution to the mean.

    Attributes
    ----------
    values
        ``(n, G)``, log2(1 + count).
    expected
        ``(n, G)`` expectation given the draw's scores and the mirrored ones, on the scale asked for: its average over
        draws is the mean of the draws without the noise of counting and with less of the rest. None for ``values``.
    """

    values: np.ndarray
    expected: np.ndarray | None = None


@dataclass(frozen=True)
class SizeGauge:
    """Measures the library size of a section by its predicted means.

    A stain that the training sections do not have moves all means of a section up or down together. Where the library size of
    a section is known, that falls out when the means are first brought to the library size they are meant to be at.

    Attributes
    ----------
    log2_size
        log2 of the median total count over the panel that means are meant to be at.
    bias
        By how much the library sizes of left-out training sections exceed those of their predicted means, on average.
    """

    log2_size: float
    bias: float

    @classmethod
    def fit(cls, means: Sequence[np.ndarray], log2_size: float) -> SizeGauge:
        """Calibrate on out-of-fold means ``(n_s, G)`` of sections whose counts were scaled to ``log2_size``."""
        return cls(log2_size, float(np.mean([log2_size - cls(log2_size, 0.0).read(mean) for mean in means])))

    def read(self, mean: np.ndarray) -> float:
        """Return the library size that means ``(n, G)`` at a section's spots amount to."""
        totals = count_rate(mean).sum(axis=1)
        return float(np.log2(np.median(totals[totals > 0]))) + self.bias if (totals > 0).any() else self.log2_size

    def shift(self, spots_mean: np.ndarray) -> float:
        """Return what brings means to ``log2_size``, in octaves, from those at the section's spots."""
        return float(np.clip(self.log2_size - self.read(spots_mean), -_MAX_SHIFT, _MAX_SHIFT))

    def align(self, mean: np.ndarray, spots_mean: np.ndarray) -> np.ndarray:
        """Bring means to ``log2_size``, by what those at the section's spots amount to."""
        return count_mean(mean, self.shift(spots_mean))


@dataclass(frozen=True)
class Summary:
    """What the flow sees of a location: leading components of the predicted mean, standardised.

    The image speaks through the predicted mean only. A flow that sees the embedding itself learns the training
    sections by heart, some 500 spots being few.
    """

    center: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, held_out: np.ndarray, spread: np.ndarray, n: int) -> Summary:
        """Find the components of out-of-fold means ``(n, G)``, in units of each gene's residual sd ``(G,)``."""
        center = held_out.mean(axis=0)
        scaled = (held_out - center) / spread
        _, values, axes = np.linalg.svd(scaled, full_matrices=False)
        k = max(1, min(n, int((values > 1e-6 * max(values[0], 1e-12)).sum())))
        sd = np.maximum(values[:k] / np.sqrt(len(scaled)), 1e-12)
        return cls(center, (axes[:k] / sd[:, None]).T / spread[:, None])

    def __call__(self, mean: np.ndarray) -> np.ndarray:
        """Summarise means ``(n, G)``, clipped where they are far from all that was trained on; float32 ``(n, C)``."""
        return np.clip((mean - self.center) @ self.axes, -4, 4).astype(np.float32)


class FactorModel:
    """Expression as conditional mean, flow over factors, and counts.

    Attributes
    ----------
    mean, gauge, summary, factors, flow
        The parts.
    log2_size
        log2 of the median total count over the panel of a usual section, to predict at where nothing else is known.
    local
        How expression is spread inside footprints; None where no dense embedding was to be had.
    """

    def __init__(
        self,
        config: FactorConfig,
        mean: ConditionalMean,
        gauge: SizeGauge,
        summary: Summary,
        factors: Factors,
        flow: FactorFlow,
        log2_size: float,
        local: LocalRates | None = None,
    ) -> None:
        self.config, self.mean, self.gauge, self.summary = config, mean, gauge, summary
        self.factors, self.flow, self.log2_size, self.local = factors, flow, log2_size, local

    def draws(
        self,
        section: Section,
        locations: Locations,
        *,
        log2_size: float,
        n_draws: int,
        n_steps: int,
        units: str,
        seed: int,
        device: str | None,
    ) -> Iterator[Draw]:
        """Yield draws one at a time."""
        center = self.means(section, locations)
        spots = section.spots
        whole = center if spots is None or spots is locations or not len(spots) else self.means(section, spots)
        center = self.gauge.align(center, whole)
        noise = BlockNoise.at(seed, locations)
        yield from self.draws_around(
            center,
            log2_size=log2_size,
            n_draws=n_draws,
            n_steps=n_steps,
            units=units,
            seed=seed,
            noise=noise,
            device=device,
        )

    def means(self, section: Section, locations: Locations) -> np.ndarray:
        """Return means ``(n, G)`` at the cohort's library size, not aligned."""
        parts = np.split(np.arange(len(locations)), range(_CHUNK, len(locations), _CHUNK))
        return np.concatenate([self.mean(section, locations.take(part)) for part in parts])

    def scores(
        self, center: np.ndarray, start: np.ndarray, draw: int, *, n_steps: int, device: str | None
    ) -> np.ndarray:
        """Carry standard normal ``(n, K)`` to the scores of one draw around aligned means ``(n, G)``."""
        where = resolve_device(device)
        members = np.flatnonzero(self.flow.member_folds.cpu().numpy() < 0)
        flow = self.flow.to(where).take(members[[draw % len(members)]])
        condition = torch.from_numpy(self.summary(center)).to(where)
        sampler = SAMPLERS[self.config.sampler]
        with one_thread():
            scores = flow.sample(condition, torch.from_numpy(start)[None].to(where), n_steps=n_steps, sampler=sampler)
        return scores[0].cpu().numpy()

    def draws_around(
        self,
        center: np.ndarray,
        *,
        log2_size: float,
        n_draws: int,
        n_steps: int,
        units: str,
        seed: int,
        noise: BlockNoise | None = None,
        device: str | None = None,
        members: np.ndarray | None = None,
    ) -> Iterator[Draw]:
        """Yield draws around aligned means ``(n, G)``; by default from the members that saw all spots."""
        where = resolve_device(device)
        flow = self.flow.to(where).eval()
        if members is None:
            members = np.flatnonzero(flow.member_folds.cpu().numpy() < 0)
        flow = flow.take(members)
        rows = np.arange(len(center))
        if noise is None:
            noise = BlockNoise.for_rows(seed, len(center))
        condition = torch.from_numpy(self.summary(center)).to(where)
        shift = log2_size - self.gauge.log2_size
        k = len(self.factors.loadings)
        for first in range(0, n_draws, len(members)):
            group = range(first, min(first + len(members), n_draws))
            start = np.stack([noise.normal(draw, _SCORES, rows, k) for draw in group])
            # Every start goes with its mirror image, whose result serves the mean only.
            both = torch.from_numpy(np.concatenate([start, -start], axis=1)).to(where)
            part = flow if len(group) == len(members) else flow.take(np.arange(len(group)))
            with one_thread():
                scores = part.sample(
                    condition.repeat(2, 1), both, n_steps=n_steps, sampler=SAMPLERS[self.config.sampler]
                )
            for draw, two in zip(group, scores.cpu().numpy()):
                yield self._draw(center, two[: len(rows)], two[len(rows) :], noise, draw, seed, shift, units)

    def _draw(
        self,
        center: np.ndarray,
        scores: np.ndarray,
        mirrored: np.ndarray,
        noise: BlockNoise,
        draw: int,
        seed: int,
        shift: float,
        units: str,
    ) -> Draw:
        factors, rows = self.factors, np.arange(len(center))
        n_genes = center.shape[1]
        # All locations of a section share its offset, whatever tile they are in.
        offset = factors.offset(np.random.default_rng([seed, draw]).standard_normal(len(factors.offsets)))
        specific = factors.specific * noise.normal(draw, _SPECIFIC, rows, n_genes)
        expected = count_rate if units == COUNTS else count_mean
        level = center + offset + scores @ factors.loadings + specific
        opposite = center - offset + mirrored @ factors.loadings - specific
        return Draw(
            count(np.maximum(level, 0), noise.normal(draw, _COUNTING, rows, n_genes), shift),
            (expected(level, shift) + expected(opposite, shift)) / 2,
        )

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and plain settings."""
        arrays, settings = self.mean.state()
        arrays |= {"summary/center": self.summary.center, "summary/axes": self.summary.axes, **self.factors.state()}
        arrays |= {f"flow/{name}": value.cpu().numpy() for name, value in self.flow.state_dict().items()}
        gauge = {"log2_size": self.gauge.log2_size, "bias": self.gauge.bias}
        plain: dict[str, Any] = {"mean": settings, "gauge": gauge, "log2_size": self.log2_size}
        if self.local is not None:
            own, plain["local"] = self.local.state()
            arrays |= own
        return arrays, plain

    @classmethod
    def from_state(
        cls, config: FactorConfig, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> FactorModel:
        """Rebuild what ``state`` described."""
        check_shapes(arrays, _SHAPES)
        factors = Factors.from_state(arrays)
        summary = Summary(arrays["summary/center"], arrays["summary/axes"])
        weights = {n.removeprefix("flow/"): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("flow/")}
        flow = new_flow(config, len(factors.loadings), summary.axes.shape[1], weights["member_folds"])
        flow.load_state_dict(weights)
        mean = ConditionalMean.from_state(arrays, settings["mean"])
        gauge = SizeGauge(**settings["gauge"])
        local = LocalRates.from_state(arrays, settings["local"]) if "local" in settings else None
        return cls(config, mean, gauge, summary, factors, flow, float(settings["log2_size"]), local)


def new_flow(config: FactorConfig, n_factors: int, n_condition: int, member_folds: torch.Tensor) -> FactorFlow:
    """Return a flow with the sizes of a configuration, weights zero."""
    network = StackedMLP(
        len(member_folds),
        n_factors,
        n_condition,
        width=config.width,
        depth=config.depth,
        dropout=config.dropout,
        condition_dropout=config.condition_dropout,
    )
    return FactorFlow(network, member_folds)
