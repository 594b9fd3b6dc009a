r"""Library size, levels and relation to the image of a section, given the counts at some of its spots.

All of it is Gaussian around the prediction of the cohort, on the scale of log2(1 + count) at the library size of the section,
where a difference :math:`\delta` on the cohort's scale shows as :math:`J \delta`: counts of a shallow section hide much of what
is different. First the levels, from the mean residual, whose noise is what genes share at single spots; then the relation, from
what is left of each spot, along directions in which prior and noise are diagonal at once. What of it is a steeper or flatter leading
component is estimated first: a single number, which few spots tell. One factor says how far the section is from those of the cohort, in
levels and in this slope.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hisdiff._stats._counting import count_mean, count_rate, counting_variance
from hisdiff._training._slope import Slope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._training._spread import Library, Spread

# Degrees of freedom of the law of library sizes over sections, and of the totals of single spots around it.
_SECTION_FREEDOM, _SPOT_FREEDOM = 3.0, 4.0
_LIBRARY_NODES = 4001
# By how much levels vary, over what they do in the cohort: octaves that are tried.
_FACTORS = np.exp2(np.arange(-4, 9.1, 0.5))
_LEVEL_TURNS, _RELATION_TURNS, _SLOPE_TURNS = 6, 3, 2
_LONGEST_STEP = 2.0
# Below this mean the logarithm of a count hardly moves with its rate.
_LOWEST = 0.05
_MIN_NOISE = 1e-2
# Noise of a gene that was not measured.
_UNMEASURED = 1e9
# Given spots that are enough: their covariance is decomposed.
_MAX_SPOTS = 1500
# Spots that differ by less are the same.
_SAME_PLACE_UM, _SAME_COMPOSITION = 0.1, 1e-6


@dataclass(frozen=True)
class Given:
    """Measured spots of a section that the cohort does not have.

    Attributes
    ----------
    xy_um
        ``(m, 2)`` places.
    features
        ``(m, p)`` of ``Spread.features``.
    center
        ``(m, G)``, the cohort's mean log2(1 + count), aligned.
    counts
        ``(m, G)``, brought to the median footprint; NaN for genes that were not measured.
    along
        ``(m,)``, the leading component of ``center`` less its mean over the section.
    """

    xy_um: np.ndarray
    features: np.ndarray
    center: np.ndarray
    counts: np.ndarray
    along: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def joined(self, other: Given) -> Given:
        """Return the spots of both; one that is in both weighs once."""
        pairs = zip(self.state().items(), other.state().values())
        both = Given(**{name: np.concatenate([a, b]) for (name, a), b in pairs})
        return both.once()

    def once(self) -> Given:
        """Return the spots in the order of their places, each once, evenly thinned to what is enough."""
        key = np.column_stack([self.xy_um, np.nansum(self.counts, axis=1)])
        rows = np.unique(np.round(key, 3), axis=0, return_index=True)[1]
        rows = rows[:: max(1, -(-len(rows) // _MAX_SPOTS))]
        return Given(**{name: array[rows] for name, array in self.state().items()})

    def has(self, xy_um: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        """Return which spots are among these, ``(n,)``: by place, and by composition where there are counts ``(n, G)``.

        Sections on the same kind of array have spots at the same places.
        """
        distance, row = cKDTree(self.xy_um).query(xy_um)
        same = distance < _SAME_PLACE_UM
        if counts is None:
            return same
        known = np.isfinite(counts).all(axis=0) & np.isfinite(self.counts).all(axis=0)
        own, other = (values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
                      for values in (self.counts[row][:, known], counts[:, known]))  # fmt: skip
        return same & (np.abs(own - other).max(axis=1, initial=0) < _SAME_COMPOSITION)

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Given:
        """Rebuild what ``state`` described."""
        return cls(**arrays)


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


@dataclass(frozen=True)
class RelationPosterior:
    """The relation given spots, along directions in which it has unit prior scale and noise of its own.

    Attributes
    ----------
    directions
        ``(r, G)`` to expression.
    features
        ``(m, p)`` of the given spots, from whose mean the relation is measured.
    axes, values
        ``(m, m)``, ``(m,)`` eigenvectors of its prior covariance between them.
    noise
        ``(r,)`` noise variance of a spot along each direction.
    observed
        ``(m, r)`` the relation at the spots as they show it, noise included.
    """

    directions: np.ndarray
    features: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    noise: np.ndarray
    observed: np.ndarray

    def mean(self, covariance: np.ndarray, observed: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean, ``(n, r)``, at locations of this covariance ``(n, m)`` with the given spots."""
        along = self.axes.T @ (self.observed if observed is None else observed)
        return covariance @ (self.axes @ (along / (self.values[:, None] + self.noise)))

    def reduction(self, covariance: np.ndarray) -> np.ndarray:
        """Return by how much the given spots make the variance smaller, ``(n, r)``."""
        return np.square(covariance @ self.axes) @ (1 / (self.values[:, None] + self.noise))


