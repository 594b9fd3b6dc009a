"""Bring the pixels of any file to uint8 RGB, lazily."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import dask.array as da
import numpy as np

from hisdiff._log import logger
from hisdiff.io._lazy import Unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

WHITE = 255
BIT_DEPTHS = (8, 10, 12, 14, 16)
CHANNELS = {"rgb": 3, "ycbcr": 3, "cmyk": 4, "palette": 1}
"""Channels that stand for colour, by kind."""
_GREY, _WINDOW, _WINDOWS = 2, 32, 5
"""Channels of grey pixels differ by rounding at most; they are looked for in 5 x 5 windows of 32 pixels a side."""
Kind = Literal["rgb", "ycbcr", "cmyk", "palette"]


@dataclass(frozen=True)
class Stored:
    """Pyramid levels as a file has them.

    Attributes
    ----------
    levels
        ``(c, y, x)`` of any type, finest first. Channels after those of the kind are not colours.
    kind
        What the channels stand for.
    alpha
        Which channel is opacity, or None.
    premultiplied
        Whether colours were multiplied by it already.
    palette
        uint8 ``(n, 3)`` colours of the values of a palette image.
    """

    levels: Sequence[da.Array]
    kind: Kind = "rgb"
    alpha: int | None = None
    premultiplied: bool = False
    palette: np.ndarray | None = None


def check_channels(channels: int, kind: str, what: str) -> None:
    """Raise unless an image has the three channels of a stained slide, not counting those that are not colours."""
    if channels == 3:
        return
    if channels == 1:
        raise ValueError(
            f"{what} has one channel; H&E is read from red, green and blue. A grey or a fluorescence image cannot be used, nor "
            "H&E that was turned to grey."
        )
    raise ValueError(
        f"{what} has {channels} channels ({kind}); H&E is read from red, green and blue. Fluorescence cannot be used."
    )


def warn_if_gray(level: da.Array, what: str) -> None:
    """Warn where the three channels of an image are the same: H&E that was turned to grey has lost what tells its stains apart."""
    _, height, width = level.shape
    rows, columns = (np.linspace(0, max(side - _WINDOW, 0), _WINDOWS).astype(int) for side in (height, width))
    seen = [level[:, y : y + _WINDOW, x : x + _WINDOW].astype(np.int16).reshape(3, -1) for y in rows for x in columns]
    try:
        pixels = da.concatenate(seen, axis=1).compute(scheduler="synchronous")
    except Unreadable:  # the next reader of that part raises the error
        return
    if np.ptp(pixels, axis=0).max() <= _GREY and np.ptp(pixels) > _GREY:
        logger.warning(
            "%s is grey, in three equal channels: the color that tells hematoxylin from eosin is lost.", what
        )


def to_rgb(stored: Stored, what: str) -> list[da.Array]:
    """Return levels as uint8 RGB.

    uint8 is taken as it is. Of uint16, the bit depth that holds the largest value (8 to 16) is scaled to 8 bits. Floats
    are taken from 0 to 1, or from 0 to 255 where the largest is above 1. Opacity is laid over white, but where it is zero
    everywhere, since nothing would be left of the image.
    """
    levels = stored.levels
    if stored.kind == "rgb" and levels[0].shape[0] < 3:
        check_channels(levels[0].shape[0], str(levels[0].dtype), what)
    full = _full_scale(levels[-1], what)
    alpha = stored.alpha
    if alpha is not None and not _any(levels[-1][alpha : alpha + 1]):
        logger.warning("%s: its alpha channel is zero everywhere and was left out; the colours are shown.", what)
        alpha = None
    if stored.kind == "rgb" and alpha is None and full == WHITE and levels[0].dtype == np.uint8:
        return [level if len(level) == 3 else level[:3] for level in levels]
    convert = functools.partial(
        _convert, kind=stored.kind, alpha=alpha, premultiplied=stored.premultiplied, palette=stored.palette, full=full
    )
    return [
        da.map_blocks(convert, _in_one(level), dtype=np.uint8, chunks=((3,), *level.chunks[1:])) for level in levels
    ]


def _in_one(level: da.Array) -> da.Array:
    """Return a level with all its channels in one chunk."""
    return level if level.numblocks[0] == 1 else level.rechunk({0: -1})


def _any(values: da.Array) -> bool:
    return bool((values > 0).any().compute(scheduler="synchronous"))


def _convert(
    block: np.ndarray, *, kind: str, alpha: int | None, premultiplied: bool, palette: np.ndarray | None, full: float
) -> np.ndarray:
    if kind == "palette":
        assert palette is not None
        return np.moveaxis(palette[np.minimum(block[0], len(palette) - 1)], -1, 0)
    unit = block.astype(np.float32) / np.float32(full)
    color = unit[: CHANNELS[kind]]
    if kind == "cmyk":
        color = (1 - color[:3]) * (1 - color[3])
    elif kind == "ycbcr":
        color = _from_ycbcr(color)
    if alpha is not None:
        opacity = unit[alpha]
        color = color + (1 - opacity) if premultiplied else color * opacity + (1 - opacity)
    return np.clip(color * WHITE + 0.5, 0, WHITE).astype(np.uint8)


def _from_ycbcr(unit: np.ndarray) -> np.ndarray:
    """Return red, green and blue of luma and chroma of full range, by the weights of ITU-R BT.601."""
    luma, blue, red = unit[0], unit[1] - np.float32(128 / 255), unit[2] - np.float32(128 / 255)
    return np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue])


def _full_scale(level: da.Array, what: str) -> float:
    """Return the value that stands for white."""
    if level.dtype == np.uint8:
        return WHITE
    if level.dtype != np.uint16 and level.dtype.kind != "f":
        raise ValueError(f"{what} holds {level.dtype} values; uint8, uint16 and float images can be read.")
    lowest, highest = (float(v) for v in da.compute(level.min(), level.max(), scheduler="synchronous"))
    if not np.isfinite([lowest, highest]).all() or lowest < 0:
        raise ValueError(
            f"{what} holds {level.dtype} values from {lowest:g} to {highest:g}; NaN and negative ones are not colours."
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
