r"""Agreement of fine predictions with the spots that were measured.

The count of a spot is Poisson around its rate, and its rate is the predicted one, m, times a factor of mean 1 whose
Gamma distribution has shape a: what the prediction does not know. Given the count y the factor is Gamma again, with mean

.. math:: \frac{y + a}{m + a}

(conjugacy), so that counts are followed as far as they deserve: a deeply read spot wholly, a single molecule hardly.
The cells of a footprint are multiplied by its factor; between footprints it is blended by distance from their edges, so
that it varies continuously, and far from all spots it is that of the section as a whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.special import gammaincinv, ndtr

from hisdiff._geometry import pitch_of
from hisdiff._geometry._grid import outlines, overlap

if TYPE_CHECKING:
    from hisdiff._section import Locations

MODES = ("shrink", "exact", "none")

_NEIGHBOURS = 6
# In pitches: where the section as a whole weighs as much as a spot.
_FAR = 2.0
# Cells further out of all footprints than this part of the pitch differ from their neighbours by less than can be seen.
_NEAR = 0.05


class Agreement:
    """Factors that bring cells into agreement with measured spots.

    Parameters
    ----------
    spots
        Measured locations.
    counts
        ``(n, G)``; NaN for genes that were not measured, which are left as predicted.
    gamma_shape
        ``(G,)``, a.
    exact
        Whether the cells of a footprint add up to its count.
    """

    def __init__(self, spots: Locations, counts: np.ndarray, gamma_shape: np.ndarray, *, exact: bool) -> None:
        self.spots, self.counts, self.exact = spots, counts, exact
        self.shape = np.asarray(gamma_shape, dtype=np.float64)
        self._outlines = outlines(spots)
        self._tree = cKDTree(spots.xy_um)
        pitch = pitch_of(spots.xy_um)
        self._pitch = pitch if np.isfinite(pitch) else 4 * float(np.median(spots.radius_um))

    def factors(self, predicted: np.ndarray, normal: np.ndarray | None = None) -> Factors:
        """Return the factors of the spots.

        Parameters
        ----------
        predicted
            ``(n, G)`` sums over footprints, m.
        normal
            ``(n, G)`` standard normal values at which the distribution of the factor is inverted; None for its mean.
        """
        known = np.isfinite(self.counts) & np.isfinite(predicted)
        y, m = np.where(known, self.counts, 0), np.where(known, predicted, 0)
        after = y + self.shape
        between = after if normal is None else gammaincinv(after, np.clip(ndtr(normal), 1e-6, 1 - 1e-6))
        between = np.where(known, between / (m + self.shape), 1)
        total = np.where(known, y, 0).sum(axis=0) + self.shape, np.where(known, m, 0).sum(axis=0) + self.shape
        whole = total[0] / total[1]
        if not self.exact:
            return Factors(between, between, whole, None)
        there = m > 0
        inside = np.where(known, np.where(there, y / np.where(there, m, 1), 0), 1)
        return Factors(inside, between, whole, np.where(known & ~there, y, 0))

    def footprints(self, cells: Locations, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the part of each cell's area in each footprint of ``rows``, csr ``(len(rows), n)``."""
        assert cells.array_ij is not None
        assert cells.cell_um is not None
        return overlap(self.spots.take(rows), cells.array_ij, cells.cell_um)

    def near(self, cells: Locations) -> np.ndarray:
        """Return the spots whose footprint may touch a box around cells."""
        return np.flatnonzero(shapely.intersects(self._outlines, shapely.box(*_box_of(cells))))

    def blend(self, cells: Locations) -> Blend:
        """Return how the factors of spots act at cells."""
        rows = self.near(cells)
        share = self.footprints(cells, rows).tocsc()
        covered = np.asarray(share.sum(axis=0)).ravel()
        touched = covered > 0
        inside = share @ sparse.diags(1 / np.where(touched, covered, 1))
        n = len(self.spots)
        inside = sparse.csr_matrix((inside.T.tocoo().data, (inside.T.tocoo().row, rows[inside.T.tocoo().col])),
                                   shape=(len(cells), n))  # fmt: skip
        k = min(_NEIGHBOURS, n)
        free = np.flatnonzero(~touched)
        distance, nearest = self._tree.query(cells.xy_um[free], k=np.arange(1, k + 1))
        to_edge = self._to_edge(cells.xy_um[free], nearest, distance)
        weight = 1 / np.square(to_edge + _NEAR * self._pitch)
        rest = np.full(len(free), 1 / np.square(_FAR * self._pitch))
        total = weight.sum(axis=1) + rest
        between = sparse.csr_matrix(
            ((weight / total[:, None]).ravel(), (np.repeat(free, k), nearest.ravel())), shape=(len(cells), n)
        )
        whole = np.zeros(len(cells))
        whole[free] = rest / total
        area = np.asarray(share.power(2).sum(axis=1)).ravel()
        spread = sparse.csr_matrix(share.T @ sparse.diags(1 / np.where(area > 0, area, 1)))
        return Blend(inside, between, whole, spread, rows)

    def _to_edge(self, xy: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> np.ndarray:
        shape = self.spots.footprint
        if isinstance(shape, np.ndarray) and shape.dtype == object:
            return shapely.distance(shapely.points(xy)[:, None], self._outlines[nearest])
        return np.maximum(distance - self.spots.radius_um[nearest], 0)


def _box_of(cells: Locations) -> tuple[float, float, float, float]:
    assert cells.cell_um is not None
    half = cells.cell_um / 2
    (x0, y0), (x1, y1) = cells.xy_um.min(axis=0) - half, cells.xy_um.max(axis=0) + half
    return x0, y0, x1, y1


class Factors:
    """Factors of the spots of a section, for one draw or for the mean.

    Attributes
    ----------
    inside, between
        ``(n, G)``, for the cells of a footprint and for those around it.
    whole
        ``(G,)``, far from all spots.
    missing
        ``(n, G)`` counts of footprints in which nothing is predicted, to be spread by area; None for none.
    """

    def __init__(
        self, inside: np.ndarray, between: np.ndarray, whole: np.ndarray, missing: np.ndarray | None = None
    ) -> None:
        self.inside, self.between, self.whole, self.missing = inside, between, whole, missing


class Blend:
    """What the factors of spots make of the cells they were asked for; see ``Agreement.blend``."""

    def __init__(
        self,
        inside: sparse.csr_matrix,
        between: sparse.csr_matrix,
        whole: np.ndarray,
        spread: sparse.csr_matrix,
        rows: np.ndarray,
    ) -> None:
        self._inside, self._between, self._whole = inside, between, whole
        self._spread, self._rows = spread, rows

    def __call__(self, counts: np.ndarray, factors: Factors) -> np.ndarray:
        """Return counts of cells ``(n, G)`` in agreement, float32."""
        factor = self._inside @ factors.inside + self._between @ factors.between
        factor += self._whole[:, None] * factors.whole
        result = counts * factor
        if factors.missing is not None:
            result += self._spread @ factors.missing[self._rows]
        return result.astype(np.float32)
