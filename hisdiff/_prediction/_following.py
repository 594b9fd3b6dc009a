r"""What is left of the noise of draws where counts of spots are followed, in closed form: at bins, and in means over shapes.

Let n be smooth noise of variance 1, :math:`\bar n_i` its mean over the footprint of spot i, and :math:`a_{ci}` how far what a draw has too
much of in a footprint is undone at bin c. With f the part by which a gene follows its count, loadings L and their mean over the genes of
a spot, :math:`\bar L`, which the factor that all genes share undoes, what is left of a draw is

.. math:: n_c L - \sum_i a_{ci}\, \bar n_i \, \big(f L + (1 - f) \bar L\big) .

Noise is white at the nodes of a lattice, so that all variances are sums of squares of blended weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff._prediction._field import SmoothNoise
from hisdiff._section import needed

if TYPE_CHECKING:
    from scipy import sparse

    from hisdiff._prediction._agreement import Certainty

_MIN = 1e-12


class NoiseLeft(NamedTuple):
    """Variances of smooth noise and of what counts undo of it, ``(n, 1)`` each.

    Attributes
    ----------
    own, undone, common
        Of the noise, of what is undone where counts are followed wholly, and the covariance of both.
    """

    own: np.ndarray
    undone: np.ndarray
    common: np.ndarray

    @classmethod
    def of(cls, own: sparse.csr_matrix, undone: sparse.csr_matrix) -> NoiseLeft:
        """Return those for weights, csr ``(n, nodes)``, of white noise."""
        products = own.multiply(own), undone.multiply(undone), own.multiply(undone)
        return cls(*(np.asarray(product.sum(axis=1)).reshape(-1, 1) for product in products))

    def mixed(self, other: NoiseLeft, share: float) -> NoiseLeft:
        """Return those of a mixture with independent noise, of which the other has a share."""
        return NoiseLeft(*((1 - share) * a + share * b for a, b in zip(self, other)))

    def variance(self, followed: np.ndarray) -> np.ndarray:
        """Return what is left where each gene follows its count by a part ``(n, G)``."""
        left: np.ndarray = self.own - 2 * followed * self.common + np.square(followed) * self.undone
        return np.maximum(left, 0)  # below by rounding where all is undone

    def variance_of(self, loadings: np.ndarray, followed: np.ndarray, pooled: np.ndarray) -> np.ndarray:
        """Return what is left of factors with loadings ``(K, G)``, of which spots undo the mean over genes with weights ``pooled``."""
        mean, apart = loadings @ pooled, 1 - followed
        squares, along = np.square(loadings).sum(axis=0), mean @ loadings
        shared = np.square(apart) * (mean @ mean) * self.undone
        left = squares * self.variance(followed) + 2 * apart * along * (followed * self.undone - self.common) + shared
        return np.maximum(left, 0)


@dataclass(frozen=True)
class Following:
    """What counts leave at places, or in means over shapes.

    Attributes
    ----------
    xy_um
        ``(n, 2)`` places.
    known
        What counts of spots say of them; None for nothing.
    weights
        csr ``(m, n)`` with sums of 1, the part of each place in each shape; None for the places themselves.
    """

    xy_um: np.ndarray
    known: Certainty | None
    weights: sparse.csr_matrix | None = None

    @cached_property
    def reach(self) -> np.ndarray:
        """``(m, 1)``, how far what is undone in footprints is undone here, of all spots together."""
        return self._none if self.known is None else np.asarray(self._acts.sum(axis=1)).reshape(-1, 1)

    @cached_property
    def followed(self) -> np.ndarray:
        """``(m, G)``, the part by which the spots that act here follow their counts."""
        if self.known is None:
            return self._none
        return (self._acts @ self.known.followed) / np.maximum(self.reach, _MIN)

    @property
    def left(self) -> np.ndarray:
        """``(m, G)``, relative variance that the noise of counts leaves."""
        return self._none if self.known is None else self._acts.power(2) @ self.known.left

    def noise(self, spacing_um: float) -> NoiseLeft:
        """Return variances of smooth noise of variance 1."""
        if self.known is None:
            own = self._over(SmoothNoise(0, self.xy_um, spacing_um).blend)
            return NoiseLeft.of(own, own * 0)
        known, n = self.known, len(self.xy_um)
        blend = SmoothNoise(0, np.concatenate([self.xy_um, known.xy_um]), spacing_um).blend
        return NoiseLeft.of(self._over(blend[:n]), self._acts @ (known.under @ blend[n:]))

    def kept(self, here: np.ndarray, at_places: np.ndarray) -> np.ndarray | float:
        """Return variances here relative to those at the places, ``(m, G)``; 1 for the places themselves."""
        return 1.0 if self.weights is None else here / np.maximum(self.weights @ at_places, _MIN)

    @property
    def _none(self) -> np.ndarray:
        return np.zeros((len(self.xy_um) if self.weights is None else self.weights.shape[0], 1))

    @cached_property
    def _acts(self) -> sparse.csr_matrix:
        return self._over(needed(self.known).acts)

    def _over(self, of_places: sparse.csr_matrix) -> sparse.csr_matrix:
        return of_places if self.weights is None else self.weights @ of_places
