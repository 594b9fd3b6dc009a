"""Gaussian diffusion with a learned range of variances: noising, reverse step and losses of the paper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from hisdiff._diffusion._samplers import split_output
from hisdiff._diffusion._schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)


class Reverse(NamedTuple):
    """The reverse step as the network sees it; all ``(B, G)``."""

    mean: Tensor
    log_variance: Tensor
    pred_x0: Tensor


class GaussianDiffusion:
    """Noise and denoise expression vectors on a schedule, with a network that predicts the noise.

    Parameters
    ----------
    schedule
        A schedule, or the noise variances ``(n,)`` of one.
    reference_compat
        Score level 0 as the published code does: by bins of 8-bit images on [-1, 1]. That is unfit for expression and is
        there for checks; otherwise level 0 is scored by the Gaussian density.
    """

    def __init__(self, schedule: Schedule | np.ndarray, *, reference_compat: bool = False) -> None:
        self.schedule = schedule if isinstance(schedule, Schedule) else Schedule.from_betas(schedule)
        self.reference_compat = reference_compat
        self._tables: dict[torch.device, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.schedule)

    def respace(self, n_steps: int) -> GaussianDiffusion:
        """Return the diffusion on ``n_steps`` evenly spaced levels."""
        return GaussianDiffusion(self.schedule.respace(n_steps), reference_compat=self.reference_compat)

    def times(self, t: Tensor) -> Tensor:
        """Return the time input of the network at levels ``(B,)``."""
        return self._table("times", t)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Noise ``x0`` ``(B, G)`` to levels ``t`` ``(B,)``."""
        return self._column("alpha", t) * x0 + self._column("sigma", t) * noise

    def posterior(self, model_output: Tensor, x_t: Tensor, t: Tensor) -> Reverse:
        """Return the reverse step from levels ``t`` ``(B,)``, from the network's output ``(B, 2, G)`` or ``(B, G)``."""
        eps, control = split_output(model_output, x_t)
        x0 = self._column("rise", t) * x_t - self._column("noise_share", t) * eps
        low, high = self._column("log_posterior_variance", t), self._column("log_betas", t)
        if control is None:
            log_variance = low.expand_as(x_t)
        else:
            share = (control + 1) / 2
            log_variance = share * high + (1 - share) * low
        return Reverse(self._mean(x0, x_t, t), log_variance, x0)

    def losses(
        self, model_output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss terms of each location.

        Parameters
        ----------
        model_output
            ``(B, 2, G)``, or ``(B, G)`` without learned variance.
        x0, x_t, noise
            ``(B, G)`` clean expression, its noised form at levels ``t``, and the noise in it.
        t
            ``(B,)`` levels.

        Returns
        -------
        ``(B,)`` mean squared error of the noise, and ``(B,)`` variational bound in bits per gene (None without learned
        variance), which trains the variance only: the mean in it is detached (Nichol and Dhariwal, 2021).
        """
        eps, control = split_output(model_output, x_t)
        mse = (noise - eps).square().mean(-1)
        if control is None:
            return mse, None
        model = self.posterior(torch.stack([eps.detach(), control], dim=1), x_t, t)
        true_mean = self._mean(x0, x_t, t)
        kl = _normal_kl(true_mean, self._column("log_posterior_variance", t), model.mean, model.log_variance)
        score = _binned_log_likelihood if self.reference_compat else _log_likelihood
        likelihood = score(x0, model.mean, model.log_variance)
        bound = torch.where((t == 0)[:, None], -likelihood, kl)
        return mse, bound.mean(-1) / math.log(2)

    def _mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._column("posterior_x0", t) * x0 + self._column("posterior_x", t) * x_t

    def _column(self, name: str, t: Tensor) -> Tensor:
        return self._table(name, t)[:, None]

    def _table(self, name: str, t: Tensor) -> Tensor:
        if t.device not in self._tables:
            s = self.schedule
            weight_x0, weight_x = s.posterior_mean
            arrays = {
                "times": s.times,
                "alpha": s.alpha,
                "sigma": s.sigma,
                "rise": 1 / s.alpha,
                "noise_share": s.sigma / s.alpha,
                "posterior_x0": weight_x0,
                "posterior_x": weight_x,
                "log_betas": s.log_betas,
                "log_posterior_variance": s.log_posterior_variance,
            }
            self._tables[t.device] = {
                key: torch.as_tensor(np.asarray(values, dtype=np.float32), device=t.device)
                for key, values in arrays.items()
            }
        return self._tables[t.device][name][t]


def loss_terms(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    condition: Tensor,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    diffusion: GaussianDiffusion,
) -> tuple[Tensor, Tensor | None]:
    """Return the terms whose sum is the published training loss of each location: noise error and variational bound.

    Parameters
    ----------
    network
        ``network(x_t, times, condition)``, e.g. a ``DiT``.
    condition
        ``(B, C)`` output of the conditioner.
    x0, noise
        ``(B, G)`` clean expression and standard normal noise.
    t
        ``(B,)`` integer levels of ``diffusion``, drawn uniformly.
    diffusion
        The process.

    Returns
    -------
    As ``GaussianDiffusion.losses``.
    """
    x_t = diffusion.q_sample(x0, t, noise)
    output = network(x_t, diffusion.times(t), condition).float()
    return diffusion.losses(output, x0, x_t, t, noise)


def _normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Divergence of the second normal from the first, in nats."""
    gap = log_variance2 - log_variance1
    return 0.5 * (gap - 1 + torch.exp(-gap) + (mean1 - mean2).square() * torch.exp(-log_variance2))


def _log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * (_LOG_2PI + log_variance + (x - mean).square() * torch.exp(-log_variance))


def _binned_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log probability of the bin of half-width 1/255 around x; the bins at -1 and 1 are open outwards."""
    scale = torch.exp(-0.5 * log_variance)
    up, down = scale * (x - mean + 1 / 255), scale * (x - mean - 1 / 255)
    floor = 1e-12
    below_up, below_down = _approximate_cdf(up), _approximate_cdf(down)
    inside = torch.log((below_up - below_down).clamp(min=floor))
    lowest = torch.log(below_up.clamp(min=floor))
    highest = torch.log((1 - below_down).clamp(min=floor))
    return torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))


def _approximate_cdf(z: Tensor) -> Tensor:
    """Standard normal distribution function in the tanh approximation that the published code uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
