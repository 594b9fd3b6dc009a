"""Samplers: from noise to data along a schedule, whatever the network and its prediction type."""

from __future__ import annotations

from collections.abc import Callable
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


def ddpm(
    denoise: Denoise,
    start: Tensor,
    schedule: Schedule,
    *,
    prediction_type: PredictionType = "epsilon",
    noise: Noise | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., 2020), with the learned range of variances where the network controls it.

    Without control the variance is that of x_{i-1} given x_0 and x_i.
    """
    if noise is None:
        raise ValueError("Ancestral sampling needs a source of noise.")
    weight_x0, weight_x = schedule.posterior_mean
    low, high = schedule.log_posterior_variance, schedule.log_betas
    x = start
    for step, i in enumerate(range(len(schedule) - 1, -1, -1), start=1):
        prediction, control = split_output(denoise(x, float(schedule.times[i])), x)
        x0 = clean_value(prediction_type, prediction, x, float(schedule.alpha[i]), float(schedule.sigma[i]))
        x = float(weight_x0[i]) * x0 + float(weight_x[i]) * x
        if i == 0:
            break
        if control is None:
            x = x + float(np.exp(low[i] / 2)) * noise(step)
        else:
            share = (control + 1) / 2
            x = x + torch.exp((share * float(high[i]) + (1 - share) * float(low[i])) / 2) * noise(step)
    return x


def ddim(
    denoise: Denoise,
    start: Tensor,
    schedule: Schedule,
    *,
    prediction_type: PredictionType = "epsilon",
    noise: Noise | None = None,
) -> Tensor:
    """Deterministic sampling (Song et al., 2021, eta = 0)."""
    below_alpha, below_sigma = schedule.below
    x = start
    for i in range(len(schedule) - 1, -1, -1):
        alpha, sigma = float(schedule.alpha[i]), float(schedule.sigma[i])
        prediction, _ = split_output(denoise(x, float(schedule.times[i])), x)
        x0 = clean_value(prediction_type, prediction, x, alpha, sigma)
        eps = noise_value(prediction_type, prediction, x, alpha, sigma)
        x = float(below_alpha[i]) * x0 + float(below_sigma[i]) * eps
    return x


def dpm_solver_2m(
    denoise: Denoise,
    start: Tensor,
    schedule: Schedule,
    *,
    prediction_type: PredictionType = "epsilon",
    noise: Noise | None = None,
) -> Tensor:
    """DPM-Solver++(2M), second order with one evaluation per step (Lu et al., 2022); the first and last step are of first order."""
    below_alpha, below_sigma = schedule.below
    with np.errstate(divide="ignore"):  # pure noise has a log ratio of -inf, clean data of +inf
        upper = np.log(schedule.alpha) - np.log(schedule.sigma)
        lower = np.log(below_alpha) - np.log(below_sigma)
    x, previous = start, None
    for i in range(len(schedule) - 1, -1, -1):
        prediction, _ = split_output(denoise(x, float(schedule.times[i])), x)
        x0 = clean_value(prediction_type, prediction, x, float(schedule.alpha[i]), float(schedule.sigma[i]))
        estimate = x0
        if previous is not None and i > 0:
            # Extrapolate to the middle of this step along the log signal-to-noise ratio; 0 after a step out of pure noise.
            ratio = (lower[i] - upper[i]) / (lower[i + 1] - upper[i + 1])
            estimate = x0 + float(ratio / 2) * (x0 - previous)
        shrink = float(np.exp(upper[i] - lower[i]))
        x = float(below_sigma[i] / schedule.sigma[i]) * x + float(below_alpha[i]) * (1 - shrink) * estimate
        previous = x0
    return x


def euler(
    denoise: Denoise,
    start: Tensor,
    schedule: Schedule,
    *,
    prediction_type: PredictionType = "velocity",
    noise: Noise | None = None,
) -> Tensor:
    """First-order integration of the flow dx/dt on a straight path; one evaluation per step."""
    x = start
    for i in range(len(schedule) - 1, -1, -1):
        velocity, span = _velocity(denoise, x, schedule, i, prediction_type), _span(schedule, i)
        x = x + span * velocity
    return x


def heun(
    denoise: Denoise,
    start: Tensor,
    schedule: Schedule,
    *,
    prediction_type: PredictionType = "velocity",
    noise: Noise | None = None,
) -> Tensor:
    """Second-order integration of the flow (trapezoid rule); two evaluations per step.

    The last step is of first order where the network never saw the clean level.
    """
    x = start
    for i in range(len(schedule) - 1, -1, -1):
        velocity, span = _velocity(denoise, x, schedule, i, prediction_type), _span(schedule, i)
        ahead = x + span * velocity
        if i > 0 or (schedule.clean_time is not None and prediction_type != "sample"):
            velocity = (velocity + _velocity(denoise, ahead, schedule, i - 1, prediction_type)) / 2
        x = x + span * velocity
    return x


def _velocity(denoise: Denoise, x: Tensor, schedule: Schedule, i: int, prediction_type: PredictionType) -> Tensor:
    """Direction from data to noise at level i; -1 is the clean level."""
    if i >= 0:
        alpha, sigma, time = float(schedule.alpha[i]), float(schedule.sigma[i]), float(schedule.times[i])
    else:
        alpha, sigma, time = 1.0, 0.0, float(schedule.clean_time or 0.0)
    prediction, _ = split_output(denoise(x, time), x)
    if prediction_type == "velocity":
        return prediction
    return noise_value(prediction_type, prediction, x, alpha, sigma) - clean_value(
        prediction_type, prediction, x, alpha, sigma
    )


def _span(schedule: Schedule, i: int) -> float:
    """Signed length of the step down from level i."""
    if abs(schedule.alpha[i] + schedule.sigma[i] - 1) > 1e-6:
        raise ValueError(
            "Euler and Heun follow straight paths (Schedule.straight); use ddim or dpm++2m for a diffusion."
        )
    return float(schedule.below[1][i] - schedule.sigma[i])


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm++2m": dpm_solver_2m, "euler": euler, "heun": heun}
"""Samplers by name."""
FLOW_SAMPLERS = ("euler", "heun")
"""Those of flow matching; a network for them is trained on straight paths, for all others on the diffusion."""
