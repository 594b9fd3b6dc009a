"""Conditional mean of expression given morphology: kernel ridge regression, chosen and cross-fitted over left-out tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._log import progress
from hisdiff._stats._kernel import Kernel
from hisdiff._training._features import Features
from hisdiff._training._spots import Projection
from hisdiff.methods.hisdiff.factor._components import fit_components

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff._training._context import Scaling
    from hisdiff._training._spots import TrainingSpots
    from hisdiff._training._spread import Axes


@dataclass(frozen=True)
class KernelMean:
    """Mean as a function of embeddings scaled in one way.

    Attributes
    ----------
    features
        From locations to features.
    landmarks
        ``(m, p)`` features of the spots that carry the kernels.
    kernels
        A linear one, and Gaussian ones of different widths.
    weights
        ``(len(kernels), m, r)`` from kernel values to components of expression.
    """

    features: Features
    landmarks: np.ndarray
    kernels: tuple[Kernel, ...]
    weights: np.ndarray

    def __call__(self, section: Section, locations: Locations) -> np.ndarray:
        """Return components of the mean, float64 ``(n, r)``."""
        features = self.features.at(section, locations)
        used = [(k, w) for k, w in zip(self.kernels, self.weights) if w.any()]
        start = np.zeros((len(features), self.weights.shape[2]))
        return sum((k(features, self.landmarks) @ w for k, w in used), start)


@dataclass(frozen=True)
class ConditionalMean:
    """Mean of log2(1 + count) at the cohort's library size, given morphology.

    Attributes
    ----------
    members
        Whose components are averaged.
    components
        ``(r, G)`` directions of expression.
    intercept
        ``(G,)``.
    """

    members: tuple[KernelMean, ...]
    components: np.ndarray
    intercept: np.ndarray

    def __call__(self, section: Section, locations: Locations) -> np.ndarray:
        """Return the mean at locations, float64 ``(n, G)``."""
        scores = np.mean([member(section, locations) for member in self.members], axis=0)
        return scores @ self.components + self.intercept

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays = {"mean/components": self.components, "mean/intercept": self.intercept}
        settings = []
        for i, member in enumerate(self.members):
            projection = member.features.projection
            of = {
                "center": projection.center,
                "scale": projection.scale,
                "axes": projection.axes,
                "feature_center": member.features.center,
                "feature_scale": member.features.scale,
                "landmarks": member.landmarks,
                "weights": member.weights,
            }
            arrays |= {f"mean/{i}/{name}": array for name, array in of.items()}
            kernels = [{"linear": k.linear, "gamma": k.gamma} for k in member.kernels]
            settings.append({"scaling": projection.scaling, "pitch_um": projection.pitch_um, "kernels": kernels})
        return arrays, {"members": settings}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> ConditionalMean:
        """Rebuild what ``state`` described."""
        members = []
        for i, own in enumerate(settings["members"]):
            prefix = f"mean/{i}/"
            of = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            projection = Projection(own["scaling"], own["pitch_um"], of["center"], of["scale"], of["axes"])
            features = Features(projection, of["feature_center"], of["feature_scale"])
            kernels = tuple(Kernel(k["linear"], k["gamma"]) for k in own["kernels"])
            members.append(KernelMean(features, of["landmarks"], kernels, of["weights"]))
        return cls(tuple(members), arrays["mean/components"], arrays["mean/intercept"])


@dataclass(frozen=True)
class CrossFitted:
    """A mean and its predictions for its own training spots.

    Attributes
    ----------
    mean
        Fitted on all spots.
    held_out
        ``(n, G)``, each spot predicted by a fit without its fold.
    explained
        Part of the variance of standardised genes on left-out tissue that its members explain, on average.
    """

    mean: ConditionalMean
    held_out: np.ndarray
    explained: float


def cross_fit(
    spots: TrainingSpots,
    axes: Axes,
    *,
    scalings: Sequence[Scaling],
    n_components: int,
    linear: float,
    gammas: Sequence[float],
    penalties: Sequence[float],
    n_landmarks: int,
    seed: int,
    show: bool | None = None,
) -> CrossFitted:
    """Fit the mean.

    Expression is taken apart into principal components, and each gets the kernel width and the penalty that predict it
    best on left-out tissue, or zero where none does: common variation (library size, density) is easily predicted from
    the image, differences between cell types less so, and one penalty for both would blur the one or fit noise with the
    other. This is done for each scaling of the embedding, with a linear kernel and with Gaussian ones, and the results
    are averaged: they err differently, the most so in tissue unlike that of the training.

    Parameters
    ----------
    spots
        Training spots with their folds.
    axes
        Of expression.
    scalings
        Of the embedding.
    n_components
        Principal components of the embedding.
    linear
        Weight of the linear kernel beside a Gaussian one.
    gammas, penalties
        What there is to choose from.
    n_landmarks
        Spots that carry the kernels at most; those are drawn with ``seed``.
    show
        Whether to show a bar; None for the package's setting.
    """
    n = len(spots.centered)
    rows = np.arange(n)
    if n > n_landmarks:
        rows = np.sort(np.random.default_rng(seed).choice(n, n_landmarks, replace=False))
    targets = axes.components(spots.centered - axes.center)
    families = ((Kernel(1.0, None),), tuple(Kernel(linear, gamma) for gamma in gammas))
    members, scores, explained = [], np.zeros_like(targets), []
    for scaling in progress(scalings, desc=f"fitting the mean on {n:,} spots", unit="kinds of embedding", enabled=show):
        projection = Projection.fit(spots.sections, scaling, spots.pitch_um, n_components)
        raw = spots.features(projection)
        features = Features.fit(projection, raw)
        values = features.scaled(raw)
        weights = []
        for kernels in families:
            whitenings = [kernel.whitening(values[rows]) for kernel in kernels]
            expansions = (kernel(values, values[rows]) @ whitening for kernel, whitening in zip(kernels, whitenings))
            fitted = fit_components(expansions, targets, spots.fold, spots.weight, penalties)
            weights.append(np.stack([w @ own for w, own in zip(whitenings, fitted.weights)]) / len(families))
            scores += fitted.held_out / (len(families) * len(scalings))
            explained.append(fitted.explained)
        members.append(KernelMean(features, values[rows], sum(families, ()), np.concatenate(weights)))
    mean = ConditionalMean(tuple(members), axes.directions, axes.center)
    return CrossFitted(mean, scores @ axes.directions + axes.center, float(np.mean(explained)))
