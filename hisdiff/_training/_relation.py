r"""What is open about the relation of expression to the image: the cohort's own, and how that of a new section differs.

Components of expression are modelled as :math:`x_n = m(f_n) + b_s + r_s(f_n) + e_n` with Gaussian processes
:math:`m \sim GP(0, k)` and :math:`r_s \sim GP(0, \kappa k)`. The cohort leaves of m what is known of a Gaussian process
given noisy values; a new section adds its own r. With Nystroem features :math:`\psi`, turned so that the cohort's posterior is
diagonal, the covariance of the two together is

.. math:: C(f, f') = (1 + \kappa)\, k(f, f') - \psi(f)^\top (1 - o)\, \psi(f') ,

where o is the part of the prior variance along each axis that the cohort leaves open. All components share C up to a scale.

What is left, e, may itself vary smoothly in space, as states of cells do that no image shows. Features of surroundings vary smoothly as
well, so that a relation that differs from section to section would explain such states. With many sections the two are told
apart: the likelihood then averages over how smooth e is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.spatial.distance import cdist

from hisdiff._cores import one_core
from hisdiff._stats import _dense as dense
from hisdiff._stats._kernel import Kernel
from hisdiff._training._folds import MANY_FOLDS
from hisdiff._training._smooth import correlation

if TYPE_CHECKING:
    from collections.abc import Mapping

# Noise of a component over its scale, for the cohort's own part.
_NOISE = 1.0
_LINEAR = 0.1
_GAMMAS = (0.125, 0.5, 2.0)
_KAPPAS = (0.0, 0.1, 0.3, 1.0, 3.0)
_SCALES = tuple(10 ** np.arange(-1, 1.01, 0.25))
_LANDMARKS = 500
# Spots of a left-out section that are enough to tell the scales.
_MAX_SPOTS = 600
# Part of e that varies smoothly, and over how many pitches; what is told apart from the relation with many folds.
_INDEPENDENT = (0.0, 1.0)
_SMOOTH = (_INDEPENDENT, (0.5, 1.5), (0.9, 1.5), (0.5, 3.0))
# Sections, and spots of each, that are enough for that.
_MAX_SECTIONS, _MAX_SMOOTH_SPOTS = 12, 400
# Of a component's noise: even what is not predicted at all may differ between sections with the image.
_MIN_SCALE = 0.003


@dataclass(frozen=True)
class Relation:
    """Prior covariance of what is open, over features.

    Attributes
    ----------
    kernel, landmarks
        k and the ``(m, p)`` features that span it.
    axes
        ``(m, q)`` from kernel values to features in which the cohort's posterior is diagonal.
    open
        ``(q,)`` part of the variance along each axis that the cohort leaves open.
    kappa
        Variance of a section's own relation over that of the shared one.
    scale
        ``(r,)`` variance of each component where C is 1.
    """

    kernel: Kernel
    landmarks: np.ndarray
    axes: np.ndarray
    open: np.ndarray
    kappa: float
    scale: np.ndarray

    def basis(self, features: np.ndarray) -> np.ndarray:
        """Return features in which the cohort's posterior is diagonal, ``(n, q)`` for ``(n, p)``."""
        return self.kernel(features, self.landmarks) @ self.axes

    def covariance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return C between features ``(n, p)`` and ``(m, p)``, ``(n, m)``."""
        known = (self.basis(a) * (1 - self.open)) @ self.basis(b).T
        return (1 + self.kappa) * self.kernel(a, b) - known

    def uncertainty(self, features: np.ndarray) -> np.ndarray:
        """Return what is open of the cohort's own relation at features ``(n, p)``, ``(n,)``; it grows away from its tissue."""
        known = np.square(self.basis(features)) @ (1 - self.open)
        return np.maximum(self.kernel.diagonal(features) - known, 0)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return arrays and plain settings."""
        arrays = {"landmarks": self.landmarks, "axes": self.axes, "open": self.open, "scale": self.scale}
        return arrays, {"linear": self.kernel.linear, "gamma": float(self.kernel.gamma or 0), "kappa": self.kappa}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, float]) -> Relation:
        """Rebuild what ``state`` described."""
        kernel = Kernel(settings["linear"], settings["gamma"] or None)
        return cls(kernel, arrays["landmarks"], arrays["axes"], arrays["open"], settings["kappa"], arrays["scale"])


class RelationFit(NamedTuple):
    """A fitted relation.

    Attributes
    ----------
    relation
        Itself.
    share
        ``(r,)``, its part in the variance of each component of the residuals.
    usual
        What is open of the cohort's relation on left-out tissue, on average; in units of k.
    beside_smooth
        Whether it was told apart from what varies smoothly in space.
    """

    relation: Relation
    share: np.ndarray
    usual: float
    beside_smooth: bool


def fit_relation(
    features: np.ndarray,
    residuals: np.ndarray,
    signal: np.ndarray,
    fold: np.ndarray,
    section: np.ndarray,
    places: np.ndarray,
    seed: int,
) -> RelationFit:
    """Fit the scale of what is open, and the width of the kernel, on left-out tissue.

    Parameters
    ----------
    features
        ``(n, p)`` of training spots, of mean square length 1.
    residuals
        ``(n, r)`` components of what the mean of a fit without a spot's fold leaves of it.
    signal
        ``(r,)`` variance of each component that is predicted.
    fold, section
        ``(n,)`` numbered from zero.
    places
        ``(n, 2)`` of the spots in their sections, in pitches.
    seed
        Of the landmarks.
    """
    n = len(features)
    rows = np.arange(n)
    if n > _LANDMARKS:
        rows = np.sort(np.random.default_rng(seed).choice(n, _LANDMARKS, replace=False))
    within = residuals - _means_over(section, residuals)
    noise = np.maximum(np.square(within).mean(axis=0), 1e-12)
    unit = signal / noise + _MIN_SCALE
    groups = _groups(fold, section)
    many = int(fold.max()) + 1 >= MANY_FOLDS
    judged = _judged(groups, places, many=many)
    best: tuple[float, Kernel, float, np.ndarray] | None = None
    for gamma in _GAMMAS:
        kernel = Kernel(_LINEAR, gamma)
        whitening = kernel.whitening(features[rows])
        values = kernel.whitened(kernel(features, features[rows]), whitening)
        others = _products_of_others(values, fold)
        evidence = np.zeros((len(_SMOOTH) if many else 1, len(_KAPPAS), len(_SCALES), len(unit)))
        for left in judged:
            own = left.rows
            covariance = _open_covariance(kernel, features[own], values[own], others[left.fold])
            evidence += _evidence(left, *covariance, within[own], unit)
        evidence = np.logaddexp.reduce(evidence, axis=0)  # over kinds of noise
        for kappa, of_scales in zip(_KAPPAS, evidence):
            posterior = _posterior(of_scales)
            most = of_scales.max(axis=0)
            total = float((most + np.log(posterior.mean(axis=1) @ np.exp(of_scales - most))).sum())
            if best is None or total > best[0]:
                best = total, kernel, kappa, np.exp(np.log(_SCALES) @ posterior)
    assert best is not None
    _, kernel, kappa, relative = best
    whitening = kernel.whitening(features[rows])
    values = kernel.whitened(kernel(features, features[rows]), whitening)
    others = _products_of_others(values, fold)
    eigenvalues, turn = np.linalg.eigh(values.T @ values)
    sizes = [len(own) for _, own in groups]
    inside = [_amount(kernel, features[own], values[own], others[f], kappa) for f, own in groups]
    amount = max(float(np.average(inside, weights=sizes)), 1e-12)
    odds = relative * unit * amount  # of the relation against what is left to chance
    share = odds / (1 + odds)
    relation = Relation(
        kernel, features[rows], whitening @ turn, _NOISE / (np.maximum(eigenvalues, 0) + _NOISE),
        of_all(section, fold) * kappa, share * noise / amount,
    )  # fmt: skip
    usual = [_usual(kernel, features[own], values[own], others[f]) for f, own in groups]
    return RelationFit(relation, share, float(np.average(usual, weights=sizes)), many)


def of_all(section: np.ndarray, fold: np.ndarray) -> float:
    """Return the variance of a section's own relation with all sections in the mean, over that with those of a fold left out.

    The relation of a new section differs from the mean of S others by a variance of 1 + 1 / S, in units of that of one section.
    """
    n, n_folds = int(section.max()) + 1, int(fold.max()) + 1
    if n == 1 or n_folds == 1:  # blocks of one section tell nothing of others
        return 1.0
    fewer = n * (1 - 1 / n_folds)
    return (1 + 1 / n) / (1 + 1 / fewer)


def _groups(fold: np.ndarray, section: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return spots that are left out together and are of one section, evenly thinned to what is enough."""
    pairs = np.unique(np.column_stack([fold, section]), axis=0)
    return [(f, np.flatnonzero((fold == f) & (section == s))) for f, s in pairs]


