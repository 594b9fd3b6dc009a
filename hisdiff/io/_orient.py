"""Compare the orientation of a full-resolution image with that of the reduced one that came with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from hisdiff._check import one_of
from hisdiff._log import logger
from hisdiff.io._raster import Raster

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da

# By Pillow's names; on (..., y, x). Rotations are counter-clockwise.
_TURNS: dict[str, Callable] = {
    "none": lambda a: a,
    "flip_left_right": lambda a: a[..., ::-1],
    "flip_top_bottom": lambda a: a[..., ::-1, :],
    "rotate_180": lambda a: a[..., ::-1, ::-1],
    "transpose": lambda a: a.swapaxes(-1, -2),
    "rotate_90": lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
    "rotate_270": lambda a: a.swapaxes(-1, -2)[..., ::-1],
    "transverse": lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
}
ORIENTATIONS = tuple(_TURNS)
SIZE_TOLERANCE = 0.02
_SIDE = 128
"""Longer side in pixels at which images are compared."""
_CHEAP_PX = 64e6
"""Levels up to this many pixels are read whole; of larger ones a window around each point of the comparison."""
_SAMPLED_SIDE, _WINDOW = 48, 32
"""Points along the longer side of such a level, and the side of a window in pixels."""
_WELL = 0.8
"""Least correlation of two images of one section, also with changed colors."""
_UNLIKE = 0.4
_LEFT = 0.5
"""An image is refused where a turn leaves less than this share of what is unexplained as it came: slides are alike on all sides."""


def turned(raster: Raster, orient: str | None) -> Raster:
    """Return an image with another orientation; see :data:`ORIENTATIONS`."""
    if orient is None or one_of(orient, ORIENTATIONS, "orient") == "none":
        return raster
    return Raster([_TURNS[orient](level) for level in raster.levels], raster.sources, raster.n_stored)


def fits_size(raster: Raster, reference: np.ndarray, scale: float) -> bool:
    """Whether an image has the size of a reduced one divided by its scale, with or without a quarter turn."""
    wanted = np.array(reference.shape[:2]) / scale
    return any(
        np.all(np.abs(np.array(size) / wanted - 1) <= SIZE_TOLERANCE) for size in (raster.size, raster.size[::-1])
    )


def check_orientation(raster: Raster, reference: np.ndarray, what: str) -> None:
    """Raise where an image is mirrored or turned against the reduced one that came with it, and name the orientation that fits.

    Parameters
    ----------
    reference
        ``(y, x, 3)`` or ``(y, x)`` of any type, of the same extent.
    """
    seen = _thumbnail(raster)
    known = _standardized(_shrunk(_gray(np.asarray(reference)), max(seen.shape)))
    if known is None or _standardized(seen) is None:
        return
    fit: dict[str, float] = {}
    for name, turn in _TURNS.items():
        candidate = turn(seen)
        if (
            abs(np.log((candidate.shape[0] / candidate.shape[1]) / (known.shape[0] / known.shape[1])))
            > 2 * SIZE_TOLERANCE
        ):
            continue
        resized = np.asarray(
            Image.fromarray(np.ascontiguousarray(candidate)).resize(known.shape[::-1], Image.Resampling.BOX)
        )
        fit[name] = float(np.mean(_standardized(resized) * known))
    if not fit:
        return
    best = max(fit, key=lambda name: fit[name])
    as_it_is = fit.get("none", -1.0)
    if fit[best] > _WELL and 1 - fit[best] < _LEFT * (1 - as_it_is):
        unturned = f"{as_it_is:.2f} as it is" if "none" in fit else "impossible as it is (another shape)"
        raise ValueError(
            f"{what} is mirrored or turned against the reduced image that came with the spots: their correlation is "
            f"{unturned} and {fit[best]:.2f} with orient={best!r}; pass that to turn it."
        )
    if max(fit.values()) < _UNLIKE:
        logger.warning(
            "%s looks unlike the reduced image that came with the spots (correlation %.2f): is it that of another section?",
            what, max(fit.values()),
        )  # fmt: skip


def _gray(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return image if image.ndim == 2 else image[..., :3].mean(axis=-1)


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(image.shape)
    size = [max(round(side * factor), 2) for side in image.shape[::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _standardized(image: np.ndarray) -> np.ndarray | None:
    """Return an image of mean 0 and variance 1, None for one that is the same everywhere."""
    spread = image.std()
    return (image - image.mean()) / spread if spread > 1e-3 * max(abs(float(image.mean())), 1e-6) else None


def _thumbnail(raster: Raster) -> np.ndarray:
    """Return a grey image of 128 pixels a side, without reading all of a large slide that has no pyramid."""
    stored = raster.levels[raster.n_stored - 1]
    if stored.shape[1] * stored.shape[2] <= _CHEAP_PX:
        return _shrunk(_gray(np.moveaxis(raster.levels[-1].compute(), 0, -1)), _SIDE)
    return _sampled(stored)


def _sampled(level: da.Array) -> np.ndarray:
    _, height, width = level.shape
    step = max(height, width) / _SAMPLED_SIDE
    ys, xs = (((np.arange(max(round(side / step), 2)) + 0.5) * step).astype(int) for side in (height, width))
    out = np.empty((len(ys), len(xs)), dtype=np.float32)
    for i, y in enumerate(np.clip(ys, 0, height - _WINDOW)):
        # One row of windows at a time: neighbours lie in the same chunks.
        windows = [level[:, y : y + _WINDOW, x : x + _WINDOW].mean() for x in np.clip(xs, 0, width - _WINDOW)]
        out[i] = _computed(windows)
    return out


def _computed(values: list[da.Array]) -> tuple[float, ...]:
    import dask

    return dask.compute(*values)
