"""Fields: predictions anywhere in a section, from methods that predict location by location; and noise that is smooth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from hisdiff._keys import COUNTS
from hisdiff._prediction._noise import BlockNoise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from hisdiff._section import Locations, Prediction, Section
    from hisdiff._training._calibration import Calibration

# A node further away than this many spacings gets zero weight.
_REACH = 2
# Width of a node's weight, in spacings: below .6 the field would show its nodes.
_SPREAD = 0.7
# Correlation length of draws of methods that predict bin by bin: about the width of a spot, in um.
_SHARED_UM = 55.0
# Points along the radius of a disc over which a mean is taken.
_ACROSS = 6


class StdPart(NamedTuple):
    """A part of the standard deviation of bins, as their sums over shapes need it.

    Attributes
    ----------
    std
        ``(n, G)``.
    kept
        ``(m, G)``, variance of means over shapes relative to that of their bins; 1 for what is the same all over a shape.
    """

    std: np.ndarray
    kept: np.ndarray | float = 1.0


class Pointwise(Protocol):
    """A fitted method that predicts location by location."""

    @property
    def genes(self) -> np.ndarray: ...

    @property
    def calibration(self) -> Calibration | None: ...

    @property
    def predict(self) -> Callable[..., Prediction]:
        """Predict at locations; see ``hisdiff.methods.Fitted``."""


@dataclass
class PatchField:
    """Every bin is predicted like a spot around it: exact, and one pass of the encoder per bin.

    Attributes
    ----------
    fitted, section, options
        The method, where it predicts, and what to call its ``predict`` with.
    footprint_um2
        Area of a training spot.
    n_draws
        How many draws.
    """

    fitted: Pointwise
    section: Section
    footprint_um2: float
    n_draws: int
    options: Mapping[str, Any]
    fitted_to_section: bool = False
    _last: tuple[Locations, Prediction] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        calibration = self.fitted.calibration
        self.genes = self.fitted.genes
        self.dispersion = None if calibration is None else calibration.dispersion

    def mean(self, bins: Locations) -> np.ndarray:
        """Return the expectation; see ``Field``."""
        return self._predict(bins).mean

    @property
    def std(self) -> Callable[[Locations], np.ndarray] | None:
        """How much draws vary that follow no counts, where the method knows it in closed form."""
        known = getattr(self.fitted, "cohort_model", None) is not None
        return (lambda bins: self._predict(bins).std) if known else None

    def draws(self, bins: Locations) -> Iterator[np.ndarray]:
        """Yield draws; see ``Field``."""
        drawn = self._predict(bins).draws
        assert drawn is not None
        yield from drawn

    def _predict(self, bins: Locations) -> Prediction:
        if self._last is None or self._last[0] is not bins:  # an encoder's pass over all bins is not made twice
            made = self.fitted.predict(
                self.section, bins, n_draws=self.n_draws, keep_draws=self.n_draws, units=COUNTS, **self.options
            )
            self._last = bins, made
        return self._last[1]


class SmoothNoise:
    """Gaussian noise of variance 1 that varies smoothly over a plane.

    White noise at the nodes of a square lattice anchored at the origin of um is blended by Gaussian weights, so that a
    value depends on place, seed, draw and purpose alone. The correlation falls to one half within about a spacing.

    Parameters
    ----------
    seed
        Integer of zero or above.
    xy_um
        ``(n, 2)`` places.
    spacing_um
        Of the nodes.

    Attributes
    ----------
    blend
        csr ``(n, nodes)``, weights of the white noise at nodes.
    """

    def __init__(self, seed: int, xy_um: np.ndarray, spacing_um: float) -> None:
        place = np.asarray(xy_um)[:, ::-1] / spacing_um - 0.5  # (row, column) in spacings from the first node
        first = np.floor(place).astype(np.int64)
        offsets = np.arange(1 - _REACH, _REACH + 1)
        around = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1).reshape(-1, 2)
        nodes = first[:, None] + around
        square = np.square(place[:, None] - nodes).sum(axis=2)
        # Down to zero at the edge of the reach, so that no step shows where nodes come and go.
        edge = np.clip(1 - np.abs(place[:, None] - nodes) / _REACH, 0, None).prod(axis=2)
        weights = np.exp(-square / (2 * _SPREAD**2)) * edge
        weights /= np.sqrt(np.square(weights).sum(axis=1, keepdims=True))
        # As one number each: to sort pairs takes ten times as long.
        corner = nodes.min(axis=(0, 1), initial=0)
        width = int(nodes[..., 1].max(initial=0) - corner[1]) + 1
        flat, index = np.unique((nodes - corner) @ [width, 1], return_inverse=True)
        used = np.stack(np.divmod(flat, width), axis=1) + corner
        row = np.repeat(np.arange(len(place)), len(around))
        self.blend = sparse.csr_matrix((weights.ravel(), (row, index.ravel())), shape=(len(place), len(used)))
        self._noise = BlockNoise.for_grid(seed, used)

    @classmethod
    def at(cls, seed: int, locations: Locations) -> SmoothNoise | BlockNoise:
        """Noise of the bins of a grid that neighbours share; that of other locations is independent."""
        if locations.bin_um is None:
            return BlockNoise.at(seed, locations)
        return cls(seed, locations.xy_um, max(_SHARED_UM, locations.bin_um))

    def normal(self, draw: int, purpose: int, rows: np.ndarray, width: int) -> np.ndarray:
        """Return float32 ``(len(rows), width)``, standard normal at every place; as ``BlockNoise.normal``."""
        blend, nodes, noise = self.parts(rows)
        return (blend @ noise.normal(draw, purpose, nodes, width)).astype(np.float32)

    def parts(self, rows: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray, BlockNoise]:
        """Return the weights of rows, csr ``(len(rows), k)``, and the ``(k,)`` rows of the white noise that they blend."""
        blend = self.blend[rows]
        nodes = np.unique(blend.indices)
        return blend[:, nodes], nodes, self._noise

    def deviation(self, blend: sparse.csr_matrix) -> np.ndarray:
        """Return the standard deviation of weighted means of the noise, ``(n,)`` for weights csr ``(n, places)``."""
        return np.sqrt(np.asarray((blend @ self.blend).power(2).sum(axis=1)).ravel())

    @classmethod
    def variance_of_mean(cls, radius_um: float, spacing_um: float) -> float:
        """Return the variance of the mean over a disc, on average over where it lies: 1 where the disc is small."""
        reach = radius_um * (np.arange(-_ACROSS, _ACROSS + 1) / _ACROSS)
        x, y = np.meshgrid(reach, reach)
        disc = np.stack([x, y], axis=-1)[x**2 + y**2 <= radius_um**2]
        offsets = np.stack(np.meshgrid(np.arange(4), np.arange(4)), axis=-1).reshape(-1, 2) * spacing_um / 4
        blends = [cls(0, disc + offset, spacing_um).blend for offset in offsets]
        return float(np.mean([np.square(np.asarray(blend.mean(axis=0))).sum() for blend in blends]))
