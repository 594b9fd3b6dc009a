"""Which superpixels a spot covers, and what the networks see of a superpixel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

from hisdiff._geometry._grid import BLOCK, bins_touching, block_slices, by_block, outlines, overlap
from hisdiff._kept import Kept
from hisdiff._section import needed
from hisdiff._stats._pca import column_scale, principal_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hisdiff._section import DenseSource, ImageSource, Locations

# Superpixels from which principal axes are found.
_MAX_ROWS = 8000
# Standardised features beyond this are artefacts of a flat patch; it also keeps them in the range of half precision.
_CLIP = 50.0
_KEPT = Kept(512 * 1024**2)


@dataclass(frozen=True)
class Footprints:
    """The superpixels under some spots.

    Attributes
    ----------
    ij
        ``(m, 2)`` superpixels that any spot covers, block by block.
    share
        csr ``(n, m)``: the part of each spot's footprint that a superpixel makes up; rows sum to 1.
    """

    ij: np.ndarray
    share: sparse.csr_matrix

    @classmethod
    def of(cls, spots: Locations, superpixel_um: float, *, whole_discs: bool = False) -> Footprints:
        """Find them, by area, or as discs of whole superpixels around a rounded centre (as published)."""
        if whole_discs:
            return cls._discs(spots, superpixel_um)
        ij = by_block(bins_touching(spots, superpixel_um))
        share = overlap(spots, ij, superpixel_um)
        used = share.getnnz(axis=0) > 0
        return cls(ij[used], _rows_sum_to_one(share[:, used]))

    @classmethod
    def _discs(cls, spots: Locations, superpixel_um: float) -> Footprints:
        centers = np.round(spots.xy_um[:, ::-1] / superpixel_um).astype(np.int64)
        discs = [center + disc(radius / superpixel_um) for center, radius in zip(centers, spots.radius_um)]
        every = np.concatenate(discs)
        ij = by_block(np.unique(every, axis=0))
        number = {(int(i), int(j)): k for k, (i, j) in enumerate(ij)}
        columns = [number[int(i), int(j)] for i, j in every]
        rows = np.repeat(np.arange(len(discs)), [len(d) for d in discs])
        share = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(discs), len(ij)))
        return cls(ij, _rows_sum_to_one(share))

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Return columns of ``share`` and their values as int64 and float32 ``(n, M)``, with 0 behind short rows."""
        sizes = np.diff(self.share.indptr)
        there = np.arange(sizes.max()) < sizes[:, None]
        bins, share = np.zeros(there.shape, dtype=np.int64), np.zeros(there.shape, dtype=np.float32)
        bins[there], share[there] = self.share.indices, self.share.data
        return bins, share


def disc(radius: float) -> np.ndarray:
    """Return the offsets ``(M, 2)`` of the superpixels in a disc, radius in superpixels."""
    reach = np.arange(-int(radius), int(radius) + 1)
    i, j = np.meshgrid(reach, reach, indexing="ij")
    return np.stack([i, j], axis=-1)[i**2 + j**2 <= radius**2]


