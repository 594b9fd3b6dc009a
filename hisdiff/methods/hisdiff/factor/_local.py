r"""How expression is spread inside a spot's footprint, learned from nothing but the sums over footprints.

Let :math:`z_c` be the dense embedding of bin c and :math:`a_{nc}` its part of the footprint of spot n. The expected count of
the spot is a sum over its bins,

.. math:: E\, y_{ng} = \sum_c a_{nc} \lambda_g(z_c), \qquad \lambda_g(z) = \mu_g + \sum_j w_{jg}\, k(z, l_j) .

Since :math:`\lambda` is linear in the kernels at the landmarks :math:`l_j`, so is the sum in the same kernels averaged over
footprints (kernel mean embeddings; Smola et al., 2007): a ridge regression of counts on averaged kernels *is* a regression on
bins. Counts are used as they are, not their logarithms, which do not add up. No bin has to be measured, and nothing changes
when the fit goes from the size of spots to that of bins.

How fast rates vary in space is learned as well. An embedding varies from bin to bin for reasons that are no expression, and slopes that
were found for footprints, in which this averages out, are too steep for it. So there are two such regressions, on the embedding of the
bin itself and on its average over the surroundings, which makes rates that vary slowly; their weights in the sum are those that predict best
what left-out spots have more or less of than their neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from hisdiff._prediction._superpixels import Footprints, Inputs
from hisdiff._section import needed
from hisdiff._stats._counting import count_rate
from hisdiff._stats._kernel import Kernel
from hisdiff._stats._pca import right_axes
from hisdiff._stats._spatial import Layout
from hisdiff._training._calibration import cv_pcc_of
from hisdiff.methods.hisdiff.factor._components import fit_components
from hisdiff.methods.hisdiff.factor._surroundings import Averaged, averaged_under

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hisdiff._json import State
    from hisdiff._section import DenseSource
    from hisdiff._training._spots import TrainingSpots

_LANDMARKS = 400
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_MAX_COMPONENTS = 40
# Spots that are enough: their footprints are most of the memory of a fit.
_MAX_SPOTS = 4000
# Values of the dense embedding under footprints, in half precision; fewer spots where vectors are long.
_MAX_VALUES = 2**28
# Side of bins that footprints are made of, in um: six to a spot's width, no larger than the dense window of texture.
_ACROSS, _FINEST_UM, _COARSEST_UM = 6, 4.0, 16.0
# Standard deviation of the window of what varies slowly, in bins: a quarter of a spot's width. A weight below the least is not worth its time.
_WINDOW, _LEAST_SHARE = 1.5, 0.05
# A linear model has no positive values by nature; below this part of a gene's mean, expression is treated as absent.
_FLOOR = 0.02
# Counts of a spot vary like m + m^2 / a around m; the weight of a spot is one over that, up to a factor.
_OVERDISPERSED = 0.3
# A count that is treated as zero.
_LEAST = 1e-3
_LOCAL_WEIGHTS = (0.5, 0.25, 0.75, 0.0, 1.0)  # the first of equals is taken
_CHUNK = 8192


@dataclass(frozen=True)
class LocalRates:
    """Expected expression of a bin relative to the section's mean spot.

    Attributes
    ----------
    bin_um
        Side of the bins it was learned on.
    inputs
        From dense vectors to principal components.
    windows_um
        ``(v,)`` standard deviations of the windows over which the dense embedding is averaged; 0 for the bin itself.
    landmarks
        ``(v, m, k)``.
    kernels
        Of different widths.
    weights
        ``(v, len(kernels), m, r)`` from kernel values to components of expression.
    components
        ``(r, G)``.
    local_weight
        Part, from 0 to 1, that the local rates have in what is expected of a whole footprint; the rest is the model of
        spots.
    """

    bin_um: float
    inputs: Inputs
    windows_um: tuple[float, ...]
    landmarks: np.ndarray
    kernels: tuple[Kernel, ...]
    weights: np.ndarray
    components: np.ndarray
    local_weight: float

    def sees(self, dense: DenseSource) -> Averaged:
        """Return what it sees of a section, whose rasters it gives the rates of."""
        return Averaged(dense, self.inputs, self.windows_um)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """Return the rates of bins from what is seen of them, ``(n, v k)``, float32 ``(n, G)``, 1 for the mean and positive."""
        out = np.empty((len(seen), self.components.shape[1]), dtype=np.float32)
        used = [
            (part, kernel, marks.astype(np.float32), (w @ self.components).astype(np.float32))
            for part, (marks, weights) in enumerate(zip(self.landmarks, self.weights))
            for kernel, w in zip(self.kernels, weights)
            if w.any()
        ]
        for start in range(0, len(seen), _CHUNK):
            rows = slice(start, start + _CHUNK)
            views = np.split(seen[rows].astype(np.float32, copy=False), len(self.windows_um), axis=1)
            total = np.zeros_like(out[rows])
            for part, kernel, marks, w in used:
                total += kernel(views[part], marks) @ w
            out[rows] = np.maximum(1 + total, _FLOOR)
        return out

    def state(self) -> State:
        """Return arrays and plain settings."""
        arrays = {
            "local/center": needed(self.inputs.center),
            "local/axes": needed(self.inputs.axes),
            "local/landmarks": self.landmarks,
            "local/weights": self.weights,
            "local/components": self.components,
        }
        kernels = [{"linear": kernel.linear, "gamma": kernel.gamma} for kernel in self.kernels]
        plain = {"bin_um": self.bin_um, "windows_um": list(self.windows_um), "local_weight": self.local_weight}
        return arrays, {**plain, "kernels": kernels}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> LocalRates:
        """Rebuild what ``state`` described."""
        of = {name.removeprefix("local/"): array for name, array in arrays.items() if name.startswith("local/")}
        kernels = tuple(Kernel(k["linear"], k["gamma"]) for k in settings["kernels"])
        inputs = Inputs(True, of["center"], of["axes"])
        sizes = settings["bin_um"], inputs, tuple(settings["windows_um"])
        return cls(*sizes, of["landmarks"], kernels, of["weights"], of["components"], settings["local_weight"])


def fit_local(
    spots: TrainingSpots, of_spots: np.ndarray, *, n_components: int, linear: float, gammas: Sequence[float], seed: int
) -> LocalRates | None:
    """Fit on spots whose sections all have a dense embedding; None where one has not.

    Parameters
    ----------
    spots
        Training spots with their folds, by which widths, penalties and windows are chosen.
    of_spots
        ``(n, G)``, out-of-fold predictions of the model of spots, log2(1 + count).
    n_components
        Principal components of the dense embedding.
    linear, gammas
        Weight of the linear kernel beside a Gaussian one, and the widths to choose from.
    seed
        Of the landmarks.
    """
    if any(section.dense is None for section in spots.sections):
        return None
    bin_um = float(np.clip(2 * spots.radius_um / _ACROSS, _FINEST_UM, _COARSEST_UM))
    windows_um = (0.0, _WINDOW * bin_um)
    every = len(spots.section)
    width = len(needed(spots.sections[0].dense).mean) * len(windows_um) * _ACROSS**2
    chosen = np.arange(every)[:: max(1, -(-every // min(_MAX_SPOTS, max(1, _MAX_VALUES // width))))]
    counts = [needed(s.counts)[rows].toarray() for s, rows in zip(spots.sections, spots.kept)]
    areas = np.split(spots.area, np.cumsum([len(rows) for rows in spots.kept])[:-1])
    relative = np.concatenate([_relative(of / area[:, None]) for of, area in zip(counts, areas)])
    parts, footprints = [], []
    first = 0
    for section, rows in zip(spots.sections, spots.kept):
        own = chosen[(chosen >= first) & (chosen < first + len(rows))] - first
        first += len(rows)
        under = Footprints.of(needed(section.spots).take(rows[own]), bin_um)
        parts.append(averaged_under(needed(section.dense), under, bin_um, windows_um))
        footprints.append(under)
    inputs = Inputs.fit([part[0] for part in parts], n_components, standardize=True, whiten=False)
    rng = np.random.default_rng(seed)
    n_bins = sum(len(under.ij) for under in footprints)
    marks = np.sort(rng.choice(n_bins, min(_LANDMARKS, n_bins), replace=False))

    relative, fold = relative[chosen], np.unique(spots.fold[chosen], return_inverse=True)[1]
    amount = relative.mean(axis=1)
    weight = spots.weight[chosen] / (amount + _OVERDISPERSED)
    spread = np.maximum(np.sqrt(np.average(np.square(relative - 1), axis=0, weights=weight)), 1e-6)
    weighed = np.sqrt(weight)[:, None] * (relative - 1) / spread
    axes = right_axes(weighed, _MAX_COMPONENTS)
    targets = (relative - 1) / spread @ axes.T
    kernels = tuple(Kernel(linear, gamma) for gamma in gammas)
    landmarks, weights, held_outs = [], [], []
    for view in range(len(windows_um)):
        values = [inputs.projected(part[view]) for part in parts]
        landmarks.append(np.concatenate(values)[marks].astype(np.float64))
        own_weights, held_out = _regression(footprints, values, landmarks[-1], kernels, targets, fold, weight)
        weights.append(own_weights)
        held_outs.append(held_out)
    # What a spot has more or less of than its neighbors is nearer to what is inside a spot than a trend over tissue.
    xy = np.concatenate([needed(s.spots).xy_um[rows] for s, rows in zip(spots.sections, spots.kept)])[chosen]
    around = Layout.of(xy, spots.section[chosen]).neighbors
    shares = _shares(targets - around @ targets, [own - around @ own for own in held_outs], weight)
    held_out = np.tensordot(shares, np.stack(held_outs), axes=1)
    components = axes * spread
    measured, predicted = (values - around @ values for values in (relative, held_out @ components))
    components *= _slopes(measured, predicted, weight)
    local_weight = _choose_weight(spots, chosen, of_spots[chosen], 1 + held_out @ components)
    used = shares > 0
    stacked = np.stack(landmarks)[used], kernels, (shares[:, None, None, None] * np.stack(weights))[used]
    kept_um = tuple(np.array(windows_um)[used].tolist())
    return LocalRates(bin_um, inputs, kept_um, *stacked, components, local_weight)


def _regression(
    footprints: Sequence[Footprints],
    values: Sequence[np.ndarray],
    landmarks: np.ndarray,
    kernels: Sequence[Kernel],
    targets: np.ndarray,
    fold: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights of kernels at landmarks, ``(len(kernels), m, r)``, and predictions of spots ``(n, r)`` without their fold.

    ``values`` are what is seen of the bins under the footprints of each section.
    """
    whitenings = [kernel.whitening(landmarks) for kernel in kernels]
    expansions = (
        np.concatenate([_averaged(under, of, kernel, landmarks) for under, of in zip(footprints, values)]) @ whitening
        for kernel, whitening in zip(kernels, whitenings)
    )
    fitted = fit_components(expansions, targets, fold, weight, _PENALTIES)
    weights = np.stack([whitening @ own for whitening, own in zip(whitenings, fitted.weights)])
    return weights, fitted.held_out


