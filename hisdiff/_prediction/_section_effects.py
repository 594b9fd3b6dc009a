"""Levels and relation of one section, before or after some of its spots are known: moments in closed form, and draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff._prediction._field import SmoothNoise

if TYPE_CHECKING:
    from hisdiff._training._given import Posterior
    from hisdiff._training._spread import Spread

MAX_REFERENCES = 300
"""Places of a section from whose mean its relation is measured."""
# What the numbers of a draw are for.
_LEVELS = 7
_UNCOVERED = 5


class Open(NamedTuple):
    """What the level and the relation of a section add at some locations.

    Attributes
    ----------
    mean
        ``(n, G)`` or ``(1, G)``, expected.
    variance
        ``(n, G)``.
    uncertainty
        ``(n,)`` what is not known of the relation, relative to its mean on left-out training tissue.
    """

    mean: np.ndarray
    variance: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True)
class Places:
    """Locations, prepared for many draws.

    Attributes
    ----------
    xy_um, features
        ``(n, 2)``, ``(n, p)``.
    basis
        ``(n, q)`` features in which the prior is diagonal, from the section's mean.
    uncovered
        ``(n,)`` prior variance that the basis does not have.
    along
        ``(n,)`` leading component of the mean, less that of the section; 0 where that is not known.
    """

    xy_um: np.ndarray
    features: np.ndarray
    basis: np.ndarray
    uncovered: np.ndarray
    along: np.ndarray
    _noise: dict[tuple[int, float], SmoothNoise] = field(default_factory=dict, repr=False)

    def take(self, rows: slice) -> Places:
        """Return some of the locations."""
        return Places(self.xy_um[rows], self.features[rows], self.basis[rows], self.uncovered[rows], self.along[rows])

    def noise(self, seed: int, spacing_um: float) -> SmoothNoise:
        """Return noise over the locations, which is laid out once."""
        key = seed, spacing_um
        if key not in self._noise:
            self._noise[key] = SmoothNoise(seed, self.xy_um, spacing_um)
        return self._noise[key]


class SectionEffects:
    """What one section adds to the mean of the cohort.

    Parameters
    ----------
    spread
        The laws.
    reference
        ``(m, p)`` features of places of the section, from whose mean its relation is measured; with spots given, those places of theirs.
    posterior
        Of given spots, or None.
    """

    def __init__(self, spread: Spread, reference: np.ndarray, posterior: Posterior | None = None) -> None:
        self.spread, self.posterior = spread, posterior
        if posterior is not None:
            reference = posterior.reference
        reference = reference[:: max(1, -(-len(reference) // MAX_REFERENCES))]
        relation = spread.relation
        self._reference = reference
        self._center = relation.basis(reference).mean(axis=0)
        self._whole = relation.covariance(reference, reference).mean()
        if posterior is not None:
            self._around = relation.covariance(reference, posterior.relation.features).mean(axis=0)

    @property
    def directions(self) -> np.ndarray:
        """``(r, G)``, from the relation's components of variance C to expression."""
        if self.posterior is not None:
            return self.posterior.relation.directions
        return np.sqrt(self.spread.relation.scale)[:, None] * self.spread.directions

    def at(self, features: np.ndarray, along: np.ndarray | None = None) -> Open:
        """Return moments at features ``(n, p)``, where the leading component differs from its mean over the section by ``along`` ``(n,)``."""
        relation, spread = self.spread.relation, self.spread
        diagonal = (1 + relation.kappa) * relation.kernel.diagonal(features)
        diagonal -= np.square(relation.basis(features)) @ (1 - relation.open)
        around = relation.covariance(features, self._reference).mean(axis=1)
        variance = np.maximum(diagonal - 2 * around + self._whole, 0)
        uncertainty = relation.uncertainty(features) / spread.usual
        squares = np.square(self.directions)
        if self.posterior is None:
            level = spread.levels.variance
            return Open(np.zeros((1, 1)), level + variance[:, None] * squares.sum(axis=0), uncertainty)
        posterior = self.posterior
        with_given = self._with_given(features, posterior)
        left = np.maximum(variance[:, None] - posterior.relation.reduction(with_given), 0)
        steeper = np.zeros(len(features)) if along is None else along, spread.directions[0]
        mean = posterior.level.mean + posterior.relation.mean(with_given) @ posterior.relation.directions
        mean += posterior.slope.level(*steeper)
        weight = squares / np.square(spread.scale)
        weight = weight.sum(axis=1) / weight.sum()
        known = (left @ weight) / np.maximum(variance, 1e-12)
        of_section = posterior.level.variance + posterior.slope.level_variance(*steeper)
        return Open(mean, of_section + left @ squares, uncertainty * known)

    def places(self, xy_um: np.ndarray, features: np.ndarray, along: np.ndarray | None = None) -> Places:
        """Prepare locations ``(n, 2)`` with features ``(n, p)`` for draws; ``along`` as in ``at``."""
        relation = self.spread.relation
        basis = relation.basis(features)
        uncovered = (1 + relation.kappa) * (relation.kernel.diagonal(features) - np.square(basis).sum(axis=1))
        along = np.zeros(len(features)) if along is None else along
        return Places(xy_um, features, basis - self._center, np.maximum(uncovered, 0), along)

    def draw(self, places: Places, seed: int, draw: int) -> np.ndarray:
        """Return what level and relation add in one draw, ``(n, G)``: the same function of place whatever is asked for."""
        rng = np.random.default_rng([seed, draw, _LEVELS])
        relation = self.spread.relation
        weights = rng.standard_normal((len(relation.open), len(relation.scale)))
        weights *= np.sqrt(relation.kappa + relation.open)[:, None]
        drawn = self._prior(places, weights, seed, draw)
        if self.posterior is None:
            return self.spread.levels.draw(rng) + drawn @ self.directions
        posterior = self.posterior
        given = self.places(posterior.xy_um, posterior.relation.features)
        noise = rng.standard_normal((len(given.xy_um), len(relation.scale))) * np.sqrt(posterior.relation.noise)
        simulated = self._prior(given, weights, seed, draw) + noise
        simulated -= simulated.mean(axis=0)
        with_given = self._with_given(places.features, posterior)
        moved = drawn + posterior.relation.mean(with_given, posterior.relation.observed - simulated)
        of_section = posterior.level.draw(rng)
        steeper = posterior.slope.draw(rng).level(places.along, self.spread.directions[0])
        return of_section + steeper + moved @ self.directions

    def _with_given(self, features: np.ndarray, posterior: Posterior) -> np.ndarray:
        """Return the prior covariance of the relation at features ``(n, p)`` with the differences between given spots, ``(n, m)``."""
        between = self.spread.relation.covariance(features, posterior.relation.features) - self._around
        return between - between.mean(axis=1, keepdims=True)

    def _prior(self, places: Places, weights: np.ndarray, seed: int, draw: int) -> np.ndarray:
        noise = places.noise(seed, self.spread.smooth_um)
        white = noise.normal(draw, _UNCOVERED, np.arange(len(places.xy_um)), weights.shape[1])
        return places.basis @ weights + np.sqrt(places.uncovered)[:, None] * white
