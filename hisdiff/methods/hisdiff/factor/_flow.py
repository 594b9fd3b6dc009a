r"""Flow matching over the scores of expression factors, conditioned on morphology.

The path is straight, :math:`x_t = (1 - t) x_0 + t \epsilon`, and the network learns the velocity
:math:`\epsilon - x_0` (Lipman et al., 2023; Liu et al., 2023). Were the scores standard normal and independent of the
image, the best velocity would be known: it is :math:`x_t (2 t - 1) / ((1 - t)^2 + t^2)`. The network adds what differs
from that. Untrained it adds nothing, so that training starts at the Gaussian factor model and learns departures only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hisdiff._diffusion._schedule import Schedule
from hisdiff._training._loop import LossOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from hisdiff._diffusion._samplers import Sampler
    from hisdiff._nn._mlp import StackedMLP

_TIME_SCALE = 1000.0  # the embedding of times is made for steps up to 1000


class FactorFlow(nn.Module):
    """Conditional flows of ``M`` members over ``K`` scores.

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
        velocity = gaussian_velocity(x, t) + self.network.denoise(x, fused + time, generator)
        error = (velocity - (noise - x0)).square().mean(dim=-1)
        seen = (batch["fold"] != self.member_folds[:, None]).to(error.dtype)
        per_member = (error * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        # A sum: members do not share parameters but for the embedding of time, so each has its own gradient.
        return LossOutput(per_member.sum(), {"velocity": per_member.mean()})

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
            ``(M, n, K)`` standard normal, one draw for each member.
        n_steps
            Steps of the solver.
        sampler
            One of ``SAMPLERS`` that follows straight paths.
        """
        members, rows = start.shape[:2]
        fused = self.network.condition(condition.expand(members, rows, -1))

        def velocity(x: Tensor, time: float) -> Tensor:
            embedded = self.network.embed_time(torch.full((1,), time, device=x.device))
            return gaussian_velocity(x, time / _TIME_SCALE) + self.network.denoise(x, fused + embedded)

        return sampler(velocity, start, Schedule.straight(n_steps, _TIME_SCALE), prediction_type="velocity")


def gaussian_velocity(x: Tensor, t: Tensor | float) -> Tensor:
    """Return E[noise - x0 | x_t = x] where both are standard normal."""
    return x * ((2 * t - 1) / ((1 - t) ** 2 + t**2))
