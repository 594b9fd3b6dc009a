r"""Flow matching over the scores of expression factors, conditioned on morphology.

The path is straight, :math:`x_t = (1 - t) x_0 + t \epsilon`, and the network learns the velocity
:math:`\epsilon - x_0` (Lipman et al., 2023; Liu et al., 2023). Were the scores standard normal and independent of the
image, the best velocity would be known: it is :math:`x_t (2 t - 1) / ((1 - t)^2 + t^2)`. The network adds what differs
from that. Untrained it adds nothing, so that training starts at the Gaussian factor model and learns departures only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hisdiff._diffusion._schedule import Schedule
from hisdiff._training._loop import LossOutput, Validation, generator_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from hisdiff._diffusion._samplers import Sampler
    from hisdiff._nn._mlp import StackedMLP

_TIME_SCALE = 1000.0  # the embedding of times is made for steps up to 1000
# Scores that a look is at: of few spots several times, of many a part.
_LOOK_ROWS = 8000


class FactorFlow(nn.Module):
    """Conditional flows of ``M`` members over the scores of the leading ``K`` factors.

    Parameters
    ----------
    network
        The denoisers.
    member_folds
        ``(M,)`` fold that each member does not see; -1 for a member that sees all spots.
    """

    recordable = True

    def __init__(self, network: StackedMLP, member_folds: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("member_folds", member_folds)
        self.member_folds: Tensor

    @property
    def adds_nothing(self) -> bool:
        """Whether scores are as normal as before training."""
        return not bool(self.network.head.weight.any() or self.network.head.bias.any())

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the mean squared error of the velocity, of all members together.

        ``batch`` holds ``scores`` ``(B, K)``, ``condition`` ``(B, C)`` and ``fold`` ``(B,)``.
        """
        scores = batch["scores"]
        members, rows = len(self.member_folds), len(scores)
        x0 = scores.expand(members, rows, -1)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        # Even coverage of [0, 1] within a batch takes out part of the gradient's noise.
        u = torch.rand((members, 1), generator=generator, device=x0.device)
        order = torch.rand((members, rows), generator=generator, device=x0.device).argsort(dim=1)
        t = (((order + u) / rows) % 1)[..., None]
        x = (1 - t) * x0 + t * noise
        fused = self.network.condition(batch["condition"].expand(members, rows, -1), generator)
        time = self.network.embed_time(_TIME_SCALE * t.reshape(-1)).view(members, rows, -1)
        error = (self.velocity(x, t, fused + time, generator) - (noise - x0)).square().mean(dim=-1)
        seen = (batch["fold"] != self.member_folds[:, None]).to(error.dtype)
        per_member = (error * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        # A sum: members do not share parameters but for the embedding of time, so each has its own gradient.
        return LossOutput(per_member.sum(), {"velocity": per_member.mean()})

    def velocity(
        self, x: Tensor, t: Tensor | float, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the velocity of scores ``(M, n, K)`` at times in [0, 1], under the sum of condition and embedded time."""
        return gaussian_velocity(x, t) + self.network.denoise(x, condition, generator)

    def take(self, members: np.ndarray) -> FactorFlow:
        """Return the given members as a flow of their own."""
        state = {
            name: value if name.startswith("network.time.") else value[members]
            for name, value in self.state_dict().items()
        }
        part = FactorFlow(self.network.like(len(members)), self.member_folds[members]).to(self.member_folds.device)
        part.load_state_dict(state)
        return part.eval()

    @torch.no_grad()
    def sample(self, condition: Tensor, start: Tensor, *, n_steps: int, sampler: Sampler) -> Tensor:
        """Carry noise to scores.

        Parameters
        ----------
        condition
            ``(n, C)`` or ``(M, n, C)``.
        start
            ``(M, n, >= K)`` standard normal, one draw for each member; scores beyond K stay what they are.
        n_steps
            Steps of the solver.
        sampler
            One of ``SAMPLERS`` that follows straight paths.
        """
        members, rows = start.shape[:2]
        k = self.network.sizes["n_values"]
        fused = self.network.condition(condition.expand(members, rows, -1))

        def velocity(x: Tensor, time: float) -> Tensor:
            embedded = self.network.embed_time(torch.full((1,), time, device=x.device))
            return self.velocity(x, time / _TIME_SCALE, fused + embedded)

        path = Schedule.straight(n_steps, _TIME_SCALE)
        carried = sampler(velocity, start[..., :k], path, prediction_type="velocity")
        return torch.cat([carried, start[..., k:]], dim=-1)


@dataclass(frozen=True)
class LeftOut:
    """Spots, on which the members are judged that have not seen them: by the error of velocities.

    Noise and times are the same at every look, so that what differs between two looks is the flow.

    Attributes
    ----------
    scores, condition
        ``(n, K)``, ``(n, C)``.
    fold
        ``(n,)``.
    seed
        Of the noise.
    """

    scores: Tensor
    condition: Tensor
    fold: Tensor
    seed: int

    @torch.no_grad()
    def __call__(self, flow: nn.Module) -> Validation:
        """Return the error over that of the standard normal."""
        assert isinstance(flow, FactorFlow)
        error, normal, folds = 0.0, 0.0, flow.member_folds.tolist()
        for fold in np.unique(self.fold.numpy()).tolist():
            if fold not in folds:
                continue
            rows = torch.from_numpy(self._looked_at(np.flatnonzero(self.fold.numpy() == fold)))
            own, device = flow.take(np.array([folds.index(fold)])), flow.member_folds.device
            generator = generator_for(self.seed, -2, fold)
            noise = torch.randn((len(rows), self.scores.shape[1]), generator=generator).to(device)
            t = (torch.randperm(len(rows), generator=generator) + 0.5)[:, None].to(device) / len(rows)
            x0, condition = self.scores[rows].to(device), self.condition[rows].to(device)
            x = torch.lerp(x0, noise, t)
            told = own.network.condition(condition[None]) + own.network.embed_time(_TIME_SCALE * t[:, 0])
            error += float((own.velocity(x[None], t, told)[0] - (noise - x0)).square().sum())
            normal += float((gaussian_velocity(x, t) - (noise - x0)).square().sum())
        return Validation(error / normal, {})

    def _looked_at(self, rows: np.ndarray) -> np.ndarray:
        n = max(1, _LOOK_ROWS * len(rows) // len(self.fold))
        return rows[np.arange(n) % len(rows)] if len(rows) <= n else rows[np.linspace(0, len(rows) - 1, n).astype(int)]


def gaussian_velocity(x: Tensor, t: Tensor | float) -> Tensor:
    """Return E[noise - x0 | x_t = x] where both are standard normal."""
    return x * ((2 * t - 1) / ((1 - t) ** 2 + t**2))
