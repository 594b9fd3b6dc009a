"""The dense embedding of a place as it is, and averaged over its surroundings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import correlate1d

from hisdiff._kept import Kept
from hisdiff._prediction._superpixels import Inputs, dense_rasters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._prediction._superpixels import Footprints
    from hisdiff._section import Box, DenseSource, FeatureSpec

# Standard deviations at which the window ends. Every bin of it is a margin that has to be embedded around a tile.
_REACH = 5 / 3
_KEPT = Kept(512 * 1024**2)


@dataclass(frozen=True)
class Averaged:
    """Components of a dense embedding, averaged with Gaussian windows; a :class:`~hisdiff._section.DenseSource`.

    What is seen of a place depends on the place alone: boxes are read with a margin.

    Attributes
    ----------
    dense, inputs
        The embedding, and from its vectors to components.
    windows_um
        Standard deviations; 0 for the place itself. Components for one follow those for the one before.
    """

    dense: DenseSource
    inputs: Inputs
    windows_um: tuple[float, ...]

    @property
    def spec(self) -> FeatureSpec:
        """What decides the values of the embedding."""
        return self.dense.spec

    @property
    def mean(self) -> np.ndarray:
        """Of the embedding over the section."""
        return self.dense.mean

    @property
    def std(self) -> np.ndarray:
        """Of the embedding over the section."""
        return self.dense.std

    def raster(self, box_um: Box, resolution_um: float) -> np.ndarray:
        """Return float32 ``(rows, columns, len(windows_um) * k)``."""
        margin = max(len(_taps(window, resolution_um)) // 2 for window in self.windows_um)
        more = margin * resolution_um
        x0, y0, x1, y1 = box_um
        vectors = self.dense.raster((x0 - more, y0 - more, x1 + more, y1 + more), resolution_um)
        height, width = vectors.shape[:2]
        seen = self.inputs.of(self.dense, vectors.reshape(height * width, -1)).reshape(height, width, -1)
        inside = (slice(margin, height - margin), slice(margin, width - margin))
        return np.concatenate([_averaged(seen, window, resolution_um)[inside] for window in self.windows_um], axis=2)


def _taps(window_um: float, resolution_um: float) -> np.ndarray:
    """Return the weights of bins along an axis, an odd number of them with sum 1."""
    if window_um == 0:
        return np.ones(1)
    reach = int(_REACH * window_um / resolution_um + 1e-9)
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) * resolution_um / window_um))
    return taps / taps.sum()


def _averaged(values: np.ndarray, window_um: float, resolution_um: float) -> np.ndarray:
    """Return values ``(rows, columns, k)`` averaged with a window; what is nearer to the border than its reach is wrong."""
    if window_um == 0:
        return values
    taps = _taps(window_um, resolution_um)
    return correlate1d(correlate1d(values, taps, axis=0, mode="nearest"), taps, axis=1, mode="nearest")


def averaged_under(
    dense: DenseSource, footprints: Footprints, bin_um: float, windows_um: Sequence[float]
) -> list[np.ndarray]:
    """Return for each window the scaled vectors ``(m, D)`` of the bins under footprints, not yet projected.

    Half precision is enough for standardised values, and halves the largest arrays of a fit. Those of a source that tells its
    ``identity`` are kept: the same section is often fitted on again.
    """

    def made() -> np.ndarray:
        seen = Averaged(dense, Inputs(standardize=True), tuple(windows_um))
        out = np.empty((len(footprints.ij), len(windows_um) * len(dense.mean)), dtype=np.float16)
        for rows, vectors in dense_rasters(seen, footprints.ij, bin_um):
            out[rows] = vectors
        return out

    source = getattr(dense, "identity", None)
    where = hashlib.sha256(np.ascontiguousarray(footprints.ij).tobytes()).hexdigest()
    key = None if source is None else (source, where, bin_um, *windows_um)
    return np.split(_KEPT.get(key, made), len(windows_um), axis=1)
