"""The dense form of the texture encoder: moments of filter responses around every place of an image.

Responses (see :mod:`~hisdiff.encoders._texture`) are computed once per tile, at four levels of the pyramid. Their
first and second moments are summed over blocks of 5.6 um at once; a Gaussian average of the blocks around a cell's
centre, the same in um whatever the cells' size, is what describes the cell. Everything after the blocks is cheap.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from typing import TYPE_CHECKING

import numpy as np

from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import DenseSpec
from hisdiff.encoders._texture import _C, _DX, _DY, _FLOOR, _K, _MPP, _SCALARS, pyramid, responses

if TYPE_CHECKING:
    from hisdiff._section import Box, ImageSource

# Side of the square with the variance of the Gaussian window, at each level. Coarse responses need more ground.
_WINDOWS_UM = (16.0, 16.0, 22.4, 32.0)
_SIGMAS_PX = tuple(side / np.sqrt(12) / _MPP for side in _WINDOWS_UM)
_REACH = 3.0
"""Standard deviations at which the window ends."""
_BLOCK = 8
"""Side of a block in pixels of the finest level: one pixel of the coarsest."""
_TILE = 1024
"""Largest side of what one thread works on, in pixels."""
# What a window's last block needs around it: the window itself, the coarsest level's filters (2 pixels of it) and
# reduction (14), and a pixel that resampling at the border of what is read gets wrong. In whole blocks.
_HALO = _BLOCK * int(np.ceil((_REACH * _SIGMAS_PX[-1] + 16 + 14 + 2) / _BLOCK))
_STRIP = 32

_S = len(_SCALARS)
_MOMENTS = 2 * _S + 3 * _C
_LEVEL_DIM = 2 * _S + 2 * _C

SPEC = DenseSpec(revision="1", dim=_LEVEL_DIM * len(_WINDOWS_UM), mpp=_MPP, window_um=_WINDOWS_UM[-1])


def encode_dense(image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
    """Describe the cells of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
    from threadpoolctl import threadpool_limits

    image = anchored(image, _MPP)
    x0, y0, x1, y1 = box_um
    ys = _centres(y0, y1, resolution_um)
    xs = _centres(x0, x1, resolution_um)
    out = np.empty((len(ys), len(xs), SPEC.dim), dtype=np.float32)
    tiles = [(rows, columns) for rows in _runs(ys) for columns in _runs(xs)]

    def fill(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        out[rows, columns] = _encode_tile(image, ys[rows], xs[columns])

    # One tile a thread: products this small gain nothing from threads of their own, and would fight for cores.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(cpu_count() or 1, len(tiles))) as pool:
        list(pool.map(fill, tiles))
    return out


def _centres(start_um: float, stop_um: float, resolution_um: float) -> np.ndarray:
    """Return the centres of cells along an axis, in pixels."""
    n = round((stop_um - start_um) / resolution_um)
    return (start_um + (np.arange(n) + 0.5) * resolution_um) / _MPP


def _runs(centres_px: np.ndarray) -> list[slice]:
    """Cut cells along an axis into runs of about the same length, none longer than a tile."""
    n_tiles = min(int(np.ceil((centres_px[-1] - centres_px[0] + 1) / _TILE)), len(centres_px))
    cuts = np.linspace(0, len(centres_px), n_tiles + 1).round().astype(int)
    return [slice(a, b) for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist())]


def _encode_tile(image: ImageSource, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Describe the cells with given centres in pixels, float32 ``(len(ys), len(xs), D)``."""
    # Whole blocks, so that a place lies in the same block and the same pixel of every level whatever is asked for.
    top, bottom = _whole_blocks(ys)
    left, right = _whole_blocks(xs)
    rgb = image.read((left * _MPP, top * _MPP, right * _MPP, bottom * _MPP), _MPP)
    out = np.empty((len(ys), len(xs), SPEC.dim), dtype=np.float32)
    levels = islice(pyramid(rgb), len(_WINDOWS_UM))
    for index, densities in enumerate(levels):
        moments = block_moments(densities, _BLOCK >> index)
        # Reduction keeps every other pixel and not the mean of two, so that blocks of coarse levels lie further up and left.
        offset = (_BLOCK - (1 << index)) / 2 + 0.5
        rows = _weights(ys - top - offset, moments.shape[1], _SIGMAS_PX[index])
        columns = _weights(xs - left - offset, moments.shape[2], _SIGMAS_PX[index])
        features = _describe(rows @ moments @ columns.T)
        out[:, :, index * _LEVEL_DIM : (index + 1) * _LEVEL_DIM] = np.moveaxis(features, 0, -1)
    return out


def _whole_blocks(centres_px: np.ndarray) -> tuple[int, int]:
    first, last = np.floor(centres_px[0] / _BLOCK), np.ceil(centres_px[-1] / _BLOCK)
    return int(first) * _BLOCK - _HALO, int(last) * _BLOCK + _HALO


def _weights(centres_px: np.ndarray, n_blocks: int, sigma_px: float) -> np.ndarray:
    """Return the share of each block in the window around each centre, float64 ``(len(centres_px), n_blocks)``."""
    z = (np.arange(n_blocks) * _BLOCK - centres_px[:, None]) / sigma_px
    weights = np.where(np.abs(z) <= _REACH, np.exp(-0.5 * z**2), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def block_moments(densities: np.ndarray, side: int) -> np.ndarray:
    """Return mean moments of responses over blocks of ``side`` pixels, float64 ``(M, y // side, x // side)``.

    In this order: the means of the scalar responses, their mean squares, and of each stain the mean squares of the two
    derivatives and their mean product.
    """
    _, height, width = densities.shape
    padded = np.pad(densities, ((0, 0), (2, 2), (2, 2)), mode="edge")
    out = np.empty((_MOMENTS, height // side, width // side))
    for start in range(0, height, _STRIP):
        rows = min(_STRIP, height - start)
        response = responses(padded[:, start : start + rows + 4])
        dx, dy = response[_DX], response[_DY]
        into = out[:, start // side : (start + rows) // side]
        # The scalar responses are the first and the last of all: two runs that need no copy.
        for source, first in ((response[:_C], 0), (response[3 * _C : _K], _C)):
            into[first : first + len(source)] = _block_means(source, side)
            into[_S + first : _S + first + len(source)] = _block_means(source * source, side)
        into[2 * _S : 2 * _S + _C] = _block_means(dx * dx, side)
        into[2 * _S + _C : 2 * _S + 2 * _C] = _block_means(dy * dy, side)
        into[2 * _S + 2 * _C :] = _block_means(dx * dy, side)
    return out


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Return means over square blocks, ``(n, y, x)`` to ``(n, y // side, x // side)``."""
    if side == 1:
        return values
    n, height, width = values.shape
    strips = values.reshape(n, height // side, side, width).sum(axis=2)
    return strips.reshape(n, height // side, width // side, side).sum(axis=3) / side**2


def _describe(moments: np.ndarray) -> np.ndarray:
    """Turn moments, ``(M, y, x)``, into features ``(D, y, x)`` that do not change when the image is turned."""
    mean = moments[:_S]
    variance = moments[_S : 2 * _S] - mean**2
    # The structure tensor of each stain: its trace is energy, its eigenvalues' difference over the trace anisotropy.
    xx, yy, xy = moments[2 * _S :].reshape(3, _C, *moments.shape[1:])
    energy = xx + yy
    return np.concatenate(
        [
            mean,
            np.log(np.sqrt(np.maximum(variance, 1e-10)) + _FLOOR),
            np.log(energy + 1e-6),
            np.hypot(xx - yy, 2 * xy) / (energy + 1e-6),
        ]
    )
