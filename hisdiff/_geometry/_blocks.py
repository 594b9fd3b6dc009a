"""Blocks of neighbouring spots of a capture array."""

from __future__ import annotations

import numpy as np
import shapely


def blocks_of(array_ij: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks of ``n`` x ``n`` places for spots that hold a spot, and the block of each spot.

    On a hexagonal array, whose rows have a spot at every other column only, a block is ``2 n`` columns wide.

    Parameters
    ----------
    array_ij
        ``(m, 2)`` integer (row, column) of each spot.

    Returns
    -------
    ``(b, 2)`` (row, column) of the blocks, in order, and ``(m,)`` rows of it.
    """
    array_ij = np.asarray(array_ij, dtype=np.int64)
    side = [n, 2 * n if is_hexagonal(array_ij) else n]
    found, block = np.unique(array_ij // side, axis=0, return_inverse=True)
    return found, block.ravel()


def is_hexagonal(array_ij: np.ndarray) -> bool:
    """Whether the rows of an array ``(m, 2)`` have a spot at every other column only, in turn, as those of Visium do."""
    return len(array_ij) > 1 and int(np.ptp(np.asarray(array_ij).sum(axis=1) % 2)) == 0


def unions(geometry: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return the union of the outlines of each block, ``(b,)`` polygons, of several parts where members lie apart."""
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], np.arange(1, block.max(initial=-1) + 1))
    return np.array([shapely.union_all(part) for part in np.split(geometry[order], starts)], dtype=object)
