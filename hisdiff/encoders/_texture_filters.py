"""Filters of the texture encoder, and what they say of a window.

An image is unmixed into haematoxylin, eosin and total optical density. On a pyramid of these, Gaussian derivatives of
first and second order give responses that turn with the image only in known ways: slope, darkness and brightness of
blobs, strength of lines. What describes a window is the matrix of second moments of all responses over it: means,
variances, correlations between filters and stains, and the structure tensor, from which energy and anisotropy follow.
Moments add up over pixels, so that any window, patch or bin of a grid can be described from the same responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hisdiff.encoders._texture_forms import SCALARS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Optical density of haematoxylin, eosin and diaminobenzidine (unused) in red, green and blue; Ruifrok & Johnston (2001), Table 1.
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.vstack([np.linalg.inv(_STAINS).T[:2], np.full(3, 1 / 3)]).astype(np.float32)
"""From optical density of three colours to haematoxylin, eosin and total density."""

_DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)

_PAIRS = np.triu_indices(SCALARS, 1)
FLOOR = np.float64(1e-3)


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


def pyramid(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the stain densities, float32 ``(C, y, x)``, of an image, uint8 ``(y, x, 3)``, and of its reductions by two, without end."""
    from hisdiff.encoders._texture_kernels import halve, unmix  # numba takes half a second to import

    level = unmix(np.require(image, requirements=["C", "W"]), _DENSITY, _UNMIX)
    while True:
        yield level
        level = halve(level)


def window_moments(densities: np.ndarray, sides: list[int]) -> list[Moments]:
    """Return second moments of the responses over centred square windows, the smallest first."""
    from hisdiff.encoders._texture_kernels import window_sums

    return [
        Moments(scalars / side**2, tensor / side**2)
        for side, scalars, tensor in zip(sides, *window_sums(densities, np.array(sides)))
    ]


def describe(moments: Moments) -> np.ndarray:
    """Turn second moments of responses over some windows into features ``(n, F)`` that do not change when the image is turned."""
    mean = moments.scalars[:, SCALARS, :SCALARS]
    covariance = moments.scalars[:, :SCALARS, :SCALARS] - mean[:, :, None] * mean[:, None]
    deviation = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-10))
    correlation = covariance / (deviation[:, :, None] * deviation[:, None] + 1e-6)
    # Structure tensor of each stain: its trace is energy, its eigenvalues' difference over the trace is anisotropy.
    xx, yy, xy = np.moveaxis(moments.tensor, 1, 0)
    energy = xx + yy
    anisotropy = np.hypot(xx - yy, 2 * xy) / (energy + 1e-6)
    return np.concatenate(
        [
            mean,
            np.log(deviation + FLOOR),
            correlation[:, *_PAIRS],
            covariance[:, *_PAIRS],
            np.log(energy + 1e-6),
            anisotropy,
        ],
        axis=1,
    )
