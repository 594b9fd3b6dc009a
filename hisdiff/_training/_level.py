"""How much the levels of genes differ between sections, from the few that there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

# Degrees of freedom that the law of levels has before any section is seen: few, so that its tails are wide.
_PRIOR_FREEDOM = 3.0
# Of what varies inside sections: the level of a new section is never known without its counts.
_MIN = 1e-3
# The same for a single training section, from which variation between sections cannot be estimated.
_ALONE = 0.2


@dataclass(frozen=True)
class Levels:
    """The law of the level of each gene in a section that was not seen: components that genes share, and a rest.

    Attributes
    ----------
    components
        ``(r, G)`` directions.
    shared
        ``(r,)`` variance along them.
    own
        ``(G,)`` variance of each gene beside.
    freedom
        Degrees of freedom of a factor of mean 1 on all variances of a section, by which it is a t law: some sections are
        far from the others in everything.
    """

    components: np.ndarray
    shared: np.ndarray
    own: np.ndarray
    freedom: float

    @property
    def variance(self) -> np.ndarray:
        """``(G,)`` of the level of each gene."""
        return self.shared @ np.square(self.components) + self.own

    def between(self, n_sections: int) -> np.ndarray:
        """``(G,)`` variance between sections, without that of the mean of the training sections."""
        return self.variance / (1 + 1 / n_sections)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return the levels of one section, ``(G,)``."""
        factor = (self.freedom - 2) / rng.chisquare(self.freedom)
        shared = np.sqrt(self.shared) * rng.standard_normal(len(self.shared))
        return np.sqrt(factor) * (shared @ self.components + np.sqrt(self.own) * rng.standard_normal(len(self.own)))

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays."""
        return {"components": self.components, "shared": self.shared, "own": self.own}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], freedom: float) -> Levels:
        """Rebuild what ``state`` described."""
        return cls(arrays["components"], arrays["shared"], arrays["own"], freedom)


def fit_levels(
    components: np.ndarray,
    shared: np.ndarray,
    own: np.ndarray,
    noise: tuple[np.ndarray, np.ndarray],
    scale: np.ndarray,
    n_spots: np.ndarray,
    smooth: tuple[np.ndarray, np.ndarray] | None = None,
) -> Levels:
    """Fit on the mean residuals of left-out sections, which are apart from the mean of all.

    Parameters
    ----------
    components
        ``(r, G)`` directions.
    shared, own
        ``(S, r)`` and ``(S, G)``, mean residual of each section along them, and what that leaves, both of standardized genes.
    noise
        ``(r,)`` and ``(G,)`` variance of the same inside sections: the unit in which all are alike beforehand.
    scale
        ``(G,)`` sd of each gene.
    n_spots
        ``(S,)`` of each section.
    smooth
        ``(r,)`` and ``(G,)`` variance that the mean of a section has from what varies smoothly inside it, beside that of independent
        spots; none by default.
    """
    sampling = float(np.mean(1 / n_spots))
    n = len(n_spots)
    more = smooth or (np.zeros(()), np.zeros(()))
    of_shared, of_own = (_between(of, unit, sampling, extra) for of, unit, extra in zip((shared, own), noise, more))
    levels = Levels(components, of_shared, of_own * np.square(scale), _PRIOR_FREEDOM + n)
    if n < 2:
        return levels
    # Components are orthogonal for standardized genes only: what their levels have in common, and the law has not, would widen it.
    unit_shared, unit_own = (sampling * unit + extra for unit, extra in zip(noise, more))
    inside = unit_shared @ np.square(components) + unit_own * np.square(scale)
    whole = (shared @ components + own * scale).var(axis=0, ddof=1) - inside
    ratio = max(float(whole.sum()), _MIN * float(inside.sum()) / sampling) * (1 + 1 / n) / float(levels.variance.sum())
    return replace(levels, shared=ratio * levels.shared, own=ratio * levels.own)


def _between(of: np.ndarray, unit: np.ndarray, sampling: float, smooth: np.ndarray) -> np.ndarray:
    """Return the variance of the level in a new section for levels ``(S, k)`` of training sections."""
    n = len(of)
    unit = np.maximum(unit, 1e-12)
    if n < 2:
        return _ALONE * unit
    between = moderated(np.square(of - of.mean(axis=0)).sum(axis=0) / (n - 1), unit, n - 1)
    # The mean of the training sections is off as well.
    return np.maximum(between - sampling * unit - smooth, _MIN * unit) * (1 + 1 / n)


def moderated(variances: np.ndarray, unit: np.ndarray, freedom: float) -> np.ndarray:
    """Draw variances ``(k,)``, each with so many degrees of freedom, towards multiples of ``unit``; their sum is kept.

    As far as their own spread is no more than sampling gives: the linear rule of least squared error, whose parts follow
    from the moments of chi-squared variables.
    """
    multiple = variances.sum() / unit.sum()
    if multiple <= 0:
        return variances
    spread = float(np.average(np.square(variances / (multiple * unit)), weights=unit)) - 1
    sampling = 2 / freedom
    own = max((spread - sampling) / (1 + sampling), 0.0)
    weight = own / (own + sampling * (1 + own))
    return weight * variances + (1 - weight) * multiple * unit
