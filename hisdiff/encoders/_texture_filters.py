"""Filters of the texture encoder: at which pixel sizes they run, and what they say of a window.

An image is unmixed into haematoxylin, eosin and total optical density. On a pyramid of these, Gaussian derivatives of
first and second order give responses that turn with the image only in known ways: slope, darkness and brightness of
blobs, strength of lines. What describes a window is the matrix of second moments of all responses over it: means,
variances, correlations between filters and stains, and the structure tensor, from which energy and anisotropy follow.
Moments add up over pixels, so that any window, patch or bin of a grid can be described from the same responses.

The filters run at one of a fixed set of pixel sizes, each an encoder of its own name: ``texture`` at 0.7 um for scans,
``texture-2um`` and ``texture-4um`` for reduced images, which any finer image can be embedded with too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff.encoders._base import EncoderSpec

if TYPE_CHECKING:
    from collections.abc import Iterator


_STRIP = 32
"""Rows filtered at a time: a strip with its responses stays in the cache."""

# Optical density of haematoxylin, eosin and diaminobenzidine (unused) in red, green and blue; Ruifrok & Johnston (2001), Table 1.
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.vstack([np.linalg.inv(_STAINS).T[:2], np.full(3, 1 / 3)]).astype(np.float32)
"""From optical density of three colours to haematoxylin, eosin and total density."""

_DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)

_C = len(_UNMIX)
_KINDS = ("dx", "dy", "density", "slope", "bright", "dark", "line")
_K = _C * len(_KINDS)
_DX, _DY, _SCALARS = slice(0, _C), slice(_C, 2 * _C), slice(2 * _C, _K)
_S = _K - 2 * _C
"""Scalars: responses that do not change when the image is turned, all but the two derivatives."""

_PAIRS = np.triu_indices(_S, 1)
_FLOOR = np.float64(1e-3)
_FEATURES = 2 * _S + 2 * len(_PAIRS[0]) + 2 * _C


class Moments(NamedTuple):
    """Second moments of the responses over a window, or over several, stacked.

    Attributes
    ----------
    scalars
        ``(S + 1, S + 1)`` of the scalar responses and of one.
    tensor
        ``(3, C)``, mean squares of the two derivatives of each stain, and their mean product.
    """

    scalars: np.ndarray
    tensor: np.ndarray


@dataclass(frozen=True)
class Form:
    """At which pixel size filters run, and over what their responses are averaged.

    Attributes
    ----------
    name, mpp, input_px
        Of the encoder's specification.
    windows_px
        For each level of the pyramid, each half as fine as the one before, the sides of centred windows in pixels of the
        finest level, smallest first.
    dense_um
        For each level of the dense form, side of the square with the variance of its Gaussian window. Coarse responses need
        more ground.
    """

    name: str
    mpp: float
    input_px: int
    windows_px: tuple[tuple[int, ...], ...]
    dense_um: tuple[float, ...]

    @property
    def coarsest_mpp(self) -> float:
        """Micrometres per pixel of the coarsest image to read: enlarged more than this, filters see nothing but blur."""
        return 1.5 * self.mpp

    @property
    def spec(self) -> EncoderSpec:
        """Facts about the encoder."""
        return EncoderSpec(
            name=self.name,
            revision="1",
            dim=_FEATURES * sum(map(len, self.windows_px)),
            input_px=self.input_px,
            mpp=self.mpp,
            licence="BSD-3-Clause",
            gated=False,
            derivatives=True,
        )


# The finest level of scans is the dearest, and what it adds far from the centre is in the neighbours' patches.
FORMS = (
    Form("texture", 0.7, 448, ((224,), *((224, 448),) * 4), (16.0, 16.0, 22.4, 32.0)),
    Form("texture-2um", 2.0, 160, ((40, 80, 160),) * 4, (24.0, 32.0, 32.0)),
    Form("texture-4um", 4.0, 80, ((20, 40, 80),) * 3, (32.0, 48.0)),
)
"""Finest first."""


def pyramid(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the stain densities, float32 ``(C, y, x)``, of an image and of its reductions by two, without end."""
    level = np.empty((_C, *image.shape[:2]), dtype=np.float32)
    for start in range(0, len(image), _STRIP):
        rows = image[start : start + _STRIP]
        density = np.take(_DENSITY, rows).reshape(-1, 3)
        level[:, start : start + _STRIP] = (_UNMIX @ density.T).reshape(_C, *rows.shape[:2])
    while True:
        yield level
        level = _halve(level)