def _rows_sum_to_one(share: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.asarray(share.sum(axis=1)).ravel()
    return (sparse.diags(1 / np.where(total > 0, total, 1)) @ share).tocsr()


def inside(spots: Locations, image: ImageSource | None) -> np.ndarray:
    """Return which footprints lie inside the image, bool ``(n,)``."""
    if image is None:
        return np.ones(len(spots), dtype=bool)
    x0, y0, x1, y1 = image.bounds_um
    left, top, right, bottom = shapely.bounds(outlines(spots)).T
    return (left >= x0) & (top >= y0) & (right <= x1) & (bottom <= y1)


def dense_rasters(dense: DenseSource, ij: np.ndarray, resolution_um: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of bins, ordered by block, and their raw vectors ``(k, D)``."""
    for rows in block_slices(ij):
        yield rows, vectors_of(dense, ij[rows], resolution_um)


def bin_parts(dense: DenseSource, bins: Locations, finest_um: float) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Yield rows of bins of a grid, into how many parts each is cut, and the raw vectors ``(len(rows) * parts, D)``.

    Bins larger than ``finest_um`` are cut into equal parts that are not, part by part of one bin after the other;
    smaller ones are looked at as they are, since what a vector describes does not depend on the size of the bin.
    """
    assert bins.bin_um is not None
    assert bins.array_ij is not None
    if not len(bins):
        return
    across = max(1, int(np.ceil(bins.bin_um / finest_um - 1e-9)))
    i, j = np.meshgrid(np.arange(across), np.arange(across), indexing="ij")
    offsets = np.stack([i, j], axis=-1).reshape(-1, 2)
    tile = max(1, BLOCK // across)  # the raster of a tile stays small
    _, tiles = np.unique(bins.array_ij // tile, axis=0, return_inverse=True)
    order = np.argsort(tiles.ravel(), kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(tiles.ravel()[order])) + 1):
        ij = (bins.array_ij[rows, None] * across + offsets).reshape(-1, 2)
        yield rows, across**2, vectors_of(dense, ij, bins.bin_um / across)


def vectors_of(dense: DenseSource, ij: np.ndarray, resolution_um: float) -> np.ndarray:
    """Return the raw vectors ``(k, D)`` of bins that lie close together."""
    (i0, j0), (i1, j1) = ij.min(axis=0).tolist(), (ij.max(axis=0) + 1).tolist()
    box = (j0 * resolution_um, i0 * resolution_um, j1 * resolution_um, i1 * resolution_um)
    return dense.raster(box, resolution_um)[ij[:, 0] - i0, ij[:, 1] - j0]


@dataclass(frozen=True)
class Inputs:
    """From raw vectors of a section to what the networks see.

    Attributes
    ----------
    standardize
        Whether vectors are scaled by the section's own mean and standard deviation first, so that a stain of its own
        does not matter.
    center, axes
        ``(D,)`` and ``(D, k)``: mean of the training superpixels and their scaled principal axes; None for the vectors
        themselves.
    """

    standardize: bool
    center: np.ndarray | None = None
    axes: np.ndarray | None = None

    @classmethod
    def fit(
        cls, parts: list[np.ndarray], n_components: int | None, *, standardize: bool, whiten: bool = True
    ) -> Inputs:
        """Find the axes from the scaled vectors of each section's superpixels.

        ``whiten`` gives each component unit variance; else they keep their proportions, with a mean square length of 1
        together.
        """
        if n_components is None:
            return cls(standardize)
        every = np.concatenate(
            [part[:: max(1, len(part) * len(parts) // _MAX_ROWS)].astype(np.float32) for part in parts]
        )
        center, _ = column_scale(every)
        axes, spread = principal_axes(every - center, n_components)
        unit = spread if whiten else np.full_like(spread, np.sqrt(np.square(spread).sum()))
        scaled = axes / np.maximum(unit, 1e-6 * max(float(spread[0]), 1e-6))
        return cls(standardize, center.astype(np.float32), scaled.astype(np.float32))

    def scaled(self, dense: DenseSource, vectors: np.ndarray) -> np.ndarray:
        """Return vectors ``(n, D)`` scaled by their section."""
        if not self.standardize:
            return vectors
        std = np.where(np.asarray(dense.std) > 0, dense.std, 1)
        return np.clip((vectors - dense.mean) / std, -_CLIP, _CLIP).astype(np.float32)

    def projected(self, scaled: np.ndarray) -> np.ndarray:
        """Return what the networks see of scaled vectors, float32 ``(n, k)``."""
        if self.axes is None:
            return scaled.astype(np.float32, copy=False)
        return (scaled.astype(np.float32, copy=False) - needed(self.center)) @ self.axes

    def of(self, dense: DenseSource, vectors: np.ndarray) -> np.ndarray:
        """Return what the networks see of raw vectors, float32 ``(n, k)``."""
        return self.projected(self.scaled(dense, vectors))


def scaled_under(dense: DenseSource, footprints: Footprints, superpixel_um: float, inputs: Inputs) -> np.ndarray:
    """Return the scaled vectors ``(m, D)`` of the superpixels under footprints, not yet projected.

    Half precision is enough for standardised values, and halves the largest array of a fit. Those of a source that tells its
    ``identity`` are kept: the same section is often fitted on again.
    """
    kind = np.float16 if inputs.standardize else np.float32

    def made() -> np.ndarray:
        out = np.empty((len(footprints.ij), len(dense.mean)), dtype=kind)
        for rows, vectors in dense_rasters(dense, footprints.ij, superpixel_um):
            out[rows] = inputs.scaled(dense, vectors)
        return out

    source = getattr(dense, "identity", None)
    where = hashlib.sha256(np.ascontiguousarray(footprints.ij).tobytes()).hexdigest()
    return _KEPT.get(None if source is None else (source, where, superpixel_um, inputs.standardize), made)
