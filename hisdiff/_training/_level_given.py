"""Levels of a section, given the mean of the counts at some of its spots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._stats._counting import count_mean, counting_variance

if TYPE_CHECKING:
    from hisdiff._training._spread import Spread

# By how much levels vary, over what they do in the cohort; those that are tried.
_FACTORS = np.exp2(np.arange(-4, 9.1, 0.5))
# Noise of a gene that was not measured.
_UNMEASURED = 1e9
_TURNS, _LONGEST_STEP = 6, 2.0
# Variance that a count has at least beside that of the model.
_MIN_NOISE = 1e-3


@dataclass(frozen=True)
class LevelPosterior:
    """Levels given spots.

    Attributes
    ----------
    mean, variance
        ``(G,)``.
    factor
        On the variances of levels: how far this section is from those of the cohort.
    """

    mean: np.ndarray
    variance: np.ndarray
    factor: float
    _solve: _Solver

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return one draw of the levels, ``(G,)``: a draw of the prior, moved by the posterior mean that its own residual gives."""
        prior, noise = self._solve.draw(rng)
        return self.mean + prior - self._solve.level(self._solve.slope * prior + noise)


@dataclass(frozen=True)
class _Solver:
    """The mean residual of given spots as slope times level plus noise, both low rank plus diagonal."""

    slope: np.ndarray  # (G,)
    shared: np.ndarray  # (r, G) levels that genes share, variance 1
    own: np.ndarray  # (G,) variance of the others
    noise: np.ndarray  # (k, G) noise that genes share, variance 1
    rest: np.ndarray  # (G,) variance of the others

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.concatenate([self.noise, self.shared * self.slope])

    @cached_property
    def _diagonal(self) -> np.ndarray:
        return self.own * np.square(self.slope) + self.rest

    @cached_property
    def _inner(self) -> np.ndarray:
        return np.eye(len(self._rows)) + (self._rows / self._diagonal) @ self._rows.T

    def inverse(self, residual: np.ndarray) -> np.ndarray:
        scaled = residual / self._diagonal
        return scaled - np.linalg.solve(self._inner, self._rows @ scaled) @ self._rows / self._diagonal

    def level(self, residual: np.ndarray) -> np.ndarray:
        """Return the posterior mean of the level, ``(G,)``, for a mean residual."""
        of = self.slope * self.inverse(residual)
        return self.own * of + (self.shared @ of) @ self.shared

    def evidence(self, residual: np.ndarray) -> float:
        log_size = np.log(self._diagonal).sum() + np.linalg.slogdet(self._inner)[1]
        return float(-0.5 * (log_size + residual @ self.inverse(residual)))

    def variance(self) -> np.ndarray:
        """Return the posterior variance of the level, ``(G,)``."""
        # Columns of the covariance of level and residual, gene by gene: own part on the diagonal, shared part low rank.
        low = self._rows / self._diagonal
        kernel = np.linalg.solve(self._inner, low)  # (k, G)
        inverse_diagonal = 1 / self._diagonal - np.einsum("kg,kg->g", low, kernel)
        scaled = self.shared * self.slope  # (r, G)
        applied = scaled / self._diagonal - (scaled @ low.T) @ kernel  # (r, G): shared part times the inverse
        inner = applied @ scaled.T  # (r, r)
        prior = self.own + np.square(self.shared).sum(axis=0)
        own = np.square(self.own * self.slope) * inverse_diagonal
        cross = 2 * self.own * self.slope * np.einsum("rg,rg->g", self.shared, applied)
        both = np.einsum("rg,rs,sg->g", self.shared, inner, self.shared)
        return np.maximum(prior - own - cross - both, 0)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a level of the prior, and noise of the mean residual."""
        n_genes = len(self.own)
        level = rng.standard_normal(len(self.shared)) @ self.shared + np.sqrt(self.own) * rng.standard_normal(n_genes)
        noise = rng.standard_normal(len(self.noise)) @ self.noise + np.sqrt(self.rest) * rng.standard_normal(n_genes)
        return level, noise


def level_given(
    spread: Spread, measured: np.ndarray, center: np.ndarray, shift: float, beside: np.ndarray
) -> LevelPosterior:
    """Return the levels, and by which factor this section's vary more than the cohort's do; ``beside`` ``(k, G)`` is in the mean, with variance 1."""
    levels, factors, m = spread.levels, spread.factors, len(measured)
    shared = np.sqrt(levels.shared)[:, None] * levels.components
    noise = np.concatenate([factors.loadings / np.sqrt(m), beside])
    freedom = levels.freedom
    mean = np.zeros(measured.shape[1])
    for _ in range(_TURNS):
        expected = np.maximum(center + mean, 0)
        found = count_mean(expected, shift)
        slope = np.maximum(response_of(expected, shift).mean(axis=0), 1e-3)
        rest = (np.square(factors.specific * slope) + counting_variance(found).mean(axis=0) + _MIN_NOISE) / m
        residual, rest = without((measured - found).mean(axis=0) + slope * mean, rest)
        best = -np.inf
        for factor in _FACTORS:
            solver = _Solver(slope, np.sqrt(factor) * shared, factor * levels.own, noise * slope, rest)
            # The law of the factor beforehand: inverse gamma, of mean 1.
            prior = -freedom / 2 * np.log(factor) - (freedom - 2) / (2 * factor)
            if (evidence := solver.evidence(residual) + prior) > best:
                best, chosen, chosen_factor = evidence, solver, float(factor)
        mean = mean + np.clip(chosen.level(residual) - mean, -_LONGEST_STEP, _LONGEST_STEP)
    return LevelPosterior(mean, chosen.variance(), chosen_factor, chosen)


def without(residual: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals and noise in which genes that were not measured, NaN, carry no information."""
    there = np.isfinite(residual if residual.ndim == 1 else residual[0])
    return np.where(there, residual, 0), np.where(there, noise, _UNMEASURED)


def response_of(mean: np.ndarray, shift: float, step: float = 0.05) -> np.ndarray:
    """Return by how much the mean of log2(1 + count) at another library size moves with that at the cohort's."""
    mean = np.maximum(mean, step)
    return (count_mean(mean + step, shift) - count_mean(mean - step, shift)) / (2 * step)
