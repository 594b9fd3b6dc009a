"""Samplers: from noise to data along a schedule, whatever the network and its prediction type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from hisdiff._diffusion._prediction_type import PredictionType, clean_value, noise_value

if TYPE_CHECKING:
    from torch import Tensor

    from hisdiff._diffusion._schedule import Schedule

Denoise = Callable[["Tensor", float], "Tensor"]
"""``denoise(x, t)``: the network's output at a noisy ``(B, G)`` and a time; ``(B, G)`` or ``(B, 2, G)``."""
Noise = Callable[[int], "Tensor"]
"""``noise(i)``: standard normal ``(B, G)`` for step i of sampling; 0 is the start, the steps count from 1."""


class Sampler(Protocol):
    """Carry ``start``, a standard normal ``(B, G)``, from the last level of the schedule to clean data ``(B, G)``."""

    def __call__(
        self,
        denoise: Denoise,
        start: Tensor,
        schedule: Schedule,
        *,
        prediction_type: PredictionType = "epsilon",
        noise: Noise | None = None,
    ) -> Tensor: ...


class Network(Protocol):
    """A denoiser that lets what does not depend on the noisy value be computed once."""

    def embed_time(self, t: Tensor) -> Tensor: ...

    def denoise(self, x: Tensor, condition: Tensor) -> Tensor: ...


def denoiser(
    network: Network, schedule: Schedule, condition: Tensor, *, autocast: torch.dtype | None = None
) -> Denoise:
    """Close a network over its condition, for use in a sampler.

    Parameters
    ----------
    network
        Denoiser; ``embed_time`` is evaluated here, once for all levels.
    schedule
        The schedule that will be sampled.
    condition
        ``(B, C)`` output of the conditioner, one row per row of the samples.
    autocast
        Precision of the network's matrix products, e.g. ``torch.bfloat16``; None for that of its weights. The state of
        the sampler stays in the precision of the start noise either way. Processors without instructions for it are
        several times slower in half precision.
    """
    times = [float(t) for t in schedule.times]
    if schedule.clean_time is not None:
        times.append(schedule.clean_time)
    table = network.embed_time(torch.tensor(times, dtype=torch.float32, device=condition.device))
    row_of = {t: row for row, t in enumerate(times)}

    def denoise(x: Tensor, t: float) -> Tensor:
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            return network.denoise(x, table[row_of[t]] + condition).to(x.dtype)

    return denoise


