r"""Library size, levels and relation to the image of a section, given the counts at some of its spots.

All of it is Gaussian around the prediction of the cohort, on the scale of log2(1 + count) at the library size of the section,
where a difference :math:`\delta` on the cohort's scale shows as :math:`J \delta`: counts of a shallow section hide much of what
is different. Levels come from the mean residual, whose noise is what genes share at single spots; the relation from
what is left of each spot, along directions in which prior and noise are diagonal at once; and of the relation first how steep the leading
component is, a single number, which few spots tell. One factor says how far levels and this slope are from those of the cohort. As levels
are those of the whole section, the relation is what differs from its mean over the section: what it adds to the mean of the given spots,
which may be unlike the others, is taken from their mean residual, as far as it is known. Hence a few turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hisdiff._stats._counting import count_mean, count_rate, counting_variance
from hisdiff._training._level_given import LevelPosterior, level_given, response_of, without
from hisdiff._training._slope import Slope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._training._spread import Library, Spread

# Degrees of freedom of the law of library sizes over sections, and of the totals of single spots around it.
_SECTION_FREEDOM, _SPOT_FREEDOM = 3.0, 4.0
_LIBRARY_NODES = 4001
_RELATION_TURNS, _SLOPE_TURNS = 3, 2
# Below this mean the logarithm of a count hardly moves with its rate.
_LOWEST = 0.05
_MIN_NOISE = 1e-2
# Given spots that are enough: their covariance is decomposed.
_MAX_SPOTS = 1500
# Spots that differ by less are the same.
_SAME_PLACE_UM, _SAME_COMPOSITION, _SAME_FEATURES = 0.1, 1e-6, 1e-5


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
    reference
        ``(q, p)`` features of places of the section, from whose mean its relation to the image is measured.
    """

    xy_um: np.ndarray
    features: np.ndarray
    center: np.ndarray
    counts: np.ndarray
    along: np.ndarray
    reference: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    def joined(self, other: Given) -> Given:
        """Return the spots of both; one that is in both weighs once."""
        pairs = zip(self.state().items(), other.state().values())
        both = Given(**{name: np.concatenate([a, b]) for (name, a), b in pairs})
        return replace(both, reference=np.unique(both.reference, axis=0)).once()

    def once(self) -> Given:
        """Return the spots in the order of their places, each once, evenly thinned to what is enough."""
        key = np.column_stack([self.xy_um, np.nansum(self.counts, axis=1)])
        rows = np.unique(np.round(key, 3), axis=0, return_index=True)[1]
        rows = rows[:: max(1, -(-len(rows) // _MAX_SPOTS))]
        of_spots = {name: array[rows] for name, array in self.state().items() if name != "reference"}
        return replace(self, **of_spots)

    def has(self, xy_um: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        """Return which spots are among these, ``(n,)``: by place, and by composition where there are counts ``(n, G)``.

        Sections on the same kind of array have spots at the same places.
        """
        near = cKDTree(self.xy_um).query_ball_point(np.asarray(xy_um), _SAME_PLACE_UM)
        same = np.array([bool(rows) for rows in near], dtype=bool)
        if counts is None:
            return same
        known = np.isfinite(counts).all(axis=0) & np.isfinite(self.counts).all(axis=0)
        own, other = (values[:, known] / np.maximum(values[:, known].sum(axis=1, keepdims=True), 1e-12)
                      for values in (self.counts, counts))  # fmt: skip
        for row in np.flatnonzero(same):
            same[row] = np.abs(own[near[row]] - other[row]).max(axis=1, initial=0).min() < _SAME_COMPOSITION
        return same

    def is_like(self, features: np.ndarray) -> np.ndarray:
        """Return which features ``(n, p)`` are those of one of these spots: sections on one kind of array share places, not images."""
        apart = cKDTree(self.features).query(features)[0]
        return apart < _SAME_FEATURES * np.maximum(np.linalg.norm(features, axis=1), 1e-12)

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> Given:
        """Rebuild what ``state`` described."""
        return cls(**arrays)


@dataclass(frozen=True)
class RelationPosterior:
    """The relation given spots, along directions in which it has unit prior scale and noise of its own.

    Attributes
    ----------
    directions
        ``(r, G)`` to expression.
    features
        ``(m, p)`` of the given spots, between which the relation was observed.
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
    reference
        As in ``Given``.
    """

    shift: float
    level: LevelPosterior
    slope: Slope
    relation: RelationPosterior
    xy_um: np.ndarray
    reference: np.ndarray


def posterior_of(spread: Spread, given: Given) -> Posterior:
    """Return the posterior given spots."""
    there = np.isfinite(given.counts).all(axis=0)
    expected = count_rate(given.center[:, there]).sum(axis=1)
    totals = np.log2(np.maximum(given.counts[:, there].sum(axis=1), 1)) - np.log2(1e-9 + expected)
    shift = library_shift(spread.library, totals)
    measured = np.where(there, np.log2(1 + np.where(there, given.counts, 0)), np.nan)
    prior, slope = _Prior.of(spread, given), Slope(0.0, spread.slope)
    # What the relation and the slope add to the mean of the given spots, beyond that of the section.
    steeper = float(given.along.mean()) * spread.directions[:1]
    moved = np.zeros(len(spread.scale))
    open_ = np.sqrt(prior.of_mean * spread.relation.scale)[:, None] * spread.directions
    for turn in range(_SLOPE_TURNS + 1):
        center = given.center + slope.level(given.along, spread.directions[0]) + moved
        beside = np.concatenate([open_, np.sqrt(slope.variance) * steeper])
        level = level_given(spread, measured, center, shift, beside)
        relation, toward = _relation_of(spread, given.features, measured, center + level.mean, shift, prior)
        if turn < _SLOPE_TURNS:
            slope = _slope_of(spread, given.along, relation, toward, slope, level.factor)
            moved = (relation.mean(prior.with_mean) @ relation.directions)[0]
            left = np.maximum(prior.of_mean - relation.reduction(prior.with_mean)[0], 0)
            open_ = np.sqrt(left)[:, None] * relation.directions
    return Posterior(shift, level, slope, relation, given.xy_um, given.reference)


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
    with_mean, of_mean
        ``(1, m)`` covariance with, and variance of, that mean less the mean over the section.
    """

    covariance: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    with_mean: np.ndarray
    of_mean: float

    @classmethod
    def of(cls, spread: Spread, given: Given) -> _Prior:
        between = spread.relation.covariance(given.features, given.features)
        around = spread.relation.covariance(given.reference, given.features).mean(axis=0)
        whole = spread.relation.covariance(given.reference, given.reference).mean()
        with_mean = between.mean(axis=0) - around
        of_mean = max(float(between.mean() - 2 * around.mean() + whole), 0.0)
        covariance = _centered(between)
        values, axes = np.linalg.eigh(covariance)
        return cls(covariance, axes, np.maximum(values, 0), (with_mean - with_mean.mean())[None], of_mean)


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
        response = np.sqrt(np.square(response_of(expected, shift)).mean(axis=0))
        residual, rest = without(
            measured - found + relation * response,
            np.square(factors.specific * response) + counting_variance(found).mean(axis=0) + _MIN_NOISE,
        )
        residual = residual - residual.mean(axis=0)
        shared = factors.loadings * response
        shown = scaled * response
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
    return posterior, response[:, None] * toward


def _slope_of(
    spread: Spread, along: np.ndarray, relation: RelationPosterior, toward: np.ndarray, before: Slope, factor: float
) -> Slope:
    """Return the slope, from the differences between spots that the relation, as noise, and the slope of ``before`` leave."""
    weight = 1 / (relation.values[:, None] + relation.noise)
    shown = np.multiply.outer(relation.axes.T @ (along - along.mean()), spread.directions[0] @ toward)
    left = relation.axes.T @ relation.observed + before.mean * shown
    variance = 1 / (float((weight * np.square(shown)).sum()) + 1 / (factor * spread.slope))
    return Slope(variance * float((weight * shown * left).sum()), variance)


def _centered(matrix: np.ndarray) -> np.ndarray:
    rows = matrix.mean(axis=0)
    return matrix - rows - rows[:, None] + rows.mean()
