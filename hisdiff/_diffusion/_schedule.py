"""Noise schedules: how much signal and how much noise a value holds at each level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""A Gaussian path from data to noise, :math:`x_i = \alpha_i x_0 + \sigma_i \epsilon`, at ``n`` levels.

    Level 0 holds the least noise. Below it lies the clean level (alpha 1, sigma 0), which is not counted. Diffusion and
    flow matching differ in the path only, so that every sampler works on either.

    Attributes
    ----------
    times
        ``(n,)`` time input of the network at each level.
    alpha, sigma
        float64 ``(n,)`` share of signal and of noise.
    clean_time
        Time input of the network at the clean level; None where it never sees that level.
    """

    times: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    clean_time: float | None = None

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def from_betas(cls, betas: np.ndarray) -> Schedule:
        """Variance-preserving path of a diffusion with noise variance ``betas`` ``(n,)`` added per step."""
        betas = np.asarray(betas, dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas are one row of numbers between 0 and 1.")
        kept = np.cumprod(1 - betas)
        return cls(np.arange(len(betas)), np.sqrt(kept), np.sqrt(1 - kept))

    @classmethod
    def straight(cls, n_steps: int, scale: float = 1.0) -> Schedule:
        """Path of flow matching, alpha = 1 - t and sigma = t, in ``n_steps`` even steps; the time input of the network is ``scale * t``."""
        t = np.arange(1, n_steps + 1) / n_steps
        return cls(scale * t, 1 - t, t, clean_time=0.0)

    def at(self, levels: np.ndarray) -> Schedule:
        """Keep some levels, given as increasing indices."""
        levels = np.asarray(levels)
        if not len(levels) or (np.diff(levels) <= 0).any():
            raise ValueError("Levels to keep are increasing indices, at least one.")
        return Schedule(self.times[levels], self.alpha[levels], self.sigma[levels], self.clean_time)

    def respace(self, n_steps: int) -> Schedule:
        """Keep ``n_steps`` levels, as evenly spaced as whole indices allow, the first and the last among them."""
        return self if n_steps == len(self) else self.at(respaced_levels(len(self), n_steps))

    @cached_property
    def below(self) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and sigma one level further down, the clean level below level 0."""
        return np.concatenate([[1.0], self.alpha[:-1]]), np.concatenate([[0.0], self.sigma[:-1]])

    @cached_property
    def betas(self) -> np.ndarray:
        """Variance that the step up to each level adds: sigma_i^2 - (alpha_i / alpha_j)^2 sigma_j^2 with j = i - 1."""
        alpha, sigma = self.below
        return self.sigma**2 - (self.alpha / alpha) ** 2 * sigma**2

    @cached_property
    def posterior_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of x_0 and x_i in the mean of x_{i-1} given both."""
        alpha, sigma = self.below
        return alpha * self.betas / self.sigma**2, (self.alpha / alpha) * (sigma / self.sigma) ** 2

    @cached_property
    def log_betas(self) -> np.ndarray:
        """Upper end of the range of the reverse variance (log)."""
        return np.log(self.betas)

    @cached_property
    def log_posterior_variance(self) -> np.ndarray:
        """Lower end of the range: log variance of x_{i-1} given x_0 and x_i.

        It is zero at level 0, where the value of level 1 stands in, as in Nichol and Dhariwal (2021).
        """
        variance = self.betas * (self.below[1] / self.sigma) ** 2
        variance[0] = variance[1] if len(variance) > 1 else self.betas[0]
        return np.log(variance)


def linear_betas(n_steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Noise variances that grow evenly (Ho et al., 2020)."""
    return np.linspace(start, end, n_steps)


def respaced_levels(n_levels: int, n_kept: int) -> np.ndarray:
    """Return ``n_kept`` of ``n_levels`` indices, evenly spaced with both ends."""
    if not 1 <= n_kept <= n_levels:
        raise ValueError(f"A schedule of {n_levels} steps can be respaced to 1 to {n_levels} steps, not {n_kept}.")
    if n_kept == 1:
        return np.array([n_levels - 1])
    return np.round(np.arange(n_kept) * ((n_levels - 1) / (n_kept - 1))).astype(np.int64)