def _halve(level: np.ndarray) -> np.ndarray:
    """Smooth by the binomial filter of length 5 and take every other pixel."""
    padded = bordered(level)
    _, height, width = level.shape
    out = np.empty((len(level), -(-height // 2), -(-width // 2)), dtype=np.float32)
    for start in range(0, out.shape[1], _STRIP):
        part = out[:, start : start + _STRIP]
        rows = padded[:, 2 * start : 2 * (start + part.shape[1]) + 3]
        rows = _binomial(rows[:, ::2], rows[:, 1::2], axis=1)
        # Whole copies of even and odd columns first: arithmetic on every other number is several times as slow.
        rows = _binomial(np.ascontiguousarray(rows[..., ::2]), np.ascontiguousarray(rows[..., 1::2]), axis=2)
        np.multiply(rows[..., : part.shape[2]], np.float32(1 / 256), out=part)
    return out


def bordered(level: np.ndarray) -> np.ndarray:
    """Return ``(C, y, x)`` with its border repeated twice on all sides: what filters see beyond an edge."""
    c, y, x = level.shape
    out = np.empty((c, y + 4, x + 4), dtype=level.dtype)
    out[:, 2:-2, 2:-2] = level
    out[:, :2, 2:-2], out[:, -2:, 2:-2] = level[:, :1], level[:, -1:]
    out[:, :, :2], out[:, :, -2:] = out[:, :, 2:3], out[:, :, -3:-2]
    return out


def _binomial(even: np.ndarray, odd: np.ndarray, axis: int) -> np.ndarray:
    """Return 1 4 6 4 1 sums around all but the outermost even elements of an axis."""
    n = min(even.shape[axis] - 2, odd.shape[axis] - 1)

    def window(a: np.ndarray, first: int) -> np.ndarray:
        return a[:, first : first + n] if axis == 1 else a[..., first : first + n]

    out = np.float32(6) * window(even, 1)
    out += np.float32(4) * (window(odd, 0) + window(odd, 1))
    out += window(even, 0) + window(even, 2)
    return out


def window_moments(densities: np.ndarray, sides: list[int]) -> list[Moments]:
    """Return second moments of the responses over centred square windows, the smallest first."""
    _, height, width = densities.shape
    largest = sides[-1]
    top, left = (height - largest) // 2, (width - largest) // 2
    if min(top, left) < 2:  # filters reach over the edge
        densities = bordered(densities)
        top, left = top + 2, left + 2
    sums = [Moments(np.zeros((_S + 1, _S + 1)), np.zeros((3, _C))) for _ in sides]
    for start in range(0, largest, _STRIP):
        rows = min(_STRIP, largest - start)
        strip = densities[:, top + start - 2 : top + start + rows + 2, left - 2 : left + largest + 2]
        response = responses(strip)
        for side, total in zip(sides, sums):
            margin = (largest - side) // 2
            first, last = max(margin - start, 0), min(margin + side - start, rows)
            if first < last:
                inside = response[:, first:last, margin : margin + side].reshape(_K + 1, -1)
                scalars = inside[_SCALARS.start :]
                np.add(total.scalars, scalars @ scalars.T, out=total.scalars)
                for c, (dx, dy) in enumerate(zip(inside[_DX], inside[_DY])):
                    total.tensor[:, c] += dx @ dx, dy @ dy, dx @ dy
    return [Moments(*(part / side**2 for part in total)) for total, side in zip(sums, sides)]


def responses(densities: np.ndarray) -> np.ndarray:
    """Filter densities, ``(C, y + 4, x + 4)``, into responses ``(K + 1, y, x)``, the last of them constant one.

    By kind, each for every stain: two derivatives, the density itself, the length of the gradient, the Laplacian's
    positive and negative part (bright and dark blobs), and the difference of the Hessian's eigenvalues (lines); all but
    the density after smoothing by the binomial filter of length 3.
    """
    c, y, x = densities.shape
    out = np.empty((_K + 1, y - 4, x - 4), dtype=np.float32)
    dx, dy, density, slope, bright, dark, line = out[:_K].reshape(len(_KINDS), c, y - 4, x - 4)
    out[_K] = 1
    density[...] = densities[:, 2:-2, 2:-2]
    s = densities[:, :-2] + densities[:, 2:]
    s += 2 * densities[:, 1:-1]
    s = s[:, :, :-2] + s[:, :, 2:] + 2 * s[:, :, 1:-1]
    s *= np.float32(1 / 16)
    up, down, left, right = s[:, :-2, 1:-1], s[:, 2:, 1:-1], s[:, 1:-1, :-2], s[:, 1:-1, 2:]
    np.subtract(right, left, out=dx)
    np.subtract(down, up, out=dy)
    out[_DX.start : _DY.stop] *= np.float32(0.5)
    np.sqrt(dx * dx + dy * dy, out=slope)
    center = 2 * s[:, 1:-1, 1:-1]
    xx, yy = left + right - center, up + down - center
    laplacian = xx + yy
    np.maximum(laplacian, 0, out=bright)
    np.subtract(bright, laplacian, out=dark)
    xx -= yy
    twice_xy = s[:, 2:, 2:] + s[:, :-2, :-2] - s[:, 2:, :-2] - s[:, :-2, 2:]
    twice_xy *= np.float32(0.5)
    np.sqrt(xx * xx + twice_xy * twice_xy, out=line)
    return out


def describe(moments: Moments) -> np.ndarray:
    """Turn second moments of responses over some windows into features ``(n, F)`` that do not change when the image is turned."""
    mean = moments.scalars[:, _S, :_S]
    covariance = moments.scalars[:, :_S, :_S] - mean[:, :, None] * mean[:, None]
    deviation = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-10))
    correlation = covariance / (deviation[:, :, None] * deviation[:, None] + 1e-6)
    # Structure tensor of each stain: its trace is energy, its eigenvalues' difference over the trace is anisotropy.
    xx, yy, xy = np.moveaxis(moments.tensor, 1, 0)
    energy = xx + yy
    anisotropy = np.hypot(xx - yy, 2 * xy) / (energy + 1e-6)
    return np.concatenate(
        [
            mean,
            np.log(deviation + _FLOOR),
            correlation[:, *_PAIRS],
            covariance[:, *_PAIRS],
            np.log(energy + 1e-6),
            anisotropy,
        ],
        axis=1,
    )
