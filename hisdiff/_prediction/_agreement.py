r"""Agreement of fine predictions with the spots that were measured.

The count of a gene at a spot is Poisson around its rate, and its rate is the predicted one, m, times two factors of mean 1 with
Gamma distributions, which are what the prediction does not know: s, which all genes of the spot share, of shape b, and the
gene's own, of shape a. Given the count y the own factor is Gamma again, with mean

.. math:: \frac{y + a}{s m + a}

(conjugacy), so that counts are followed as far as they deserve: a deeply read gene wholly, a single molecule hardly. The shared
factor is told by all genes together, each with the weight :math:`w_g = 1 / (1 + m_g / a_g)`, with which the weighted sum of counts
has the variance of a Poisson count: its mean is :math:`(\sum_g w_g y_g + b) / (\sum_g w_g m_g + b)`. Without it a spot of
twice the molecules would have its deep genes doubled and its shallow ones left, which is another composition.
The bins of a footprint are multiplied by its factor; between footprints it is blended by distance from their edges, so
that it varies continuously, and far from all spots it is that of the section as a whole.

The factor of a draw does two things: it corrects what is expected, as that of the mean does, and it undoes what the draw
happened to have too much or too little of in the footprint. The first reaches between the spots as the mean's does. The
second must not reach further than the noise of a draw is alike (as in conditional simulation by kriging); undone where it
never was, noise would be added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.special import gammaincinv, ndtr
from sklearn.preprocessing import normalize

from hisdiff._geometry import pitch_of
from hisdiff._geometry._grid import bins_touching, bounds, outlines, overlap
from hisdiff._section import Locations, needed

if TYPE_CHECKING:
    from hisdiff._training._calibration import Dispersion

MODES = ("shrink", "exact", "none")

_NEIGHBORS = 6
# In pitches: where the section as a whole weighs as much as a spot, for what is expected and for the noise of a draw.
_FAR, _FAR_NOISE = 2.0, 0.15
# Bins further out of all footprints than this part of the pitch differ from their neighbours by less than can be seen.
_NEAR = 0.05
# Spots times genes that are worked on at once.
_BLOCK_VALUES = 2**20


class Agreement:
    """Factors that bring bins into agreement with measured spots.

    Parameters
    ----------
    spots
        Measured locations.
    counts
        ``(n, G)``, an array or csr; NaN for genes that were not measured, which have the shared factor only.
    dispersion
        Shapes a and b.
    exact
        Whether the bins of a footprint add up to its count.
    lacking
        ``(G,)`` genes that were not measured, where counts are csr.
    """

    def __init__(
        self,
        spots: Locations,
        counts: np.ndarray | sparse.csr_matrix,
        dispersion: Dispersion,
        *,
        exact: bool,
        lacking: np.ndarray | None = None,
    ) -> None:
        self.spots, self.counts, self.dispersion, self.exact = spots, counts, dispersion, exact
        self._lacking = np.zeros(counts.shape[1], dtype=bool) if lacking is None else lacking
        self._bounds = bounds(spots)
        self._tree = cKDTree(spots.xy_um)
        pitch = pitch_of(spots.xy_um)
        self._pitch = pitch if np.isfinite(pitch) else 4 * float(np.median(spots.radius_um))

    def factors(
        self, predicted: np.ndarray, normal: np.ndarray | None = None, of_mean: Factors | None = None
    ) -> Factors:
        """Return the factors of the spots.

        Parameters
        ----------
        predicted
            ``(n, G)`` sums over footprints, m.
        normal
            ``(n, 1 + G)`` standard normal values at which the distributions of the shared and of the genes' own
            factors are inverted; None for their means.
        of_mean
            For a draw, the factors of the mean.
        """
        between = np.empty(predicted.shape, dtype=np.float32)
        inside, missing = (np.empty_like(between), np.empty_like(between)) if self.exact else (between, None)
        sums = np.zeros(2), np.zeros((2, predicted.shape[1]))
        for rows in self._blocks(len(predicted)):
            known, y, m = self._known(predicted, rows)
            counted, expected = (values[:, None] for values in self.dispersion.pooled(y, m))
            shared_at, own_at = (None, None) if normal is None else (normal[rows, :1], normal[rows, 1:])
            shared = _factor(counted, expected, self.dispersion.spot, shared_at)
            between[rows] = shared * _factor(y, shared * m, self.dispersion.gene, own_at, known)
            sums[0][:] += counted.sum(), expected.sum()
            sums[1][:] += y.sum(axis=0), m.sum(axis=0)
            if missing is not None:
                there = m > 0
                inside[rows] = np.where(known, np.where(there, y / np.where(there, m, 1), 0), shared)
                missing[rows] = np.where(known & ~there, y, 0)
        everywhere = _factor(sums[0][0], sums[0][1], self.dispersion.spot)
        whole = everywhere * _factor(sums[1][0], everywhere * sums[1][1], self.dispersion.gene)
        if of_mean is None:
            return Factors(inside, between, whole, missing)
        return Factors(inside, of_mean.between, of_mean.whole, missing, between / of_mean.between)

    def certainty(self, predicted: np.ndarray, pooled: np.ndarray, bins: Locations, blend: Blend) -> Certainty:
        """Return how far counts decide what is expected at bins.

        ``predicted`` are sums over footprints, ``(n, G)``; ``pooled`` is the part of each gene in the factor that all share.
        """
        acts, some = blend.acts()
        followed, left = np.zeros((2, len(some), predicted.shape[1]), dtype=np.float32)
        for rows in self._blocks(len(some)):
            known, y, m = self._known(predicted, some[rows])
            if self.exact:
                followed[rows] = known
                continue
            counted, expected = (values[:, None] for values in self.dispersion.pooled(y, m))
            shared = _factor(counted, expected, self.dispersion.spot)
            followed[rows] = np.where(known, shared * m / (shared * m + self.dispersion.gene), 0)
            # The relative variance of a Gamma variable is one over its shape.
            left[rows] = np.where(known, 1 / (y + self.dispersion.gene), 0) + 1 / (counted + self.dispersion.spot)
        ij = bins_touching(self.spots.take(some), needed(bins.bin_um))
        under = normalize(overlap(self.spots.take(some), ij, needed(bins.bin_um)), norm="l1", axis=1)
        xy_um = Locations.bins(ij, needed(bins.bin_um)).xy_um
        return Certainty(followed, left, pooled, acts, xy_um, under)

    def pooled(self, predicted: np.ndarray) -> np.ndarray:
        """Return the part of each gene in the factor that all genes of a spot share, ``(G,)``, on average over spots; its sum is 1 at most."""
        total = np.zeros(predicted.shape[1])
        for rows in self._blocks(len(predicted)):
            known, y, m = self._known(predicted, rows)
            weighed = m / (1 + m / self.dispersion.gene)
            total += (weighed / (weighed.sum(axis=1, keepdims=True) + self.dispersion.spot)).sum(axis=0)
        return total / max(len(predicted), 1) * (not self.exact)

    def _blocks(self, n: int) -> list[slice]:
        """Return blocks of ``n`` spots that are worked on at once."""
        height = max(1, _BLOCK_VALUES // max(self.counts.shape[1], 1))
        return [slice(start, start + height) for start in range(0, n, height)]

    def _known(self, predicted: np.ndarray, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is known of some spots, bool, and counts and predictions, zero where they are not."""
        counts, expected = self.counts[rows], predicted[rows]
        if not isinstance(counts, np.ndarray):
            counts = counts.toarray()
        known = np.isfinite(counts) & np.isfinite(expected) & ~self._lacking
        return known, np.where(known, counts, 0), np.where(known, expected, 0)

    def closer_than(self, distance_um: float) -> np.ndarray:
        """Return the rows of spots whose footprints are closer to another's than a distance."""
        shapes = outlines(self.spots)
        one, other = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=distance_um)
        return np.unique(one[one != other])

    def footprints(self, bins: Locations, rows: np.ndarray) -> sparse.csr_matrix:
        """Return the part of each bin's area in each footprint of ``rows``, csr ``(len(rows), n)``."""
        assert bins.array_ij is not None
        assert bins.bin_um is not None
        return overlap(self.spots.take(rows), bins.array_ij, bins.bin_um)

    def near(self, bins: Locations) -> np.ndarray:
        """Return the spots whose footprint may touch a box around bins."""
        x0, y0, x1, y1 = _box_of(bins)
        left, top, right, bottom = self._bounds.T
        return np.flatnonzero((left <= x1) & (right >= x0) & (top <= y1) & (bottom >= y0))

    def blend(self, bins: Locations) -> Blend:
        """Return how the factors of spots act at bins."""
        rows = self.near(bins)
        share = self.footprints(bins, rows).tocsc()
        covered = np.asarray(share.sum(axis=0)).ravel()
        touched = covered > 0
        inside = share @ sparse.diags(1 / np.where(touched, covered, 1))
        n = len(self.spots)
        inside = sparse.csr_matrix((inside.T.tocoo().data, (inside.T.tocoo().row, rows[inside.T.tocoo().col])),
                                   shape=(len(bins), n))  # fmt: skip
        k = min(_NEIGHBORS, n)
        free = np.flatnonzero(~touched)
        distance, nearest = self._tree.query(bins.xy_um[free], k=np.arange(1, k + 1))
        to_edge = self._to_edge(bins.xy_um[free], nearest, distance)
        weight = 1 / np.square(to_edge + _NEAR * self._pitch)

        def blended(far: float) -> tuple[sparse.csr_matrix, np.ndarray]:
            rest = 1 / np.square(far * self._pitch)
            total = weight.sum(axis=1) + rest
            where = np.repeat(free, k), nearest.ravel()
            whole = np.zeros(len(bins))
            whole[free] = rest / total
            return sparse.csr_matrix(((weight / total[:, None]).ravel(), where), shape=(len(bins), n)), whole

        between, whole = blended(_FAR)
        alike, _ = blended(_FAR_NOISE)
        area = np.asarray(share.power(2).sum(axis=1)).ravel()
        spread = sparse.csr_matrix(share.T @ sparse.diags(1 / np.where(area > 0, area, 1)))
        return Blend(inside, between, whole, alike, spread, rows)

    def _to_edge(self, xy: np.ndarray, nearest: np.ndarray, distance: np.ndarray) -> np.ndarray:
        shape = self.spots.footprint
        if isinstance(shape, np.ndarray) and shape.dtype == object:
            return shapely.distance(shapely.points(xy)[:, None], shape[nearest])
        return np.maximum(distance - self.spots.radius_um[nearest], 0)


