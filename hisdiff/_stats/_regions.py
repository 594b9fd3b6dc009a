"""Maps on a grid of bins: smoothing, clusters without crumbs, and which types are found in which cluster."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# A pseudocount of half a bin keeps odds of empty combinations finite.
_HALF = 0.5


def to_raster(values: np.ndarray, ij: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """Return values ``(n, ...)`` of bins ``(n, 2)`` as a raster ``(rows, columns, ...)``, ``empty`` where there is no bin."""
    first = ij.min(axis=0)
    shape = tuple(ij.max(axis=0) - first + 1)
    raster = np.full((*shape, *values.shape[1:]), empty, dtype=np.result_type(values.dtype, type(empty)))
    raster[tuple((ij - first).T)] = values
    return raster


def smoothed(values: np.ndarray, ij: np.ndarray, sigma: float) -> np.ndarray:
    """Return the Gaussian mean around each bin over the bins that are there, float32 ``(n, k)``.

    Parameters
    ----------
    values
        ``(n, k)``.
    ij
        ``(n, 2)`` row and column of the bins.
    sigma
        In bins; the window ends after four.
    """
    if sigma <= 0:
        return values.astype(np.float32)
    at = tuple((ij - ij.min(axis=0)).T)
    weight = ndimage.gaussian_filter(to_raster(np.ones(len(ij)), ij, 0.0), sigma, mode="constant")[at]
    out = np.empty(values.shape, dtype=np.float32)
    for column in range(values.shape[1]):
        raster = to_raster(values[:, column].astype(np.float64), ij, 0.0)
        out[:, column] = ndimage.gaussian_filter(raster, sigma, mode="constant")[at] / weight
    return out


def block_means(values: np.ndarray, ij: np.ndarray, side: int) -> np.ndarray:
    """Return the mean over the block of ``side`` x ``side`` bins that each bin lies in, ``(n, k)``."""
    _, block = np.unique(ij // side, axis=0, return_inverse=True)
    block = block.ravel()
    sums = np.zeros((block.max() + 1, values.shape[1]))
    np.add.at(sums, block, values)
    return (sums / np.bincount(block)[:, None])[block]


def merged(labels: np.ndarray, ij: np.ndarray, least: int) -> np.ndarray:
    """Return labels ``(n,)`` in which no connected part is smaller than ``least`` bins, unless it has no neighbour.

    Parts are connected along sides. The smallest goes first and takes the most frequent label among its eight
    neighbours.
    """
    raster = np.pad(to_raster(labels.astype(np.int64), ij, -1).astype(np.int64), 1, constant_values=-1)
    around = np.ones((3, 3), dtype=bool)
    passed_over: set[tuple[int, int]] = set()  # parts without any neighbour, by their first bin
    while True:
        parts = _small_parts(raster, least)
        changed = False
        for size, label, corner, box, part in sorted(parts, key=lambda p: (p[0], p[2])):
            if corner in passed_over:
                continue
            window = tuple(slice(s.start - 1, s.stop + 1) for s in box)
            mine = np.pad(part, 1)
            if not (raster[window][mine] == label).all() or size >= least:
                continue  # joined to another one meanwhile
            beside = ndimage.binary_dilation(mine) & ~mine
            if (raster[window][beside] == label).any():  # it has grown meanwhile; looked at again in the next round
                continue
            near = raster[window][ndimage.binary_dilation(mine, around) & ~mine]
            near = near[(near >= 0) & (near != label)]
            if not len(near):
                passed_over.add(corner)
                continue
            raster[window][mine] = np.bincount(near).argmax()
            changed = True
        if not changed:
            break
    return raster[1:-1, 1:-1][tuple((ij - ij.min(axis=0)).T)].astype(labels.dtype)


def _small_parts(
    raster: np.ndarray, least: int
) -> list[tuple[int, int, tuple[int, int], tuple[slice, slice], np.ndarray]]:
    """Return size, label, first bin, box and mask in the box of each connected part below a size."""
    found = []
    for label in np.unique(raster[raster >= 0]):
        numbered, _ = ndimage.label(raster == label)
        sizes = np.bincount(numbered.ravel())
        for number, box in enumerate(ndimage.find_objects(numbered), 1):
            if sizes[number] < least:
                part = numbered[box] == number
                i, j = np.argwhere(part)[0]
                found.append(
                    (int(sizes[number]), int(label), (int(box[0].start + i), int(box[1].start + j)), box, part)
                )
    return found


def by_size(labels: np.ndarray) -> np.ndarray:
    """Return labels renumbered from 0 in the order of how many bins have them, most first."""
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[index.ravel()]


def log2_odds_ratios(table: np.ndarray) -> np.ndarray:
    """Return log2 odds ratios of a contingency table ``(..., k, t)``, each combination against all others.

    Half a bin is added to every combination, so that one that does not occur has finite odds.
    """
    both = table + _HALF
    total = both.sum(axis=(-2, -1), keepdims=True)
    row, column = both.sum(axis=-1, keepdims=True), both.sum(axis=-2, keepdims=True)
    rest = total - row - column + both
    return np.log2(both * rest / ((row - both) * (column - both)))


def enrichment_range(
    rows: np.ndarray,
    columns: np.ndarray,
    blocks: np.ndarray,
    shape: tuple[int, int],
    *,
    n: int,
    level: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of log2 odds ratios over resampled blocks of tissue, two arrays of ``shape``.

    Neighbouring bins resemble each other, so that single bins would make any difference look certain.

    Parameters
    ----------
    rows, columns
        ``(n_bins,)`` numbers of the row and column of the contingency table that each bin falls into.
    blocks
        ``(n_bins,)`` number of the block that each bin lies in.
    shape
        Of the table.
    n, level, seed
        Resamples, coverage, and seed.
    """
    n_blocks = int(blocks.max()) + 1
    each = np.zeros((n_blocks, *shape))
    np.add.at(each, (blocks, rows, columns), 1)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n)
    ratios = log2_odds_ratios(np.tensordot(times, each, axes=1))
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
