"""The dense form of the texture encoder: moments of filter responses around every place of an image.

Responses (see :mod:`~hisdiff.encoders._texture_filters`) are computed once per tile, at several levels of the pyramid. Their
first and second moments are summed over blocks of a pixel of the coarsest level at once; a Gaussian average of the blocks around a bin's
centre, the same in um whatever the bins' size, is what describes the bin. Everything after the blocks is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._cores import on_cores
from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import DenseSpec
from hisdiff.encoders._texture_filters import FLOOR, pyramid
from hisdiff.encoders._texture_forms import SCALARS, STAINS

if TYPE_CHECKING:
    from hisdiff._section import Box, ImageSource
    from hisdiff.encoders._texture_forms import Form

_REACH = 3.0
"""Standard deviations at which the window ends."""
_TILE = 1024
"""Largest side of what one thread works on, in pixels."""

_LEVEL_DIM = 2 * SCALARS + 2 * STAINS


def dense_spec(form: Form) -> DenseSpec:
    """Return facts about the dense form of an encoder."""
    return DenseSpec(revision="1", dim=_LEVEL_DIM * len(form.dense_um), mpp=form.mpp, window_um=form.dense_um[-1])


@dataclass(frozen=True)
class _Windows:
    """Sizes in pixels of the finest level.

    Attributes
    ----------
    sigmas
        Standard deviation of the window, by level.
    block
        Side of a block: one pixel of the coarsest level.
    halo
        What the last bin needs around it, in whole blocks: the window itself, the coarsest level's filters (2 pixels
        of it) and reduction, and a pixel that resampling at the border of what is read gets wrong.
    """

    sigmas: tuple[float, ...]
    block: int
    halo: int

    @classmethod
    def of(cls, form: Form) -> _Windows:
        sigmas = tuple(side / np.sqrt(12) / form.mpp for side in form.dense_um)
        block = 2 ** (len(sigmas) - 1)
        reach = _REACH * sigmas[-1] + 2 * block + 2 * (block - 1) + 2
        return cls(sigmas, block, block * int(np.ceil(reach / block)))


def encode_dense(form: Form, image: ImageSource, box_um: Box, resolution_um: float) -> np.ndarray:
    """Describe the bins of a box; see :class:`~hisdiff.encoders.DenseEncoder`."""
    image = anchored(image, form.mpp)
    x0, y0, x1, y1 = box_um
    ys = _centers(y0, y1, resolution_um) / form.mpp
    xs = _centers(x0, x1, resolution_um) / form.mpp
    out = np.empty((len(ys), len(xs), dense_spec(form).dim), dtype=np.float32)
    tiles = [(rows, columns) for rows in _runs(ys) for columns in _runs(xs)]

    def fill(tile: tuple[slice, slice]) -> None:
        rows, columns = tile
        out[rows, columns] = _encode_tile(form, image, ys[rows], xs[columns])

    on_cores(fill, tiles)
    return out


def _centers(start_um: float, stop_um: float, resolution_um: float) -> np.ndarray:
    """Return the centres of bins along an axis, in um."""
    n = round((stop_um - start_um) / resolution_um)
    return start_um + (np.arange(n) + 0.5) * resolution_um


def _runs(centers_px: np.ndarray) -> list[slice]:
    """Cut bins along an axis into runs of about the same length, none longer than a tile."""
    n_tiles = min(int(np.ceil((centers_px[-1] - centers_px[0] + 1) / _TILE)), len(centers_px))
    cuts = np.linspace(0, len(centers_px), n_tiles + 1).round().astype(int)
    return [slice(a, b) for a, b in zip(cuts[:-1].tolist(), cuts[1:].tolist())]


def _encode_tile(form: Form, image: ImageSource, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Describe the bins with given centres in pixels, float32 ``(len(ys), len(xs), D)``."""
    from hisdiff.encoders._texture_kernels import blended, block_means  # numba takes half a second to import

    windows = _Windows.of(form)
    block = windows.block
    # Whole blocks, so that a place lies in the same block and the same pixel of every level whatever is asked for.
    top, bottom = _whole_blocks(ys, windows)
    left, right = _whole_blocks(xs, windows)
    rgb = image.read((left * form.mpp, top * form.mpp, right * form.mpp, bottom * form.mpp), form.mpp)
    out = np.empty((len(ys), len(xs), _LEVEL_DIM * len(windows.sigmas)), dtype=np.float32)
    for index, (sigma, densities) in enumerate(zip(windows.sigmas, pyramid(rgb))):
        blocks = block_means(densities, block >> index)
        # Reduction keeps every other pixel and not the mean of two, so that blocks of coarse levels lie further up and left.
        offset = (block - (1 << index)) / 2 + 0.5
        rows = _weights(ys - top - offset, len(blocks), sigma, block)
        columns = _weights(xs - left - offset, blocks.shape[1], sigma, block)
        out[:, :, index * _LEVEL_DIM : (index + 1) * _LEVEL_DIM] = _describe(blended(blocks, *rows, *columns))
    return out


def _whole_blocks(centers_px: np.ndarray, windows: _Windows) -> tuple[int, int]:
    first, last = np.floor(centers_px[0] / windows.block), np.ceil(centers_px[-1] / windows.block)
    return int(first) * windows.block - windows.halo, int(last) * windows.block + windows.halo


def _weights(centers_px: np.ndarray, n_blocks: int, sigma_px: float, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first block in the window around each centre, ``(n,)``, and the shares of that and the next ones, float64 ``(n, k)``."""
    reach = _REACH * sigma_px
    k = int(2 * reach / block) + 1
    first = np.clip(np.ceil((centers_px - reach) / block), 0, n_blocks - k).astype(np.int64)
    z = ((first[:, None] + np.arange(k)) * block - centers_px[:, None]) / sigma_px
    weights = np.where(np.abs(z) <= _REACH, np.exp(-0.5 * z**2), 0.0)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _describe(moments: np.ndarray) -> np.ndarray:
    """Turn moments, ``(y, x, M)``, into features ``(y, x, D)`` that do not change when the image is turned."""
    mean = moments[..., :SCALARS]
    variance = moments[..., SCALARS : 2 * SCALARS] - mean**2
    # The structure tensor of each stain: its trace is energy, its eigenvalues' difference over the trace anisotropy.
    xx, yy, xy = np.split(moments[..., 2 * SCALARS :], 3, axis=-1)
    energy = xx + yy
    return np.concatenate(
        [
            mean,
            np.log(np.sqrt(np.maximum(variance, 1e-10)) + FLOOR),
            np.log(energy + 1e-6),
            np.hypot(xx - yy, 2 * xy) / (energy + 1e-6),
        ],
        axis=-1,
    )