def split_output(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the prediction and, where the network has one, the variance control."""
    return (output, None) if output.ndim == x.ndim else (output[:, 0], output[:, 1])


@dataclass(frozen=True)
class Descent:
    """What a sampler walks down, from the noisiest level to clean data.

    Attributes
    ----------
    denoise, schedule, prediction_type, noise
        The arguments of a ``Sampler``.
    """

    denoise: Denoise
    schedule: Schedule
    prediction_type: PredictionType
    noise: Noise | None

    @property
    def levels(self) -> range:
        """Indices of the levels, the noisiest first."""
        return range(len(self.schedule) - 1, -1, -1)

    def at(self, x: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        """Return clean data as the network predicts it at level i, and its variance control where it has one."""
        output, control = self._output(x, i)
        return clean_value(self.prediction_type, output, x, *self._signal(i)), control

    def both(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Return clean data and noise as the network predicts them at level i; -1 is the clean level."""
        output, signal = self._output(x, i)[0], self._signal(i)
        return clean_value(self.prediction_type, output, x, *signal), noise_value(
            self.prediction_type, output, x, *signal
        )

    def velocity(self, x: Tensor, i: int) -> Tensor:
        """Return the direction from data to noise at level i; -1 is the clean level."""
        if self.prediction_type == "velocity":
            return self._output(x, i)[0]
        clean, noise = self.both(x, i)
        return noise - clean

    def span(self, i: int) -> float:
        """Return the signed length of the step down from level i of a straight path."""
        if abs(self.schedule.alpha[i] + self.schedule.sigma[i] - 1) > 1e-6:
            raise ValueError(
                "Euler and Heun follow straight paths (Schedule.straight); use ddim or dpm++2m for a diffusion."
            )
        return float(self.schedule.below[1][i] - self.schedule.sigma[i])

    def _output(self, x: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        time = self.schedule.times[i] if i >= 0 else self.schedule.clean_time or 0.0
        return split_output(self.denoise(x, float(time)), x)

    def _signal(self, i: int) -> tuple[float, float]:
        return (float(self.schedule.alpha[i]), float(self.schedule.sigma[i])) if i >= 0 else (1.0, 0.0)


def sampler(usual: PredictionType) -> Callable[[Callable[[Descent, Tensor], Tensor]], Sampler]:
    """Make a ``Sampler`` of a function that walks down from a start; ``usual`` is what its networks mostly predict."""

    def made(walk: Callable[[Descent, Tensor], Tensor]) -> Sampler:
        @wraps(walk)
        def sample(
            denoise: Denoise,
            start: Tensor,
            schedule: Schedule,
            *,
            prediction_type: PredictionType = usual,
            noise: Noise | None = None,
        ) -> Tensor:
            return walk(Descent(denoise, schedule, prediction_type, noise), start)

        return sample

    return made


@sampler("epsilon")
def ddpm(path: Descent, x: Tensor) -> Tensor:
    """Ancestral sampling (Ho et al., 2020), with the learned range of variances where the network controls it.

    Without control the variance is that of x_{i-1} given x_0 and x_i.
    """
    if path.noise is None:
        raise ValueError("Ancestral sampling needs a source of noise.")
    schedule = path.schedule
    weight_x0, weight_x = schedule.posterior_mean
    low, high = schedule.log_posterior_variance, schedule.log_betas
    for step, i in enumerate(path.levels, start=1):
        x0, control = path.at(x, i)
        x = float(weight_x0[i]) * x0 + float(weight_x[i]) * x
        if i == 0:
            break
        if control is None:
            x = x + float(np.exp(low[i] / 2)) * path.noise(step)
        else:
            share = (control + 1) / 2
            x = x + torch.exp((share * float(high[i]) + (1 - share) * float(low[i])) / 2) * path.noise(step)
    return x


@sampler("epsilon")
def ddim(path: Descent, x: Tensor) -> Tensor:
    """Deterministic sampling (Song et al., 2021, eta = 0)."""
    below_alpha, below_sigma = path.schedule.below
    for i in path.levels:
        x0, eps = path.both(x, i)
        x = float(below_alpha[i]) * x0 + float(below_sigma[i]) * eps
    return x


@sampler("epsilon")
def dpm_solver_2m(path: Descent, x: Tensor) -> Tensor:
    """DPM-Solver++(2M), second order with one evaluation per step (Lu et al., 2022); the first and last step are of first order."""
    schedule = path.schedule
    below_alpha, below_sigma = schedule.below
    with np.errstate(divide="ignore"):  # pure noise has a log ratio of -inf, clean data of +inf
        upper = np.log(schedule.alpha) - np.log(schedule.sigma)
        lower = np.log(below_alpha) - np.log(below_sigma)
    previous: Tensor | None = None
    for i in path.levels:
        x0, _ = path.at(x, i)
        estimate = x0
        if previous is not None and i > 0:
            # Extrapolate to the middle of this step along the log signal-to-noise ratio; 0 after a step out of pure noise.
            ratio = (lower[i] - upper[i]) / (lower[i + 1] - upper[i + 1])
            estimate = x0 + float(ratio / 2) * (x0 - previous)
        shrink = float(np.exp(upper[i] - lower[i]))
        x = float(below_sigma[i] / schedule.sigma[i]) * x + float(below_alpha[i]) * (1 - shrink) * estimate
        previous = x0
    return x


@sampler("velocity")
def euler(path: Descent, x: Tensor) -> Tensor:
    """First-order integration of the flow dx/dt on a straight path; one evaluation per step."""
    for i in path.levels:
        x = x + path.span(i) * path.velocity(x, i)
    return x


@sampler("velocity")
def heun(path: Descent, x: Tensor) -> Tensor:
    """Second-order integration of the flow (trapezoid rule); two evaluations per step.

    The last step is of first order where the network never saw the clean level.
    """
    for i in path.levels:
        velocity, span = path.velocity(x, i), path.span(i)
        ahead = x + span * velocity
        if i > 0 or (path.schedule.clean_time is not None and path.prediction_type != "sample"):
            velocity = (velocity + path.velocity(ahead, i - 1)) / 2
        x = x + span * velocity
    return x


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm++2m": dpm_solver_2m, "euler": euler, "heun": heun}
"""Samplers by name."""
FLOW_SAMPLERS = ("euler", "heun")
"""Those of flow matching; a network for them is trained on straight paths, for all others on the diffusion."""
