"""Conditional mean of expression given morphology: kernel ridge regression, cross-fitted over left-out tissue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hisdiff._log import logger, progress
from hisdiff._stats._kernel import Kernel
from hisdiff._training._features import Features
from hisdiff._training._folds import MANY_FOLDS
from hisdiff._training._profile import at_level, profiles
from hisdiff._training._spots import Projection
from hisdiff._training._spread import Axes
from hisdiff.methods.hisdiff.factor._components import fit_components
from hisdiff.methods.hisdiff.factor._stacking import stacked_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hisdiff._json import State
    from hisdiff._section import Locations, Section
    from hisdiff._training._context import Scaling
    from hisdiff._training._spots import TrainingSpots

# Weights, in the view of the embedding in which surroundings weigh as they vary, of a regression on Gaussian kernels and of a linear one.
_AS_THEY_ARE, _LINEAR = 0.5, 0.25
# Spots whose expression is worked on at once.
_ROWS = 1024


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
        Gaussian ones of different widths, and a linear one in the last member.
    weights
        ``(len(kernels), m, r)`` from kernel values to components of expression.
    """

    features: Features
    landmarks: np.ndarray
    kernels: tuple[Kernel, ...]
    weights: np.ndarray

    @property
    def label(self) -> str:
        """What it sees, and by which kind of kernel."""
        around = "with its surroundings" if np.isfinite(self.features.scale[-1]) else "alone"
        kind = "linear" if self.kernels[0].gamma is None else "Gaussian"
        return f"{self.features.projection.scaling} {around} ({kind})"

    def __call__(self, section: Section, locations: Locations) -> np.ndarray:
        """Return components of the mean, float64 ``(n, r)``."""
        features = self.features.at(section, locations)
        used = [(k, w) for k, w in zip(self.kernels, self.weights) if w.any()]
        start = np.zeros((len(features), self.weights.shape[2]))
        return sum((k(features, self.landmarks) @ w for k, w in used), start)


@dataclass(frozen=True)
class Target:
    """What members predict: components of log2(1 + count), as it is or as a profile with library size taken out.

    Attributes
    ----------
    components
        ``(r, G)`` directions of expression.
    intercept
        ``(G,)``.
    """

    components: np.ndarray
    intercept: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return log2(1 + count), ``(n, G)``, of components ``(n, r)``."""
        return scores @ self.components + self.intercept


@dataclass(frozen=True)
class ConditionalMean:
    """Mean of log2(1 + count) at the cohort's library size, given morphology.

    Attributes
    ----------
    members
        Whose components are added up, those of ``whole`` first, then those of ``profile``.
    whole, profile
        Expression as it is, and as a profile.
    share
        Weight of the profile, brought to the level of ``whole`` at each location. Much of the variation of counts is that of the
        number of cells and molecules, in which small differences of composition are lost; both predictions err, differently.
    """

    members: tuple[KernelMean, ...]
    whole: Target
    profile: Target
    share: float

    def __call__(self, section: Section, locations: Locations) -> np.ndarray:
        """Return the mean at locations, float64 ``(n, G)``."""
        return self.expression(np.sum([member(section, locations) for member in self.members], axis=0))

    def expression(self, scores: np.ndarray) -> np.ndarray:
        """Return log2(1 + count), ``(n, G)``, of components of both."""
        k = len(self.whole.components)
        whole = self.whole(scores[:, :k])
        if self.share == 0:
            return whole
        return (1 - self.share) * whole + self.share * at_level(self.profile(scores[:, k:]), whole)

    def state(self) -> State:
        """Return arrays and plain settings."""
        targets = {"": self.whole, "profile_": self.profile}
        arrays = {f"mean/{name}components": target.components for name, target in targets.items()}
        arrays |= {f"mean/{name}intercept": target.intercept for name, target in targets.items()}
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
        return arrays, {"members": settings, "share": self.share}

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
        whole, profile = (
            Target(arrays[f"mean/{name}components"], arrays[f"mean/{name}intercept"]) for name in ("", "profile_")
        )
        return cls(tuple(members), whole, profile, settings["share"])


class CrossFitted(NamedTuple):
    """A mean and its predictions for its own training spots.

    Attributes
    ----------
    mean
        Fitted on all spots.
    held_out
        float32 ``(n, G)``, each spot predicted by a fit without its fold.
    explained
        Part of the variance of standardised genes on left-out tissue that its members explain, on average.
    features
        In which the location and its surroundings weigh the same, by the scaling of the embedding.
    """

    mean: ConditionalMean
    held_out: np.ndarray
    explained: float
    features: dict[Scaling, Features]


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
    profile: float,
    seed: int,
    show: bool | None = None,
) -> CrossFitted:
    """Fit the mean.

    Expression is taken apart into principal components, and each is an average over kernel widths and penalties, by how well they predict
    it on left-out tissue, or zero where none does: common variation (library size, density) is easily predicted from
    the image, differences between cell types less so, and one penalty for both would blur the one or fit noise with the
    other. This is done for several views of the embedding, with Gaussian kernels and once with a linear one, and for expression as it is
    and as a profile with library size taken out, and the results are averaged: they err differently, the most so in tissue
    unlike that of the training. From six folds on, views of the location without its surroundings are made as well, and all have the
    weights that predict left-out tissue best, where that is clearly better.

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
        What is averaged over.
    n_landmarks
        Spots that carry the kernels at most; those are drawn with ``seed``.
    profile
        Weight of the prediction of profiles.
    show
        Whether to show a bar; None for the package's setting.
    """
    n = len(spots.centered)
    rows = np.arange(n)
    if n > n_landmarks:
        rows = np.sort(np.random.default_rng(seed).choice(n, n_landmarks, replace=False))
    of_profiles = profiles(spots)
    profile_axes = Axes.of(of_profiles)
    parts = [(axes, spots.centered)] + ([(profile_axes, of_profiles.centered)] if profile > 0 else [])
    targets = np.concatenate([own.components(values - own.center) for own, values in parts], axis=1)
    del parts, of_profiles  # twice as large as the expression of the cohort
    gaussian = tuple(Kernel(linear, gamma) for gamma in gammas)
    alone = spots.fold.max() + 1 >= MANY_FOLDS
    n_views = 1 + len(scalings) * (2 if alone else 1)
    views = progress(
        _views(spots, scalings, n_components, alone=alone),
        desc=f"fitting the mean on {n:,} spots", total=n_views, unit="views of the embedding", enabled=show,
    )  # fmt: skip
    families, features = [], {}
    for view in views:
        marks = view.values[rows]
        if view.share and not view.linear:
            features[view.features.projection.scaling] = view.features
        kinds = {gaussian: view.share} | ({(Kernel(1.0, None),): _LINEAR} if view.linear else {})
        products = _products(view.values, marks)
        for kernels, share in kinds.items():
            whitenings = [kernel.whitening(marks) for kernel in kernels]
            expansions = _expanded(kernels, products, whitenings)
            fitted = fit_components(expansions, targets, spots.fold, spots.weight, penalties)
            weights = np.stack([w @ own for w, own in zip(whitenings, fitted.weights)])
            member = KernelMean(view.features, marks, kernels, weights)
            families.append(_Family(member, fitted.held_out.astype(np.float32), fitted.explained, share))
    usual = np.array([family.share for family in families])
    held_outs = [family.held_out for family in families]
    shares = stacked_weights(held_outs, targets, spots.section, spots.fold, spots.weight, usual)
    used = [(family, share) for family, share in zip(families, shares.tolist()) if share > 0]
    if shares is not usual:
        listed = ", ".join(f"{family.member.label} {share:.2f}" for family, share in used)
        logger.info("weights in the mean that predict left-out tissue clearly better than the usual ones: %s", listed)
    scores = sum((share * family.held_out for family, share in used), np.zeros_like(targets))
    explained = np.mean([family.explained for family, _ in used])
    whole, as_profile = (Target(own.directions, own.center) for own in (axes, profile_axes))
    mean = ConditionalMean(_members(used), whole, as_profile, profile)
    held_out = np.empty(spots.centered.shape, dtype=np.float32)
    for start in range(0, n, _ROWS):
        held_out[start : start + _ROWS] = mean.expression(scores[start : start + _ROWS])
    return CrossFitted(mean, held_out, float(explained), features)


class _Family(NamedTuple):
    """Kernels of one kind on a view, what they predict out of fold, how well, and their usual weight in the mean."""

    member: KernelMean
    held_out: np.ndarray
    explained: float
    share: float


def _members(used: Sequence[tuple[_Family, float]]) -> tuple[KernelMean, ...]:
    """Return weighted members, one for each view."""
    members: list[KernelMean] = []
    for family, share in used:
        own = replace(family.member, weights=share * family.member.weights)
        if members and members[-1].features is own.features:
            before = members.pop()
            joined = np.concatenate([before.weights, own.weights])
            own = replace(before, kernels=before.kernels + own.kernels, weights=joined)
        members.append(own)
    return tuple(members)


def _products(values: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what kernels of all widths are made of, float32: inner products ``(n, m)`` and squared lengths ``(n,)`` and ``(m,)``."""
    marks = marks.astype(np.float32)
    inner, own = np.empty((len(values), len(marks)), dtype=np.float32), np.empty(len(values), dtype=np.float32)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        some = values[rows].astype(np.float32)
        inner[rows], own[rows] = some @ marks.T, np.square(some).sum(axis=1)
    return inner, own, np.square(marks).sum(axis=1)


