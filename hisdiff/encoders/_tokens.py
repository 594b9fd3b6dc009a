"""The dense form of networks that work on tokens: overlapping windows, blended, resampled to bins.

A vision transformer gives a vector for every token of its input; one near the border knows little of what lies beyond.
Windows therefore overlap by half, on a lattice anchored at the origin of um, and what they say of a place is averaged
with weights that fall to the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff.encoders._anchored import anchored

if TYPE_CHECKING:
    from collections.abc import Callable

    from hisdiff._section import Box, ImageSource

_STRIDES = 16
"""Most strides of windows along the side of what is worked on at once: bounds memory, at little done twice."""


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of a network lie.

    Attributes
    ----------
    dim
        Length of a token's vector.
    token_px
        Side of what a token stands for, in pixels of the input.
    read
        Turns the network and a normalised batch ``(B, 3, input_px, input_px)`` into tokens ``(B, n * n, dim)``, row by row.
    """

    dim: int
    token_px: int
    read: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Layout:
    """Windows of an encoder: pixel size in um, side of a token in pixels, tokens along a side, length of a vector."""

    mpp: float
    token_px: int
    per_side: int
    dim: int


def encode_dense(
    tokens_of: Callable[[np.ndarray], np.ndarray],
    layout: Layout,
    image: ImageSource,
    box_um: Box,
    resolution_um: float,
    *,
    batch_size: int,
) -> np.ndarray:
    """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`.

    Parameters
    ----------
    tokens_of
        Turns windows, uint8 ``(B, px, px, 3)``, into tokens ``(B, per_side * per_side, dim)``.
    layout
        Of windows and tokens.
    image, box_um, resolution_um
        What is described.
    batch_size
        Windows per call.
    """
    source = anchored(image, layout.mpp)
    x0, y0, x1, y1 = box_um
    # All in units of tokens from here on.
    pitch = layout.token_px * layout.mpp
    side = resolution_um / pitch
    n_rows, n_columns = round((y1 - y0) / resolution_um), round((x1 - x0) / resolution_um)
    out = np.empty((n_rows, n_columns, layout.dim), dtype=np.float32)
    for rows in _runs(n_rows, side, layout.per_side):
        down = _Axis.of(y0 / pitch, side, rows, layout.per_side)
        for columns in _runs(n_columns, side, layout.per_side):
            across = _Axis.of(x0 / pitch, side, columns, layout.per_side)
            out[rows, columns] = _encode_run(tokens_of, layout, source, down, across, batch_size)
    return out


def _runs(n: int, side: float, per_side: int) -> list[slice]:
    most = max(1, int(_STRIDES * (per_side // 2) / side))
    cuts = np.linspace(0, n, -(-n // most) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:])]


@dataclass(frozen=True)
class _Axis:
    """Bins, tokens and windows along one axis: ``weights`` is (bins, tokens) from token ``first`` on."""

    weights: np.ndarray
    first: int
    windows: range

    @classmethod
    def of(cls, start: float, side: float, bins: slice, per_side: int) -> _Axis:
        borders = start + np.arange(bins.start, bins.stop + 1) * side
        # Linear interpolation between the centres of tokens reaches one token beyond a bin.
        first, last = int(np.floor(borders[0] - 0.5)), int(np.ceil(borders[-1] + 0.5))
        centers = np.arange(first, last) + 0.5
        weights = np.diff(_hat_integral(borders[:, None] - centers), axis=0) / side
        stride = per_side // 2
        windows = range((first - per_side) // stride + 1, (last - 1) // stride + 1)
        return cls(weights.astype(np.float32), first, windows)


def _hat_integral(x: np.ndarray) -> np.ndarray:
    """Return the integral up to ``x`` of the hat function, which falls from 1 at 0 to 0 at -1 and 1."""
    x = np.clip(x, -1, 1)
    return 0.5 + x - 0.5 * x * np.abs(x)


def _encode_run(
    tokens_of: Callable[[np.ndarray], np.ndarray],
    layout: Layout,
    source: ImageSource,
    down: _Axis,
    across: _Axis,
    batch_size: int,
) -> np.ndarray:
    """Describe bins that take a bounded number of windows."""
    per_side, stride = layout.per_side, layout.per_side // 2
    window_px, step_px = per_side * layout.token_px, stride * layout.token_px
    left, right = across.windows[0] * step_px, across.windows[-1] * step_px + window_px
    # A weight that would be zero just outside the window.
    fade = np.sin(np.pi * (np.arange(per_side) + 0.5) / per_side) ** 2
    coverage = np.zeros((down.weights.shape[1], across.weights.shape[1]), dtype=np.float32)
    total = np.zeros((*coverage.shape, layout.dim), dtype=np.float32)
    places = [(i, j) for i in down.windows for j in across.windows]
    strips: dict[int, np.ndarray] = {}
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        for i in {i for i, _ in batch} - set(strips):
            top = i * step_px
            box = left * source.mpp, top * source.mpp, right * source.mpp, (top + window_px) * source.mpp
            strips[i] = source.read(box, source.mpp)
        windows = np.stack([strips[i][:, j * step_px - left :][:, :window_px] for i, j in batch])
        found = tokens_of(windows).reshape(len(batch), per_side, per_side, layout.dim)
        for (i, j), tokens in zip(batch, found):
            ys, y = _common(i * stride, per_side, down)
            xs, x = _common(j * stride, per_side, across)
            weight = np.outer(fade[y], fade[x]).astype(np.float32)
            total[ys, xs] += weight[..., None] * tokens[y, x]
            coverage[ys, xs] += weight
        for i in [i for i in strips if i < batch[-1][0]]:
            del strips[i]
    total /= coverage[..., None]
    rows = np.tensordot(down.weights, total, axes=1)
    return np.moveaxis(np.tensordot(across.weights, rows, axes=(1, 1)), 0, 1)


def _common(first: int, n: int, axis: _Axis) -> tuple[slice, slice]:
    """Return the tokens that a window shares with an axis, as seen from the axis and from the window."""
    a, b = max(first, axis.first), min(first + n, axis.first + axis.weights.shape[1])
    return slice(a - axis.first, b - axis.first), slice(a - first, b - first)
