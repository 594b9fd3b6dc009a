"""Conditional mean of expression given morphology: kernel ridge regression, chosen and cross-fitted over left-out tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff.methods._ridge_features import Projection, TrainingSpots
from hisdiff.methods._ridge_path import Moments, held_out_correlations, solve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hisdiff._section import Locations, Section
    from hisdiff.methods._context import Scaling

# Directions of the landmarks' kernel below this part of the largest are rounding.
_FLAT = 1e-8


@dataclass(frozen=True)
class Features:
    """From a location to what the mean is a function of.

    Attributes
    ----------
    projection
        Principal components of the own embedding and of the means over 9 and over 49 anchors.
    center, scale
        ``(3 k,)``: each component is centred, and each of the three blocks is scaled to mean square length 1 / 3, so that the
        surroundings, whose means vary less, weigh as much as the spot itself.
    """

    projection: Projection
    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, projection: Projection, values: np.ndarray) -> Features:
        """Scale the features ``(n, 3 k)`` of training spots."""
        center = values.mean(axis=0)
        blocks = np.stack(np.split(values - center, 3, axis=1))
        length = np.sqrt(3 * np.square(blocks).sum(axis=2).mean(axis=1))
        return cls(projection, center, np.repeat(np.where(length > 0, length, 1), values.shape[1] // 3))

    def at(self, section: Section, locations: Locations) -> np.ndarray:
        """Return float64 ``(n, 3 k)``, of mean square length 1 on training spots."""
        return self.scaled(self.projection.features(section, locations))

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Scale what ``projection`` gave."""
        return (values - self.center) / self.scale