def _expanded(
    kernels: Sequence[Kernel], products: tuple[np.ndarray, ...], whitenings: Sequence[np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield features whose inner products are each kernel, float32 ``(n, q)``, from what :func:`_products` gives; all in one array."""
    inner, own, other = products
    out = np.empty((len(inner), whitenings[0].shape[1]), dtype=np.float32)
    for kernel, whitening in zip(kernels, whitenings):
        as_rows = whitening.astype(np.float32)
        for start in range(0, len(inner), _ROWS):
            rows = slice(start, start + _ROWS)
            out[rows] = kernel.whitened(kernel.of_products(inner[rows].copy(), own[rows], other), as_rows)
        yield out


class _View(NamedTuple):
    """Features of locations, those of the spots, the usual weight of Gaussian kernels, and whether a linear one is fitted as well."""

    features: Features
    values: np.ndarray
    share: float
    linear: bool


def _views(spots: TrainingSpots, scalings: Sequence[Scaling], n_components: int, *, alone: bool) -> Iterator[_View]:
    """Yield views of the embedding.

    For each scaling one in which the location and its surroundings weigh the same; and one in which they weigh as they vary, of the
    last scaling, with twice as many components. If asked for, for each scaling one of the location ``alone``, whose usual weight is none.
    """
    for scaling in scalings:
        projection = Projection.fit(spots.sections, scaling, spots.pitch_um, n_components)
        raw = spots.features(projection)
        features = Features.fit(projection, raw)
        yield _View(features, features.scaled(raw), (1 - _AS_THEY_ARE - _LINEAR) / len(scalings), False)
        if alone:
            features = features.alone()
            yield _View(features, features.scaled(raw), 0.0, False)
    projection = Projection.fit(spots.sections, scalings[-1], spots.pitch_um, 2 * n_components)
    raw = spots.features(projection)
    features = Features.fit(projection, raw, equal_blocks=False)
    yield _View(features, features.scaled(raw), _AS_THEY_ARE, True)
