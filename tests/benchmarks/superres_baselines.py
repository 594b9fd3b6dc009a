"""What super-resolution is compared with: interpolations of the measured spots, and a ridge on the dense embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import cKDTree

from hisdiff._prediction._superpixels import Footprints, Inputs, scaled_under

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._section import Locations, Section

NEAREST, LINEAR, INVERSE = "nearest spot", "linear interpolation", "inverse distance"
INTERPOLATIONS = (NEAREST, LINEAR, INVERSE)
_NEIGHBORS = 4
_COMPONENTS = 64
_AROUND = (9, 49)
_PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# Counts per spot area below this are nothing; zero could not be rescaled.
_LEAST = 1e-3


def interpolated(spots: Locations, counts: np.ndarray, targets: Locations) -> dict[str, np.ndarray]:
    """Return the counts of targets, ``(n, G)`` for each kind of interpolation of the counts per area of spots."""
    density = counts / np.square(spots.radius_um)[:, None]
    area = np.square(targets.radius_um)[:, None]
    distance, index = cKDTree(spots.xy_um).query(targets.xy_um, k=_NEIGHBORS)
    weight = 1 / np.maximum(distance, 1e-6) ** 2
    linear = LinearNDInterpolator(spots.xy_um, density)(targets.xy_um)
    nearest = density[index[:, 0]]
    return {
        NEAREST: area * nearest,
        LINEAR: area * np.where(np.isnan(linear), nearest, linear),  # nearest outside the hull of the spots
        INVERSE: area * np.einsum("nk,nkg->ng", weight / weight.sum(axis=1, keepdims=True), density[index]),
    }


def rescaled(counts: np.ndarray, spots: Locations, measured: np.ndarray, targets: Locations, share: sparse.csr_matrix):
    """Return counts of targets that add up to those measured, gene by gene.

    Parameters
    ----------
    counts
        ``(n, G)`` predicted for targets.
    measured
        ``(m, G)`` counts of spots.
    share
        csr ``(m, n)``, the part of each target in each spot. Targets outside all spots take the factors of the spots
        around them by inverse distance.
    """
    sums = share @ counts
    factor = np.where(sums > 0, measured / np.where(sums > 0, sums, 1), 1)
    covered = np.asarray(share.sum(axis=0)).ravel()
    inside = (share.T @ factor) / np.where(covered > 0, covered, 1)[:, None]
    distance, index = cKDTree(spots.xy_um).query(targets.xy_um, k=_NEIGHBORS)
    weight = 1 / np.maximum(distance, 1e-6) ** 2
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(targets)), _NEIGHBORS)
    blend = sparse.csr_matrix((weight.ravel(), (rows, index.ravel())), shape=(len(targets), len(spots)))
    return counts * np.where(covered[:, None] > 0, inside, blend @ factor)


@dataclass(frozen=True)
class DenseRidge:
    """Ridge regression of log2(1 + count per spot area) on dense vectors averaged over footprints, and around them.

    Principal components are not whitened (that is much worse), but scaled together to a mean square length of 1. The
    mean of each section is taken out of its targets; that of all sections is added to what is predicted.

    Attributes
    ----------
    bin_um
        Side of the bins that footprints are made of.
    inputs
        From dense vectors to components.
    center, mean, slopes
        Of the features and of the targets, and ``(3 k, G)``.
    residuals
        ``(n, G)`` of training spots, each predicted without its section: what draws are made of.
    area_um2
        Mean area of the footprint of a spot, over pi.
    """

    bin_um: float
    inputs: Inputs
    center: np.ndarray
    mean: np.ndarray
    slopes: np.ndarray
    residuals: np.ndarray
    area_um2: float

    @classmethod
    def fit(cls, sections: Sequence[Section], bin_um: float) -> DenseRidge:
        """Fit on sections with spots, counts and a dense embedding; the penalty is chosen by leaving out sections."""
        under = [Footprints.of(section.spots, bin_um) for section in sections]
        raw = Inputs(standardize=True)
        parts = [scaled_under(s.dense, bins, bin_um, raw) for s, bins in zip(sections, under)]
        inputs = Inputs.fit(parts, _COMPONENTS, standardize=True, whiten=False)
        own = [bins.share @ inputs.projected(part) for bins, part in zip(under, parts)]
        features = [_with_context(values, s.spots, s.spots, values) for values, s in zip(own, sections)]
        area = float(np.mean(np.concatenate([np.square(s.spots.radius_um) for s in sections])))
        targets = [np.log2(1 + s.counts.toarray() * area / np.square(s.spots.radius_um)[:, None]) for s in sections]
        mean = np.concatenate(targets).mean(axis=0)
        center = np.concatenate(features).mean(axis=0)
        x = [values - values.mean(axis=0) for values in features]
        y = [values - values.mean(axis=0) for values in targets]
        left_out = [
            np.concatenate(
                [y[i] - x[i] @ _slopes(x[:i] + x[i + 1 :], y[:i] + y[i + 1 :], penalty) for i in range(len(sections))]
            )
            for penalty in _PENALTIES
        ]
        best = int(np.argmin([np.square(residuals).sum() for residuals in left_out]))
        return cls(bin_um, inputs, center, mean, _slopes(x, y, _PENALTIES[best]), left_out[best], area)

    def predict(self, section: Section, targets: Locations) -> np.ndarray:
        """Return log2(1 + count per spot area) at targets, ``(n, G)``; the section's spots are the anchors."""
        own, anchors = (self._own(section, where) for where in (targets, section.spots))
        return (_with_context(own, targets, section.spots, anchors) - self.center) @ self.slopes + self.mean

    def counts(self, log2: np.ndarray, targets: Locations) -> np.ndarray:
        """Return the counts of targets from log2(1 + count per spot area)."""
        return np.maximum(np.exp2(log2) - 1, _LEAST) * (np.square(targets.radius_um) / self.area_um2)[:, None]

    def _own(self, section: Section, where: Locations) -> np.ndarray:
        under = Footprints.of(where, self.bin_um)
        return under.share @ self.inputs.projected(scaled_under(section.dense, under, self.bin_um, self.inputs))


def _with_context(own: np.ndarray, where: Locations, anchors: Locations, values: np.ndarray) -> np.ndarray:
    """Join ``(n, k)`` with the means over the nearest anchors: ``(n, 3 k)``."""
    tree = cKDTree(anchors.xy_um)
    around = [tree.query(where.xy_um, k=min(n, len(anchors)))[1] for n in _AROUND]
    means = []
    for index in around:
        rows = np.repeat(np.arange(len(index)), index.shape[1])
        ones = np.full(index.size, 1 / index.shape[1])
        means.append(sparse.csr_matrix((ones, (rows, index.ravel())), shape=(len(index), len(values))) @ values)
    return np.concatenate([own, *means], axis=1)


def _slopes(x: list[np.ndarray], y: list[np.ndarray], penalty: float) -> np.ndarray:
    features, targets = np.concatenate(x), np.concatenate(y)
    return np.linalg.solve(features.T @ features + penalty * np.eye(features.shape[1]), features.T @ targets)