@dataclass(frozen=True)
class Kernel:
    r"""Sum of a linear and a Gaussian kernel, by way of its values at landmarks (Nystroem).

    :math:`k(a, b) = w\, a^\top b + \exp(-g |a - b|^2)`. The linear part goes on where the Gaussian one fades: far from the
    training tissue, as in another patient. With all training spots as landmarks the result is exact.

    Attributes
    ----------
    landmarks
        ``(m, p)`` features.
    linear, gamma
        w and g.
    whiten
        ``(m, q)``: values at the landmarks times this are features whose inner products are the kernel.
    """

    landmarks: np.ndarray
    linear: float
    gamma: float
    whiten: np.ndarray

    @classmethod
    def fit(cls, landmarks: np.ndarray, linear: float, gamma: float) -> Kernel:
        """Prepare a kernel on landmarks."""
        values, axes = np.linalg.eigh(_kernel(landmarks, landmarks, linear, gamma))
        keep = values > _FLAT * values[-1]
        return cls(landmarks, linear, gamma, axes[:, keep] / np.sqrt(values[keep]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Map features ``(n, p)`` to ``(n, q)``."""
        return _kernel(features, self.landmarks, self.linear, self.gamma) @ self.whiten


@dataclass(frozen=True)
class ConditionalMean:
    """Mean of log2(1 + count) at the cohort's depth, given morphology.

    Attributes
    ----------
    features
        From locations to features.
    kernel
        The kernel.
    slopes, intercept
        ``(q, G)``, ``(G,)``.
    """

    features: Features
    kernel: Kernel
    slopes: np.ndarray
    intercept: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the mean at features ``(n, p)``, float64 ``(n, G)``."""
        return self.kernel(features) @ self.slopes + self.intercept

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and plain settings."""
        projection = self.features.projection
        arrays = {
            "mean/center": projection.center,
            "mean/scale": projection.scale,
            "mean/axes": projection.axes,
            "mean/feature_center": self.features.center,
            "mean/feature_scale": self.features.scale,
            "mean/landmarks": self.kernel.landmarks,
            # What slopes are applied to, in one matrix: the kernel's values at the landmarks.
            "mean/whiten": self.kernel.whiten,
            "mean/slopes": self.slopes,
            "mean/intercept": self.intercept,
        }
        settings = {
            "scaling": projection.scaling,
            "pitch_um": projection.pitch_um,
            "linear": self.kernel.linear,
            "gamma": self.kernel.gamma,
        }
        return arrays, settings

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> ConditionalMean:
        """Rebuild what ``state`` described."""
        of = {name.removeprefix("mean/"): array for name, array in arrays.items() if name.startswith("mean/")}
        projection = Projection(settings["scaling"], settings["pitch_um"], of["center"], of["scale"], of["axes"])
        features = Features(projection, of["feature_center"], of["feature_scale"])
        kernel = Kernel(of["landmarks"], settings["linear"], settings["gamma"], of["whiten"])
        return cls(features, kernel, of["slopes"], of["intercept"])


@dataclass(frozen=True)
class CrossFitted:
    """A mean and its predictions for its own training spots.

    Attributes
    ----------
    mean
        Fitted on all spots.
    features
        ``(n, p)`` of the training spots.
    held_out
        ``(n, G)``, each spot predicted by a fit without its fold.
    score
        Mean correlation over genes on left-out tissue.
    alpha
        The chosen penalty.
    """

    mean: ConditionalMean
    features: np.ndarray
    held_out: np.ndarray
    score: float
    alpha: float


def cross_fit(
    spots: TrainingSpots,
    *,
    scalings: Sequence[Scaling],
    n_components: int,
    linear: float,
    gammas: Sequence[float],
    alphas: Sequence[float],
    n_landmarks: int,
    seed: int,
) -> CrossFitted:
    """Fit the mean with the scaling, width and penalty that correlate best with left-out tissue.

    Parameters
    ----------
    spots
        Training spots with their folds.
    scalings, gammas, alphas
        What there is to choose from.
    n_components
        Principal components of the embedding.
    linear
        Weight of the linear kernel.
    n_landmarks
        Spots that carry the kernel at most; those are drawn with ``seed``.
    """
    n = len(spots.centred)
    rows = np.arange(n)
    if n > n_landmarks:
        rows = np.sort(np.random.default_rng(seed).choice(n, n_landmarks, replace=False))
    best: CrossFitted | None = None
    for scaling in scalings:
        projection = Projection.fit(spots.sections, scaling, spots.pitch_um, n_components)
        raw = spots.features(projection)
        features = Features.fit(projection, raw)
        values = features.scaled(raw)
        for gamma in gammas:
            kernel = Kernel.fit(values[rows], linear, gamma)
            expanded = kernel(values)
            parts = _fold_moments(expanded, spots)
            alpha, score = _best_alpha(parts, alphas)
            if best is None or score > best.score:
                slopes, intercept = solve(_total(parts), alpha)
                mean = ConditionalMean(features, kernel, slopes, intercept)
                best = CrossFitted(mean, values, _out_of_fold(expanded, parts, spots.fold, alpha), score, alpha)
    if best is None:
        raise ValueError("There has to be a scaling, a width and a penalty to choose.")
    return best


def _kernel(a: np.ndarray, b: np.ndarray, linear: float, gamma: float) -> np.ndarray:
    inner = a @ b.T
    square = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * inner
    return linear * inner + np.exp(-gamma * np.maximum(square, 0))


def _fold_moments(expanded: np.ndarray, spots: TrainingSpots) -> list[Moments]:
    return [Moments.of(expanded[spots.fold == f], spots.centred[spots.fold == f]) for f in range(spots.fold.max() + 1)]


def _total(parts: Sequence[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _best_alpha(parts: Sequence[Moments], alphas: Sequence[float]) -> tuple[float, float]:
    if len(parts) == 1:  # too few spots to leave any out
        return float(max(alphas)), 0.0
    total = _total(parts)
    correlations = np.stack([held_out_correlations(total - part, part, alphas) for part in parts])
    told = np.isfinite(correlations)
    counts = told.sum(axis=(0, 2))
    scores = np.where(told, correlations, 0).sum(axis=(0, 2)) / np.maximum(counts, 1)
    best = int(scores.argmax())
    return float(alphas[best]), float(scores[best])


def _out_of_fold(expanded: np.ndarray, parts: Sequence[Moments], fold: np.ndarray, alpha: float) -> np.ndarray:
    total = _total(parts)
    result = np.empty((len(expanded), len(total.y)))
    for f, part in enumerate(parts):
        slopes, intercept = solve(total - part if len(parts) > 1 else total, alpha)
        result[fold == f] = expanded[fold == f] @ slopes + intercept
    return result