def _factor(
    counts: np.ndarray,
    predicted: np.ndarray,
    shape: np.ndarray,
    normal: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """Return factors given Poisson counts: their means, or draws by normal values; 1 for what is not known."""
    after = counts + shape
    drawn = after if normal is None else gammaincinv(after, np.clip(ndtr(normal), 1e-6, 1 - 1e-6))
    factor = drawn / (predicted + shape)
    return factor if known is None else np.where(known, factor, 1)


def _box_of(bins: Locations) -> tuple[float, float, float, float]:
    assert bins.bin_um is not None
    half = bins.bin_um / 2
    (x0, y0), (x1, y1) = bins.xy_um.min(axis=0) - half, bins.xy_um.max(axis=0) + half
    return x0, y0, x1, y1


class Certainty(NamedTuple):
    """What counts of spots leave of what is not known at bins.

    Attributes
    ----------
    followed
        ``(k, G)`` part, from 0 to 1, by which a spot's expectation follows its count rather than the prediction.
    left
        ``(k, G)`` relative variance that the noise of the count leaves.
    pooled
        ``(G,)`` part of each gene in the factor that all genes of a spot share.
    acts
        csr ``(n, k)``: how far what is undone in a footprint is undone at a bin, 1 inside it.
    xy_um, under
        ``(b, 2)`` places in the footprints, and csr ``(k, b)`` weights of each, with sums of 1.
    """

    followed: np.ndarray
    left: np.ndarray
    pooled: np.ndarray
    acts: sparse.csr_matrix
    xy_um: np.ndarray
    under: sparse.csr_matrix


@dataclass(frozen=True)
class Factors:
    """Factors of the spots of a section, for one draw or for the mean.

    Attributes
    ----------
    inside, between
        ``(n, G)``, for the bins of a footprint and for those around it.
    whole
        ``(G,)``, far from all spots.
    missing
        ``(n, G)`` counts of footprints in which nothing is predicted, to be spread by area; None for none.
    noise
        ``(n, G)``, for a draw, by what its factor differs from that of the mean; None for the mean.
    """

    inside: np.ndarray
    between: np.ndarray
    whole: np.ndarray
    missing: np.ndarray | None = None
    noise: np.ndarray | None = None


class Blend:
    """Effect of the factors of spots on bins; see ``Agreement.blend``."""

    def __init__(
        self,
        inside: sparse.csr_matrix,
        between: sparse.csr_matrix,
        whole: np.ndarray,
        alike: sparse.csr_matrix,
        spread: sparse.csr_matrix,
        rows: np.ndarray,
    ) -> None:
        # Of the spots that act here: a product with all of them would first copy their factors in double precision.
        self._near = np.unique(np.concatenate([inside.indices, between.indices, alike.indices]))
        self._inside, self._between, self._alike = (of[:, self._near] for of in (inside, between, alike))
        self._whole, self._spread, self._rows = whole, spread, rows

    def acts(self) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return how far what the factors of a draw undo is undone at bins, csr ``(n, k)``, and the rows of the spots."""
        return self._inside + self._alike, self._near

    def __call__(self, counts: np.ndarray, factors: Factors) -> np.ndarray:
        """Return counts of bins ``(n, G)`` in agreement, float32."""
        near = self._near
        factor = self._inside @ factors.inside[near] + self._between @ factors.between[near]
        factor += self._whole[:, None] * factors.whole
        if factors.noise is not None:
            factor *= 1 + self._alike @ factors.noise[near] - np.asarray(self._alike.sum(axis=1)).reshape(-1, 1)
        result = counts * factor
        if factors.missing is not None:
            result += self._spread @ factors.missing[self._rows]
        return result.astype(np.float32)
