"""Bring the pixels of any file to uint8 RGB, lazily."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np

from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

WHITE = 255
CONVERTED = ("P", "CMYK")
"""Modes of Pillow that stand for three colours with another number of channels."""
BIT_DEPTHS = (8, 10, 12, 14, 16)


@dataclass(frozen=True)
class Stored:
    """Pyramid levels as a file has them: ``(c, y, x)`` of any type, finest first; whether the fourth channel is alpha."""

    levels: Sequence[da.Array]
    alpha: bool = False


def check_channels(channels: int, kind: str, what: str) -> None:
    """Raise unless an image has the three channels of a stained slide, not counting alpha."""
    if channels == 3 or kind in CONVERTED:
        return
    if channels == 1:
        raise ValueError(
            f"{what} has one channel; H&E is read from red, green and blue. A grey or a fluorescence image cannot be used."
        )
    raise ValueError(
        f"{what} has {channels} channels ({kind}); H&E is read from red, green and blue. Fluorescence cannot be used."
    )


def to_rgb(stored: Stored, what: str) -> list[da.Array]:
    """Return levels as uint8 RGB.

    uint8 is taken as it is. Of uint16, the bit depth that holds the largest value (8 to 16) is scaled to 8 bits. Floats
    are taken from 0 to 1, or from 0 to 255 where the largest is above 1. Alpha is laid over white.
    """
    levels = stored.levels
    check_channels(levels[0].shape[0] - stored.alpha, str(levels[0].dtype), what)
    full = _full_scale(levels[-1], what)
    if full == WHITE and not stored.alpha and levels[0].dtype == np.uint8:
        return list(levels)
    convert = functools.partial(_convert, full=full)
    return [da.map_blocks(convert, level, dtype=np.uint8, chunks=((3,), *level.chunks[1:])) for level in levels]


def _convert(block: np.ndarray, full: float) -> np.ndarray:
    unit = block.astype(np.float32) / np.float32(full)
    if len(unit) == 4:
        unit = unit[:3] * unit[3] + (1 - unit[3])
    return np.clip(unit * WHITE + 0.5, 0, WHITE).astype(np.uint8)


def _full_scale(level: da.Array, what: str) -> float:
    """Return the value that stands for white."""
    if level.dtype == np.uint8:
        return WHITE
    if level.dtype != np.uint16 and level.dtype.kind != "f":
        raise ValueError(f"{what} holds {level.dtype} values; uint8, uint16 and float images can be read.")
    lowest, highest = (float(v) for v in da.compute(level.min(), level.max(), scheduler="synchronous"))
    if not np.isfinite([lowest, highest]).all() or lowest < 0:
        raise ValueError(
            f"{what} holds {level.dtype} values from {lowest:g} to {highest:g}; NaN and negative ones are no colour."
        )
    if level.dtype == np.uint16:
        full = next(2.0**bits - 1 for bits in BIT_DEPTHS if highest < 2**bits)
    elif highest <= 1.001:
        full = 1.0
    elif highest <= WHITE:
        full = float(WHITE)
    else:
        raise ValueError(f"{what} holds float values up to {highest:g}; 0 to 1 or 0 to 255 is expected.")
    logger.info("%s: %s values from 0 to %g were scaled to 8 bits.", what, level.dtype, full)
    return full