def _shares(measured: np.ndarray, held_outs: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """Return the weights of several predictions in the sum that predicts left-out spots best, none below zero, with sum 1.

    Those are how fast rates vary in space, as far as spots tell: sums over footprints hardly depend on what varies inside them, but the
    rim and the bend of kernels show it, and a prediction that is noise beside another loses its weight.

    Parameters
    ----------
    measured, held_outs
        ``(n, r)``, components of expression, less the mean of the neighbors.
    weight
        ``(n,)``.
    """
    root = np.sqrt(weight)[:, None]
    found = nnls(np.stack([(root * own).ravel() for own in held_outs], axis=1), (root * measured).ravel())[0]
    if not found.any():
        return np.eye(len(found))[0]
    found[found < _LEAST_SHARE * found.sum()] = 0
    return found / found.sum()


def _slopes(measured: np.ndarray, held_out: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return which part of the predicted deviations of each gene left-out spots confirm, from 0 to 1, ``(G,)``.

    Components are fitted for all genes together, so a gene that does not follow the image gets the noise of their
    weights, and its map would show detail that is not there. The slope of measured on predicted deviations is one
    where all of a prediction is right and zero where nothing is. The slope of a single gene is uncertain: it is shrunk
    towards that of all genes as far as their spread is no more than sampling would give (empirical Bayes).

    Parameters
    ----------
    measured, held_out
        ``(n, G)``, relative to the mean of the gene, less the mean of the neighbors.
    weight
        ``(n,)``.
    """
    power = np.maximum(weight @ np.square(held_out), np.finfo(float).tiny)
    own = weight @ (held_out * measured) / power
    noise = np.maximum(weight @ np.square(measured - own * held_out) / len(measured) / power, np.finfo(float).tiny)
    pooled = np.average(own, weights=1 / noise)
    spread = max(float(np.average(np.square(own - pooled) - noise, weights=1 / noise)), 0.0)
    return np.clip(pooled + spread / (spread + noise) * (own - pooled), 0, 1)


def _choose_weight(spots: TrainingSpots, rows: np.ndarray, of_spots: np.ndarray, local: np.ndarray) -> float:
    """Return the weight of the local rates with which left-out spots are predicted best, by the mean correlation of genes.

    Spots that are wide for the patch around their centre are predicted better from what lies in their footprint, others from the
    patch and its surroundings; the two err differently, so that the best is often in between.
    """
    section, rates = spots.section[rows], np.maximum(count_rate(of_spots), _LEAST)
    local = np.maximum(local, _FLOOR)
    for one in np.unique(section):
        local[section == one] *= rates[section == one].mean(axis=0)
    scores = [
        np.nanmean(
            cv_pcc_of(spots.targets[rows], np.log2(1 + rates ** (1 - local_weight) * local**local_weight), section)
        )
        for local_weight in _LOCAL_WEIGHTS
    ]
    return float(_LOCAL_WEIGHTS[int(np.argmax(scores))])


def _relative(counts: np.ndarray) -> np.ndarray:
    """Return counts ``(n, G)`` over each gene's mean; 1 for a gene that the section does not have.

    What a section has more or less of as a whole is library size and handling, and no matter of where inside it.
    """
    mean = counts.mean(axis=0)
    return np.where(mean > 0, counts / np.where(mean > 0, mean, 1), 1.0)


def _averaged(footprints: Footprints, values: np.ndarray, kernel: Kernel, landmarks: np.ndarray) -> np.ndarray:
    """Return the kernels at landmarks averaged over each footprint, ``(n, m)``."""
    total = np.zeros((footprints.share.shape[0], len(landmarks)))
    columns = footprints.share.tocsc()
    for start in range(0, len(values), _CHUNK):
        rows = slice(start, start + _CHUNK)
        total += columns[:, rows] @ kernel(values[rows].astype(np.float64), landmarks)
    return total
