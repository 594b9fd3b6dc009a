"""Standard normal noise by address: a value depends on seed, draw, purpose and place, not on what was drawn before."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._geometry._grid import BLOCK
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hisdiff._section import Locations

ROW_BLOCK = 4096
"""Rows that share a block, where noise goes by row."""
PLACE_UM = 0.1
"""Places closer than this are one: what a coordinate loses on its way through files is less."""
LANES = 8
"""32-bit words that Philox gives per tick of its counter, one for a value."""
_OFFSET = 0.382  # coordinates are round numbers, so that steps would lie where rounding decides
_TICK_BITS = 32  # numbers that one row may draw from its own generator, as a power of two
_CHUNK = 64  # rows made at a time, so that intermediate values stay in the cache


class BlockNoise:
    """Noise keyed by seed, draw, step, block and the rank of a row inside its block. The block of a spot is its place.

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
        self._block = _packed(blocks[:, None] if blocks.ndim == 1 else blocks)
        self._rank = np.asarray(ranks, dtype=np.int64)
        if self._block.shape != self._rank.shape:
            raise ValueError(f"There are {len(self._block)} blocks for {len(self._rank)} ranks.")
        self._key = _key(int(seed))

    def __len__(self) -> int:
        return len(self._rank)

    @classmethod
    def for_rows(cls, seed: int, n: int) -> BlockNoise:
        """Noise of ``n`` rows that are not locations, in blocks of ``ROW_BLOCK`` rows."""
        rows = np.arange(n)
        return cls(seed, rows // ROW_BLOCK, rows % ROW_BLOCK)

    @classmethod
    def for_places(cls, seed: int, xy_um: np.ndarray, z_um: np.ndarray | None = None) -> BlockNoise:
        """Noise of places ``(n, 2)`` in um, whatever their order and whichever others there are.

        Those within ``PLACE_UM`` of each other are distinguished by their height, then by their order.
        """
        block = np.floor(np.asarray(xy_um, dtype=np.float64)[:, ::-1] / PLACE_UM + _OFFSET).astype(np.int64)
        packed = _packed(block)
        order = np.lexsort((np.zeros(len(packed)) if z_um is None else z_um, packed))
        first = np.flatnonzero(np.append(True, packed[order][1:] != packed[order][:-1])[: len(packed)])
        ranks = np.empty(len(packed), dtype=np.int64)
        ranks[order] = np.arange(len(packed)) - np.repeat(first, np.diff(np.append(first, len(packed))))
        return cls(seed, block, ranks)

    @classmethod
    def for_grid(cls, seed: int, ij: np.ndarray) -> BlockNoise:
        """Noise of bins of a grid at integer ``(n, 2)`` positions (row, column), in blocks of 64 x 64 bins."""
        ij = np.asarray(ij, dtype=np.int64)
        if ij.ndim != 2 or ij.shape[1] != 2:
            raise ValueError(f"Bins of a grid are given as (n, 2) rows and columns, not as {ij.shape}.")
        block, inside = np.divmod(ij, BLOCK)
        return cls(seed, block, inside[:, 0] * BLOCK + inside[:, 1])

    @classmethod
    def at(cls, seed: int, locations: Locations) -> BlockNoise:
        """Noise of the bins of a grid, or of the places of other locations."""
        if locations.bin_um is not None:
            return cls.for_grid(seed, needed(locations.array_ij))
        return cls.for_places(seed, locations.xy_um, locations.z_um)

    def generators(self, draw: int, step: int) -> Iterator[np.random.Generator]:
        """Yield a generator for each row, set to its address: for numbers that are not normal, or that many are not known of.

        It is one object, which is valid until the next is requested.
        """
        bits = np.random.Philox(key=self._key)
        state, generator = bits.state, np.random.Generator(bits)
        for rank, block in zip(self._rank.tolist(), self._block.tolist()):
            state["state"]["counter"] = np.array([rank << _TICK_BITS, block, draw, step], dtype=np.uint64)
            bits.state = state
            yield generator

    def addresses(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return block and rank of rows, ``(k,)`` each, and the two words of the key."""
        return self._block[rows], self._rank[rows], self._key

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
        # In the order of their addresses, neighbours are one run of the generator's sequence, filled by one call.
        order = np.lexsort((self._rank[rows], self._block[rows]))
        block, rank = self._block[rows[order]], self._rank[rows[order]]
        ticks = -(-width // LANES)
        out = np.empty((len(rows), width), dtype=np.float32)
        uniform = np.empty((min(len(rows), _CHUNK), ticks * LANES), dtype=np.float32)
        bits = np.random.Philox(key=self._key)
        state = bits.state
        generator = np.random.Generator(bits)
        for start in range(0, len(rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            blocks, ranks = block[chunk], rank[chunk]
            breaks = np.flatnonzero((blocks[1:] != blocks[:-1]) | (ranks[1:] != ranks[:-1] + 1)) + 1
            for first, last in pairwise([0, *breaks.tolist(), len(ranks)]):
                address = [int(ranks[first]) * ticks, int(blocks[first]), draw, step]
                state["state"]["counter"] = np.array(address, dtype=np.uint64)
                bits.state = state
                generator.random(out=uniform[first:last], dtype=np.float32)
            out[order[chunk]] = _box_muller(uniform[: len(ranks)])[:, :width]
        return out


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


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Turn uniform values in [0, 1) into as many standard normals; ``(k, w)`` with even ``w``.

    Unlike with rejection methods every normal takes the same number of uniform values: that makes rows addressable.
    """
    half = uniform.shape[1] // 2
    radius = np.sqrt(np.float32(-2) * np.log(1 - uniform[:, :half]))
    angle = np.float32(2 * np.pi) * uniform[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