def _means_over(section: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([values[section == s].mean(axis=0) for s in range(section.max() + 1)])[section]


def _products_of_others(values: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the sum of products of the features ``(n, q)`` of all spots outside each fold, ``(folds, q, q)``."""
    of_folds = [values[fold == f] for f in range(fold.max() + 1)]
    products = np.stack([own.T @ own for own in of_folds])
    return products.sum(axis=0) - products


def _open_covariance(
    kernel: Kernel, features: np.ndarray, values: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return k between left-out spots, and what of it other spots know, ``(n, n)`` each."""
    return kernel(features, features), values @ _told(values, others)


class _Left(NamedTuple):
    """Left-out spots of a section, evenly thinned to what is enough.

    Attributes
    ----------
    fold, rows, step
        That they are of, which they are, and one in how many.
    roots
        ``(n - 1, n)`` for each kind of noise: what takes the mean out and makes the noise white.
    """

    fold: int
    rows: np.ndarray
    step: int
    roots: list[np.ndarray]


def _judged(groups: list[tuple[int, np.ndarray]], places: np.ndarray, *, many: bool) -> list[_Left]:
    """Return left-out spots that tell of the relation; with many folds also of noise that varies smoothly."""
    noises, most = (_SMOOTH, _MAX_SMOOTH_SPOTS) if many else ((_INDEPENDENT,), _MAX_SPOTS)
    judged = []
    for fold, own in groups[:: -(-len(groups) // _MAX_SECTIONS)] if many else groups:
        step = max(1, -(-len(own) // most))
        rows = own[::step]
        n = len(rows)
        if n < 3:
            continue
        contrasts = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:].T
        away = cdist(places[rows], places[rows])
        roots = []
        for smooth, spacing in noises:
            noise = (1 - smooth) * np.eye(n) + smooth * correlation(away / spacing)
            lower = np.linalg.cholesky(contrasts @ noise @ contrasts.T)
            roots.append(solve_triangular(lower, contrasts, lower=True))
        judged.append(_Left(fold, rows, step, roots))
    return judged


@one_core()  # several wait for each other at matrices as small as these
def _evidence(left: _Left, own: np.ndarray, known: np.ndarray, residuals: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the log likelihood of residuals ``(n, r)`` for each noise, kappa and scale, ``(noises, kappas, scales, r)``.

    ``own`` and ``known`` are ``(n, n)``: k between the spots, and what of it other spots know.
    """
    n = len(own)
    out = np.empty((len(left.roots), len(_KAPPAS), len(_SCALES), residuals.shape[1]))
    for root, of_noise in zip(left.roots, out):
        white, white_own, white_known = root @ residuals, root @ own @ root.T, root @ known @ root.T
        volume = np.linalg.slogdet(root @ root.T)[1] / 2
        for kappa, of_kappa in zip(_KAPPAS, of_noise):
            # Of sums over spots few digits are asked.
            covariance = ((1 + kappa) * white_own - white_known).astype(np.float32)
            eigenvalues, axes = eigh(covariance, driver="evd", check_finite=False)
            eigenvalues, squares = np.maximum(eigenvalues, 0)[:, None], np.square(axes.T @ white)
            for j, scale in enumerate(_SCALES):
                variance = 1 + eigenvalues * (scale * unit)
                noise = np.maximum((squares / variance).mean(axis=0), 1e-12)
                of_kappa[j] = -0.5 * (np.log(variance).sum(axis=0) + (n - 1) * np.log(noise)) + volume
    return out * left.step


def _amount(
    kernel: Kernel, features: np.ndarray, values: np.ndarray, others: np.ndarray, kappa: float
) -> float:  # fmt: skip
    """Return the variance of what is open inside a left-out section, on average over its spots."""
    step = max(1, -(-len(features) // _MAX_SPOTS))
    own, known = _open_covariance(kernel, features[::step], values[::step], others)
    return float(np.trace(_centered((1 + kappa) * own - known))) / len(own)


def _usual(kernel: Kernel, features: np.ndarray, values: np.ndarray, others: np.ndarray) -> float:
    """Return the variance of what is open of the cohort's relation in a left-out section, on average over its spots."""
    known = np.einsum("nq,qn->n", values, _told(values, others))
    return float(np.mean(kernel.diagonal(features) - known))


def _told(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return ``A (A + noise)^-1 values^T``, ``(q, n)``, with A ``(q, q)`` the sum of products of the features of other spots."""
    return dense.solve(others + _NOISE * np.eye(len(others)), others @ values.T)


def _posterior(evidence: np.ndarray) -> np.ndarray:
    """Return weights of the scales for each component, ``(scales, r)``, with a prior from all of them together."""
    likelihood = np.exp(evidence - evidence.max(axis=0))
    prior = np.full(len(evidence), 1 / len(evidence))
    for _ in range(10):
        weights = likelihood * prior[:, None]
        weights /= weights.sum(axis=0)
        prior = weights.mean(axis=1)
    return weights


def _centered(matrix: np.ndarray) -> np.ndarray:
    rows = matrix.mean(axis=0)
    return matrix - rows - rows[:, None] + rows.mean()