@dataclass(frozen=True)
class Posterior:
    """What is known of a section after some of its spots.

    Attributes
    ----------
    shift
        log2 of its library size over the cohort's scale.
    level, slope, relation
        See their classes.
    xy_um
        ``(m, 2)`` places of the spots.
    """

    shift: float
    level: LevelPosterior
    slope: Slope
    relation: RelationPosterior
    xy_um: np.ndarray


def posterior_of(spread: Spread, given: Given) -> Posterior:
    """Return the posterior given spots."""
    there = np.isfinite(given.counts).all(axis=0)
    expected = count_rate(given.center[:, there]).sum(axis=1)
    totals = np.log2(np.maximum(given.counts[:, there].sum(axis=1), 1)) - np.log2(1e-9 + expected)
    shift = library_shift(spread.library, totals)
    measured = np.where(there, np.log2(1 + np.where(there, given.counts, 0)), np.nan)
    prior = _Prior.of(spread, given.features)
    slope = Slope(0.0, spread.slope)
    for turn in range(_SLOPE_TURNS + 1):
        center = given.center + slope.level(given.along, spread.directions[0])
        level = _level_of(spread, measured, center, shift, prior.amount, slope, float(given.along.mean()))
        relation, toward = _relation_of(spread, given.features, measured, center + level.mean, shift, prior)
        if turn < _SLOPE_TURNS:
            slope = _slope_of(spread, given.along, relation, toward, slope, level.factor)
    return Posterior(shift, level, slope, relation, given.xy_um)


def library_shift(library: Library, totals: np.ndarray) -> float:
    """Return the most probable library size of a section, log2 against the cohort's scale.

    Parameters
    ----------
    library
        The law beforehand.
    totals
        ``(m,)`` log2 of measured over predicted totals of spots; with few of them one may be far off by chance.
    """
    ends = np.concatenate([totals, [library.mean]])
    grid = np.linspace(ends.min() - 0.5, ends.max() + 0.5, _LIBRARY_NODES)
    of_section = (_SECTION_FREEDOM + 1) / 2 * np.log1p(np.square((grid - library.mean) / library.sd) / _SECTION_FREEDOM)
    away = np.square((totals[:, None] - grid) / library.spot_sd)
    of_spots = (_SPOT_FREEDOM + 1) / 2 * np.log1p(away / _SPOT_FREEDOM).sum(axis=0)
    return float(grid[np.argmin(of_section + of_spots)])


class _Prior(NamedTuple):
    """What is expected of the relation at given spots, about its mean over them.

    Attributes
    ----------
    covariance, axes, values
        ``(m, m)`` and its eigenvectors and eigenvalues.
    amount
        Variance at a spot.
    """

    covariance: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    amount: float

    @classmethod
    def of(cls, spread: Spread, features: np.ndarray) -> _Prior:
        covariance, m = _centered(spread.relation.covariance(features, features)), len(features)
        values, axes = np.linalg.eigh(covariance)
        values = np.maximum(values, 0)
        usual = spread.usual + spread.relation.kappa
        return cls(covariance, axes, values, float(values.sum()) / (m - 1) if m > 1 else usual)


