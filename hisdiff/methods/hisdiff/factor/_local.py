r"""How expression is spread inside a spot's footprint, learned from nothing but the sums over footprints.

Let :math:`z_c` be the dense embedding of bin c and :math:`a_{nc}` its part of the footprint of spot n. The expected count of
the spot is a sum over its bins,

.. math:: E\, y_{ng} = \sum_c a_{nc} \lambda_g(z_c), \qquad \lambda_g(z) = \mu_g + \sum_j w_{jg}\, k(z, l_j) .

Since :math:`\lambda` is linear in the kernels at the landmarks :math:`l_j`, so is the sum in the same kernels averaged over
footprints (kernel mean embeddings; Smola et al., 2007): a ridge regression of counts on averaged kernels *is* a regression on
bins. Counts are used as they are, not their logarithms, which do not add up. No bin has to be measured, and nothing changes
when the fit goes from the size of spots to that of bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._prediction._superpixels import Footprints, Inputs, scaled_under
from hisdiff._section import needed
from hisdiff._stats._counting import count_rate
from hisdiff._stats._kernel import Kernel
from hisdiff._stats._pca import right_axes
from hisdiff._stats._spatial import Layout
from hisdiff._training._calibration import cv_pcc_of
from hisdiff.methods.hisdiff.factor._components import fit_components

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
# Side of bins that footprints are made of, in um: six to a spot's width, no larger than the dense window of texture.
_ACROSS, _FINEST_UM, _COARSEST_UM = 6, 4.0, 16.0
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
    landmarks
        ``(m, k)``.
    kernels
        Of different widths.
    weights
        ``(len(kernels), m, r)`` from kernel values to components of expression.
    components
        ``(r, G)``.
    local_weight
        Part, from 0 to 1, that the local rates have in what is expected of a whole footprint; the rest is the model of
        spots.
    """

    bin_um: float
    inputs: Inputs
    landmarks: np.ndarray
    kernels: tuple[Kernel, ...]
    weights: np.ndarray
    components: np.ndarray
    local_weight: float

    def __call__(self, dense: DenseSource, vectors: np.ndarray) -> np.ndarray:
        """Return the rates of bins with raw dense vectors ``(n, D)``, float32 ``(n, G)``, 1 for the mean and positive."""
        out = np.empty((len(vectors), self.components.shape[1]), dtype=np.float32)
        used = [(kernel, w) for kernel, w in zip(self.kernels, self.weights) if w.any()]
        for start in range(0, len(vectors), _CHUNK):
            rows = slice(start, start + _CHUNK)
            values = self.inputs.of(dense, vectors[rows])
            start = np.zeros(len(self.components))
            scores = sum((kernel(values, self.landmarks) @ w for kernel, w in used), start)
            out[rows] = np.maximum(1 + scores @ self.components, _FLOOR)
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
        return arrays, {"bin_um": self.bin_um, "kernels": kernels, "local_weight": self.local_weight}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> LocalRates:
        """Rebuild what ``state`` described."""
        of = {name.removeprefix("local/"): array for name, array in arrays.items() if name.startswith("local/")}
        kernels = tuple(Kernel(k["linear"], k["gamma"]) for k in settings["kernels"])
        inputs = Inputs(True, of["center"], of["axes"])
        sizes = settings["bin_um"], inputs
        return cls(*sizes, of["landmarks"], kernels, of["weights"], of["components"], settings["local_weight"])


def fit_local(
    spots: TrainingSpots, of_spots: np.ndarray, *, n_components: int, linear: float, gammas: Sequence[float], seed: int
) -> LocalRates | None:
    """Fit on spots whose sections all have a dense embedding; None where one has not.

    Parameters
    ----------
    spots
        Training spots with their folds, by which widths and penalties are chosen.
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
    every = len(spots.section)
    chosen = np.arange(every)[:: max(1, -(-every // _MAX_SPOTS))]
    counts = [needed(s.counts)[rows].toarray() for s, rows in zip(spots.sections, spots.kept)]
    areas = np.split(spots.area, np.cumsum([len(rows) for rows in spots.kept])[:-1])
    relative = np.concatenate([_relative(of / area[:, None]) for of, area in zip(counts, areas)])
    parts, footprints, dense = [], [], []
    first = 0
    for section, rows in zip(spots.sections, spots.kept):
        own = chosen[(chosen >= first) & (chosen < first + len(rows))] - first
        first += len(rows)
        under = Footprints.of(needed(section.spots).take(rows[own]), bin_um)
        parts.append(scaled_under(needed(section.dense), under, bin_um, Inputs(standardize=True)))
        footprints.append(under)
        dense.append(section.dense)
    inputs = Inputs.fit(parts, n_components, standardize=True, whiten=False)
    values = [inputs.projected(part) for part in parts]
    pooled = np.concatenate(values)
    rng = np.random.default_rng(seed)
    landmarks = pooled[np.sort(rng.choice(len(pooled), min(_LANDMARKS, len(pooled)), replace=False))].astype(np.float64)

    relative, fold = relative[chosen], np.unique(spots.fold[chosen], return_inverse=True)[1]
    amount = relative.mean(axis=1)
    weight = spots.weight[chosen] / (amount + _OVERDISPERSED)
    spread = np.maximum(np.sqrt(np.average(np.square(relative - 1), axis=0, weights=weight)), 1e-6)
    weighed = np.sqrt(weight)[:, None] * (relative - 1) / spread
    axes = right_axes(weighed, _MAX_COMPONENTS)
    kernels = tuple(Kernel(linear, gamma) for gamma in gammas)
    whitenings = [kernel.whitening(landmarks) for kernel in kernels]
    expansions = (
        np.concatenate([_averaged(under, part, kernel, landmarks) for under, part in zip(footprints, values)])
        @ whitening
        for kernel, whitening in zip(kernels, whitenings)
    )
    fitted = fit_components(expansions, (relative - 1) / spread @ axes.T, fold, weight, _PENALTIES)
    weights = np.stack([whitening @ own for whitening, own in zip(whitenings, fitted.weights)])
    components = axes * spread
    # What a spot has more or less of than its neighbors is nearer to what is inside a spot than a trend over tissue.
    xy = np.concatenate([needed(s.spots).xy_um[rows] for s, rows in zip(spots.sections, spots.kept)])[chosen]
    around = Layout.of(xy, spots.section[chosen]).neighbors
    measured, held_out = (values - around @ values for values in (relative, fitted.held_out @ components))
    components *= _slopes(measured, held_out, weight)
    local_weight = _choose_weight(spots, chosen, of_spots[chosen], 1 + fitted.held_out @ components)
    return LocalRates(bin_um, inputs, landmarks, kernels, weights, components, local_weight)


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
