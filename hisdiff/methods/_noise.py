"""Standard normal noise that is addressed, not consumed: a value depends on where it belongs and on nothing else."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ROW_BLOCK = 4096
"""Rows of a spot table that share a block."""
CELL_BLOCK = 64
"""Side of a block of grid cells."""

_LANES = 4  # 64-bit words that Philox gives per tick of its counter
_OFFSET_BITS = 64


class BlockNoise:
    """Noise keyed by seed, draw, step, block and the rank of a row inside its block.

    A counter-based generator (Philox) is set to the address of a row, so that any rows of any draw can be asked for in
    any order, together or alone, and are the same each time. How many draws or rows are asked for has no influence, nor
    have batches, tiles and resumption.

    Parameters
    ----------
    seed
        Integer of zero or above.
    blocks
        ``(n,)`` or ``(n, 2)`` integers below ``2**31`` in size: the block of each row.
    ranks
        ``(n,)`` place of each row inside its block, zero or above.
    """

    def __init__(self, seed: int, blocks: np.ndarray, ranks: np.ndarray) -> None:
        blocks = np.asarray(blocks, dtype=np.int64)
        self._block = _packed(blocks.reshape(len(blocks), -1))
        self._rank = np.asarray(ranks, dtype=np.int64)
        if self._block.shape != self._rank.shape:
            raise ValueError(f"There are {len(self._block)} blocks for {len(self._rank)} ranks.")
        self._key = _key(int(seed))

    def __len__(self) -> int:
        return len(self._rank)

    @classmethod
    def for_rows(cls, seed: int, n: int) -> BlockNoise:
        """Noise of the ``n`` rows of a table, in blocks of ``ROW_BLOCK`` rows."""
        rows = np.arange(n)
        return cls(seed, rows // ROW_BLOCK, rows % ROW_BLOCK)

    @classmethod
    def for_grid(cls, seed: int, ij: np.ndarray) -> BlockNoise:
        """Noise of grid cells at integer ``(n, 2)`` positions (row, column), in blocks of 64 x 64 cells."""
        ij = np.asarray(ij, dtype=np.int64)
        if ij.ndim != 2 or ij.shape[1] != 2:
            raise ValueError(f"Cells of a grid are given as (n, 2) rows and columns, not as {ij.shape}.")
        block, inside = np.divmod(ij, CELL_BLOCK)
        return cls(seed, block, inside[:, 0] * CELL_BLOCK + inside[:, 1])

    def normal(self, draw: int, step: int, rows: np.ndarray, width: int) -> np.ndarray:
        """Return the noise of one draw at one step.

        Parameters
        ----------
        draw, step
            Integers of zero or above; step 0 is by convention the start of sampling.
        rows
            ``(k,)`` indices of rows; all rows are ``np.arange(len(noise))``.
        width
            Values per row, the same for every call on the same rows.

        Returns
        -------
        float32 ``(k, width)``.
        """
        rows = np.asarray(rows, dtype=np.int64)
        block, rank = self._block[rows], self._rank[rows]
        ticks = -(-width // (2 * _LANES))  # each 64-bit word makes two normals
        words = np.empty((len(rows), ticks * _LANES), dtype=np.uint64)
        # Neighbours in a block lie one behind the other in the generator's sequence: one call fills a whole run of them.
        follows = (block[1:] == block[:-1]) & (rank[1:] == rank[:-1] + 1)
        bounds = (
            np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(rows)]]) if len(rows) else np.zeros(1, np.int64)
        )
        for first, last in zip(bounds[:-1], bounds[1:]):
            counter = np.array([rank[first] * ticks, block[first], draw, step], dtype=np.uint64)
            generator = np.random.Philox(key=self._key, counter=counter)
            words[first:last] = generator.random_raw((last - first) * ticks * _LANES).reshape(last - first, -1)
        return _box_muller(words)[:, :width]


@lru_cache(maxsize=64)
def _key(seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(2, np.uint64)


def _packed(blocks: np.ndarray) -> np.ndarray:
    """Fold one or two block coordinates into one 64-bit word; negative ones are kept apart by two's complement."""
    if blocks.shape[1] == 1:
        return blocks[:, 0].astype(np.uint64)
    if blocks.shape[1] != 2:
        raise ValueError(f"A block has one or two coordinates, not {blocks.shape[1]}.")
    low = np.uint64(0xFFFFFFFF)
    high, rest = blocks.astype(np.uint64).T
    return (high & low) << np.uint64(32) | (rest & low)


def _box_muller(words: np.ndarray) -> np.ndarray:
    """Turn 64-bit words ``(k, w)`` into standard normals, float32 ``(k, 2 w)``.

    The number of words per value is fixed, unlike in rejection methods: that is what makes rows addressable.
    """
    halves = (
        np.ascontiguousarray(words).view("<u4" if words.dtype.byteorder != ">" else ">u4").reshape(len(words), -1, 2)
    )
    # (k + 1/2) / 2**32 lies inside (0, 1), so that the logarithm is finite.
    uniform = (halves.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    radius = np.sqrt(np.float32(-2) * np.log(uniform[..., 0]))
    angle = np.float32(2 * np.pi) * uniform[..., 1]
    out = np.empty((len(words), words.shape[1], 2), dtype=np.float32)
    np.multiply(radius, np.cos(angle), out=out[..., 0])
    np.multiply(radius, np.sin(angle), out=out[..., 1])
    return out.reshape(len(words), -1)