def _level_of(
    spread: Spread,
    measured: np.ndarray,
    center: np.ndarray,
    shift: float,
    amount: float,
    slope_of_section: Slope,
    along: float,
) -> LevelPosterior:
    """Return the levels, and by which factor this section's vary more than the cohort's do; ``along`` is of the mean spot."""
    levels, factors, m = spread.levels, spread.factors, len(measured)
    shared = np.sqrt(levels.shared)[:, None] * levels.components
    relation = np.sqrt(spread.relation.scale * amount)[:, None] * spread.directions
    steeper = np.sqrt(slope_of_section.variance) * along * spread.directions[:1]
    noise = np.concatenate([np.concatenate([factors.loadings, relation]) / np.sqrt(m), steeper])
    freedom = levels.freedom
    mean = np.zeros(measured.shape[1])
    for _ in range(_LEVEL_TURNS):
        expected = np.maximum(center + mean, 0)
        found = count_mean(expected, shift)
        slope = np.maximum(slope_of(expected, shift).mean(axis=0), 1e-3)
        rest = (np.square(factors.specific * slope) + counting_variance(found).mean(axis=0) + _MIN_NOISE / 10) / m
        residual, rest = _without((measured - found).mean(axis=0) + slope * mean, rest)
        best = -np.inf
        for factor in _FACTORS:
            solver = _Solver(slope, np.sqrt(factor) * shared, factor * levels.own, noise * slope, rest)
            # The law of the factor beforehand: inverse gamma, of mean 1.
            prior = -freedom / 2 * np.log(factor) - (freedom - 2) / (2 * factor)
            if (evidence := solver.evidence(residual) + prior) > best:
                best, chosen, chosen_factor = evidence, solver, float(factor)
        mean = mean + np.clip(chosen.level(residual) - mean, -_LONGEST_STEP, _LONGEST_STEP)
    return LevelPosterior(mean, chosen.variance(), chosen_factor, chosen)


def _relation_of(
    spread: Spread, features: np.ndarray, measured: np.ndarray, center: np.ndarray, shift: float, prior: _Prior
) -> tuple[RelationPosterior, np.ndarray]:
    """Return the relation, by Gauss-Newton steps on the scale that is measured, and what brings expression to its directions, ``(G, r)``."""
    factors, root = spread.factors, np.sqrt(spread.relation.scale)
    scaled = root[:, None] * spread.directions
    relation = np.zeros_like(measured)
    for _ in range(_RELATION_TURNS):
        expected = np.maximum(center + relation, _LOWEST)
        found = count_mean(expected, shift)
        slope = np.sqrt(np.square(slope_of(expected, shift)).mean(axis=0))
        residual, rest = _without(
            measured - found + relation * slope,
            np.square(factors.specific * slope) + counting_variance(found).mean(axis=0) + _MIN_NOISE,
        )
        residual = residual - residual.mean(axis=0)
        shared = factors.loadings * slope
        shown = scaled * slope
        weighed = shown / rest
        inner = np.eye(len(shared)) + (shared / rest) @ shared.T
        weighed = weighed - (weighed @ shared.T) @ np.linalg.solve(inner, shared / rest)
        precision, turn = np.linalg.eigh(weighed @ shown.T)
        precision = np.maximum(precision, 1e-9)
        toward = weighed.T @ turn / precision
        posterior = RelationPosterior(
            turn.T @ scaled, features, prior.axes, prior.values, 1 / precision, residual @ toward
        )
        relation = posterior.mean(prior.covariance) @ posterior.directions
    return posterior, slope[:, None] * toward


def _slope_of(
    spread: Spread, along: np.ndarray, relation: RelationPosterior, toward: np.ndarray, before: Slope, factor: float
) -> Slope:
    """Return the slope, from the differences between spots that the relation, as noise, and the slope of ``before`` leave."""
    weight = 1 / (relation.values[:, None] + relation.noise)
    shown = np.multiply.outer(relation.axes.T @ (along - along.mean()), spread.directions[0] @ toward)
    left = relation.axes.T @ relation.observed + before.mean * shown
    variance = 1 / (float((weight * np.square(shown)).sum()) + 1 / (factor * spread.slope))
    return Slope(variance * float((weight * shown * left).sum()), variance)


def _without(residual: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals and noise in which genes that were not measured, NaN, carry no information."""
    there = np.isfinite(residual if residual.ndim == 1 else residual[0])
    return np.where(there, residual, 0), np.where(there, noise, _UNMEASURED)


def slope_of(mean: np.ndarray, shift: float, step: float = 0.05) -> np.ndarray:
    """Return by how much the mean of log2(1 + count) at another library size moves with that at the cohort's."""
    mean = np.maximum(mean, step)
    return (count_mean(mean + step, shift) - count_mean(mean - step, shift)) / (2 * step)


def _centered(matrix: np.ndarray) -> np.ndarray:
    rows = matrix.mean(axis=0)
    return matrix - rows - rows[:, None] + rows.mean()
