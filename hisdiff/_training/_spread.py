r"""What the expression of a section may differ by from the mean of the cohort, in parts, each fitted on left-out sections.

.. math:: x_n = m(f_n) + b_s + r_s(f_n) + e_n

The level b of a section (:mod:`._level`), what is open about the relation to the image (:mod:`._relation`), and factors,
gene-specific spread and counting (:mod:`._factors`). A draw shares the first two over the whole section. A part of the relation that a few
spots tell is how steep the leading component of expression is (:mod:`._slope`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._stats._accuracy import gene_blocks
from hisdiff._stats._counting import count_rate
from hisdiff._stats._pca import right_axes
from hisdiff._training._factors import Factors, fit_factors, matched, sized
from hisdiff._training._features import Features
from hisdiff._training._level import Levels, fit_levels
from hisdiff._training._relation import Relation, fit_relation
from hisdiff._training._slope import fit_slope
from hisdiff._training._smooth import share_of_means, smoothness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hisdiff._json import Plain, State
    from hisdiff._training._spots import TrainingSpots

# Of expression; what lies beyond is noise of counting.
MAX_COMPONENTS = 40
_MIN_SPREAD = 1e-3
# Sections at least this deep, as part of the deepest, are used for residuals: those of others are mostly the noise of few counts.
_DEEP = 0.5
# Octaves, sd: sections of one laboratory have library sizes this alike at least, and from a single one this cannot be estimated.
_MIN_LIBRARY_SD, _LONE_LIBRARY_SD = 0.1, 0.5
_MIN_TOTAL_SD = 0.1
# Spots whose counts are worked on at once.
_ROWS = 1024


@dataclass(frozen=True)
class Axes:
    """Principal axes of standardized expression, weighted, at most 40.

    Attributes
    ----------
    axes
        ``(r, G)``, orthonormal.
    center, scale
        ``(G,)`` mean and sd of each gene.
    """

    axes: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, spots: TrainingSpots) -> Axes:
        """Find them in the centered targets of training spots."""
        total, blocks = spots.weight.sum(), list(gene_blocks(*spots.centered.shape))
        center = np.concatenate([spots.weight @ spots.centered[:, genes] for genes in blocks]) / total
        away = spots.centered - center.astype(np.float32)
        away *= np.sqrt(spots.weight, dtype=np.float32)[:, None]
        squares = [np.square(away[:, genes], dtype=np.float64).sum(axis=0) for genes in blocks]
        scale = np.maximum(np.sqrt(np.concatenate(squares) / total), _MIN_SPREAD)
        away /= scale.astype(np.float32)
        return cls(right_axes(away, MAX_COMPONENTS), center, scale)

    @property
    def directions(self) -> np.ndarray:
        """``(r, G)`` from components to expression."""
        return self.axes * self.scale

    def components(self, values: np.ndarray) -> np.ndarray:
        """Return the components, ``(n, r)``, of differences of expression ``(n, G)``."""
        return values @ (self.axes / self.scale).T


@dataclass(frozen=True)
class Library:
    """The law of library sizes, log2 against that of the cohort's scale, before any count of a section is known.

    Attributes
    ----------
    mean, sd
        Over sections; the law is a t law with few degrees of freedom.
    spot_sd
        By how much the total of a spot differs from what is predicted.
    """

    mean: float
    sd: float
    spot_sd: float

    @classmethod
    def fit(cls, spots: TrainingSpots, held_out: np.ndarray) -> Library:
        """Fit on sections and left-out predictions ``(n, G)`` at the library size of ``spots``."""
        apart = np.asarray(spots.log2_sizes) - spots.log2_size
        sd = float(apart.std(ddof=1)) if len(apart) > 1 else _LONE_LIBRARY_SD
        blocks = [slice(start, start + _ROWS) for start in range(0, len(held_out), _ROWS)]
        measured = np.concatenate([np.exp2(spots.targets[rows]).sum(axis=1, dtype=np.float64) for rows in blocks])
        predicted = np.concatenate([count_rate(held_out[rows]).sum(axis=1) for rows in blocks])
        totals = np.log2(measured) - np.log2(1 + predicted)
        away = np.concatenate(
            [totals[spots.section == s] - np.median(totals[spots.section == s]) for s in np.unique(spots.section)]
        )
        spot_sd = float(np.median(np.abs(away)) / 0.6745)
        return cls(float(np.median(apart)), max(sd, _MIN_LIBRARY_SD), max(spot_sd, _MIN_TOTAL_SD))


@dataclass(frozen=True)
class Spread:
    """The parts.

    Attributes
    ----------
    features
        Of locations, which the relation is a function of.
    directions
        ``(r, G)`` from components of the relation to expression.
    relation, levels, factors, library
        See their classes.
    scale
        ``(G,)`` sd of each gene in the cohort.
    usual
        What is open of the relation on left-out training tissue, on average.
    smooth, smooth_um
        Part of the variance of scores that varies smoothly in space, and over which distance.
    slope
        Variance over sections of how much steeper the leading component is than predicted.
    """

    features: Features
    directions: np.ndarray
    relation: Relation
    levels: Levels
    factors: Factors
    library: Library
    scale: np.ndarray
    usual: float
    smooth: float
    smooth_um: float
    slope: float

    def along(self, center: np.ndarray) -> np.ndarray:
        """Return the leading component, ``(n,)``, of expression ``(n, G)``."""
        return center @ (self.directions[0] / np.square(self.scale))

    def relation_variance(
        self, features: np.ndarray, more: np.ndarray | float = 0.0, own_factor: float = 1.0
    ) -> np.ndarray:
        """Return what is open of the relation at features ``(n, p)`` of a section that was not seen, ``(n, G)``.

        With ``more`` of the cohort's relation open, and a factor on the variance of the section's own.
        """
        own = own_factor * self.relation.kappa * self.relation.kernel.diagonal(features)
        amount = self.relation.uncertainty(features) + own + more
        return amount[:, None] * (self.relation.scale @ np.square(self.directions))

    def state(self) -> State:
        """Return arrays and plain settings."""
        parts = {"features": self.features.state(), "relation": self.relation.state()}
        arrays = {f"{part}/{name}": array for part, (of, _) in parts.items() for name, array in of.items()}
        arrays |= {f"levels/{name}": array for name, array in self.levels.state().items()}
        arrays |= {f"factors/{name}": array for name, array in self.factors.state().items()}
        library = {"mean": self.library.mean, "sd": self.library.sd, "spot_sd": self.library.spot_sd}
        plain: Plain = {part: settings for part, (_, settings) in parts.items()}
        plain |= {"library": library, "freedom": self.levels.freedom}
        plain |= {"usual": self.usual, "smooth": self.smooth, "smooth_um": self.smooth_um, "slope": self.slope}
        return arrays | {"directions": self.directions, "scale": self.scale}, plain

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Spread:
        """Rebuild what ``state`` described."""

        def part(name: str) -> dict[str, np.ndarray]:
            return {n.removeprefix(f"{name}/"): a for n, a in arrays.items() if n.startswith(f"{name}/")}

        return cls(
            Features.from_state(part("features"), settings["features"]),
            arrays["directions"],
            Relation.from_state(part("relation"), settings["relation"]),
            Levels.from_state(part("levels"), settings["freedom"]),
            Factors.from_state(part("factors")),
            Library(**settings["library"]),
            arrays["scale"],
            settings["usual"],
            settings["smooth"],
            settings["smooth_um"],
            settings["slope"],
        )


def fit_spread(
    spots: TrainingSpots,
    held_out: np.ndarray,
    axes: Axes,
    features: Features,
    values: np.ndarray,
    *,
    n_factors: int,
    seed: int,
) -> tuple[Spread, np.ndarray, np.ndarray]:
    """Fit on left-out predictions.

    Parameters
    ----------
    spots
        Training spots with their folds.
    held_out
        ``(n, G)``, each predicted by a fit without its fold, aligned to the library size of its section.
    axes
        Of expression.
    features, values
        Of locations, and those of the spots, ``(n, p)``.
    n_factors
        At most.
    seed
        Of what is chosen at random.

    Returns
    -------
    The parts; rows of the spots that the factors were learned from; and the scores of those, as a flow is to draw them, for the leading factors
    that are more than noise.
    """
    deep = np.flatnonzero(spots.weight >= _DEEP * spots.weight.max())
    section = np.unique(spots.section[deep], return_inverse=True)[1]
    fold = np.unique(spots.fold[deep], return_inverse=True)[1]
    rows = slice(None) if len(deep) == len(held_out) else deep  # what is whole need not be copied
    residuals = spots.targets[rows] - held_out[rows]
    components = axes.components(residuals)
    predicted = axes.components(held_out)
    signal = predicted.var(axis=0)
    slope = fit_slope(predicted[deep, 0], components[:, 0], section)
    places = spots.xy_um[deep] / (spots.pitch_um or 4 * spots.radius_um)
    fitted = fit_relation(values[deep], components, signal, fold, section, places, seed)
    n_spots = np.bincount(section)
    level = _means(section, residuals)
    shared = _means(section, components)
    within = residuals
    within -= level[section]
    inside = components - shared[section]
    directions = axes.directions
    own = level / axes.scale - shared @ axes.axes
    beside = [
        (within[:, genes] / axes.scale[genes] - inside @ axes.axes[:, genes]).var(axis=0)
        for genes in gene_blocks(*within.shape)
    ]
    noise = inside.var(axis=0), np.concatenate(beside)
    # What the relation may explain is not drawn a second time.
    whole = np.concatenate([within[:, genes].var(axis=0) for genes in gene_blocks(*within.shape)])
    related = (fitted.share * noise[0]) @ np.square(directions)
    within -= (inside * (1 - np.sqrt(1 - fitted.share))) @ directions
    factors, scores, told = fit_factors(within, held_out[rows], n_factors)
    smooth, smooth_um = smoothness(spots, deep, scores, np.square(factors.loadings).sum(axis=1))
    of_means = None
    if fitted.beside_smooth:  # nor is what the scores of a section have in common
        part = smooth * share_of_means(spots.xy_um[deep], section, smooth_um)
        along = axes.components(factors.loadings)
        rest = factors.loadings / axes.scale - along @ axes.axes
        of_means = part * np.square(along).sum(axis=0), part * np.square(rest).sum(axis=0)
    levels = fit_levels(directions, shared, own, noise, axes.scale, n_spots, of_means)
    found, factors = factors, matched(factors, held_out[rows], related, whole)
    scores = sized(scores, factors, found, held_out[rows], related, axes.scale)
    spread = Spread(
        features,
        directions,
        fitted.relation,
        levels,
        factors,
        Library.fit(spots, held_out),
        axes.scale,
        fitted.usual,
        smooth,
        smooth_um,
        slope,
    )
    return spread, deep, scores[:, :told]


def _means(section: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of rows over each section, ``(S, k)``."""
    return np.stack([values[section == s].mean(axis=0, dtype=np.float64) for s in range(section.max() + 1)])
