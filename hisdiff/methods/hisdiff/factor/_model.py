"""The `fast` model: a closed-form conditional mean, a flow over the factors of its residuals, and counting noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hisdiff._device import one_thread, resolve_device
from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._nn._mlp import StackedMLP
from hisdiff._nn._weights import load_weights, weights_of
from hisdiff._prediction._cohort_model import SHAPES, CohortModel
from hisdiff._stats._pca import leading
from hisdiff._training._checkpoint import check_shapes
from hisdiff.methods.hisdiff.factor._flow import FactorFlow
from hisdiff.methods.hisdiff.factor._local import LocalRates
from hisdiff.methods.hisdiff.factor._mean import ConditionalMean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import State
    from hisdiff.methods.hisdiff.factor.config import FactorConfig


# Sizes of the arrays of a saved model: genes, inputs of the flow.
_SHAPES = {"summary/center": "G", "summary/axes": "G C", "mean/intercept": "G"}


@dataclass(frozen=True)
class Summary:
    """What the flow sees of a location: leading components of the predicted mean, standardised.

    The image enters through the predicted mean only: on some 500 spots a flow that sees the embedding itself overfits.
    """

    center: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, held_out: np.ndarray, spread: np.ndarray, n: int) -> Summary:
        """Find the components of out-of-fold means ``(n, G)``, in units of each gene's residual sd ``(G,)``."""
        center = held_out.mean(axis=0)
        scaled = (held_out - center) / spread
        squares, axes = leading(scaled, n)
        k = max(1, int((squares > 1e-12 * max(squares[0], 1e-24)).sum()))
        sd = np.maximum(np.sqrt(squares[:k] / len(scaled)), 1e-12)
        return cls(center, (axes[:k] / sd[:, None]).T / spread[:, None])

    def __call__(self, mean: np.ndarray) -> np.ndarray:
        """Summarise means ``(n, G)``, clipped where they are far from all that was trained on; float32 ``(n, C)``."""
        return np.clip((mean - self.center) @ self.axes, -4, 4).astype(np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorModel(CohortModel):
    """Expression as conditional mean, what sections differ in, a flow over factors, and counts.

    Attributes
    ----------
    config, summary, flow
        Settings, what the flow sees of a location, and the flow.
    local
        How expression is spread inside footprints; None where there was no dense embedding.
    """

    mean: ConditionalMean
    config: FactorConfig
    summary: Summary
    flow: FactorFlow
    local: LocalRates | None = None

    def scores(
        self, center: np.ndarray, start: np.ndarray, draw: int, *, n_steps: int | None, device: str | None
    ) -> np.ndarray:
        """Carry standard normal ``(n, K)`` to the scores of one draw around means ``(n, G)``."""
        members = np.flatnonzero(self.flow.member_folds.cpu().numpy() < 0)
        return self.scores_of(members[[draw % len(members)]], center, start, n_steps=n_steps, device=device)

    def scores_of(
        self, members: np.ndarray, center: np.ndarray, start: np.ndarray, *, n_steps: int | None, device: str | None
    ) -> np.ndarray:
        """Carry standard normal ``(n, K)`` to scores by one member of the flow, ``(1,)``."""
        if self.flow.adds_nothing:
            return start.astype(np.float32)
        where = resolve_device(device)
        flow = self.flow.to(where).eval().take(members)
        condition = torch.from_numpy(self.summary(center)).to(where)
        steps = self.config.n_steps if n_steps is None else n_steps
        with one_thread(where):
            begin = torch.from_numpy(start.astype(np.float32))[None].to(where)
            scores = flow.sample(condition, begin, n_steps=steps, sampler=SAMPLERS[self.config.sampler])
        return scores[0].cpu().numpy()

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays, plain = super().state()
        arrays |= {"summary/center": self.summary.center, "summary/axes": self.summary.axes}
        arrays |= weights_of(self.flow, "flow/")
        if self.local is not None:
            own, plain["local"] = self.local.state()
            arrays |= own
        return arrays, plain

    @classmethod
    def from_state(
        cls, config: FactorConfig, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> FactorModel:
        """Rebuild what ``state`` described."""
        check_shapes(arrays, _SHAPES | SHAPES)
        parts = cls.parts_of(arrays, settings)
        summary = Summary(arrays["summary/center"], arrays["summary/axes"])
        member_folds = torch.from_numpy(arrays["flow/member_folds"])
        n_factors = arrays["flow/network.enter.weight"].shape[1]
        flow = new_flow(config, n_factors, summary.axes.shape[1], member_folds)
        load_weights(flow, arrays, "flow/")
        mean = ConditionalMean.from_state(arrays, settings["mean"])
        local = LocalRates.from_state(arrays, settings["local"]) if "local" in settings else None
        return cls(config=config, mean=mean, summary=summary, flow=flow, local=local, **parts)


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
