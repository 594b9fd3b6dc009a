"""Outputs of a trained model for the pixels of a slide, drawn tile by tile, independently of the tiling."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch

from hisdiff._training._loop import generator_for

if TYPE_CHECKING:
    from torch import Tensor

    from hisdiff.methods.xfuse._model import XFuseModel
    from hisdiff.methods.xfuse._slides import Slide

_TILE_PX = 256
_NOISE_BLOCK = 64
_MAX_VALUES = 2**27
"""Values of tiles kept at a time (512 MB)."""


class Canvas:
    """Scale times activity of the pixels of one slide, for each of some draws.

    A tile is computed with a halo as wide as the model looks, and its noise belongs to places, so that tiles fit
    together without a seam.
    """

    def __init__(self, model: XFuseModel, slide: Slide, n_draws: int, seed: int) -> None:
        self.model, self.slide, self.n_draws, self.seed = model.eval(), slide, n_draws, seed
        self._tiles: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def window(self, first: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Return float32 ``(draws, K, h, w)`` of pixels counted from the origin of um; NaN outside the slide."""
        y0, x0 = (a - b for a, b in zip(first, self.slide.origin))
        (h, w), (rows, columns) = size, self.slide.shape
        out = np.full((self.n_draws, self.model.n_metagenes, h, w), np.nan, dtype=np.float32)
        top, left = max(y0, 0), max(x0, 0)
        bottom, right = min(y0 + h, rows), min(x0 + w, columns)
        if top >= bottom or left >= right:
            return out
        for i in range(top // _TILE_PX, -(-bottom // _TILE_PX)):
            for j in range(left // _TILE_PX, -(-right // _TILE_PX)):
                ty, tx = i * _TILE_PX, j * _TILE_PX
                a, b = max(ty, top), max(tx, left)
                c, d = min(ty + _TILE_PX, bottom), min(tx + _TILE_PX, right)
                out[:, :, a - y0 : c - y0, b - x0 : d - x0] = self._tile(i, j)[:, :, a - ty : c - ty, b - tx : d - tx]
        return out

    def _tile(self, i: int, j: int) -> np.ndarray:
        if (i, j) in self._tiles:
            self._tiles.move_to_end((i, j))
            return self._tiles[i, j]
        tile = self._tiles[i, j] = self._render(i * _TILE_PX, j * _TILE_PX)
        while len(self._tiles) > 1 and sum(t.size for t in self._tiles.values()) > _MAX_VALUES:
            self._tiles.popitem(last=False)
        return tile

    @torch.inference_mode()
    def _render(self, y: int, x: int) -> np.ndarray:
        halo, (rows, columns) = self.model.config.halo_px, self.slide.shape
        a, b = max(y - halo, 0), max(x - halo, 0)
        c, d = min(y + _TILE_PX + halo, rows), min(x + _TILE_PX + halo, columns)
        image = torch.from_numpy(self.slide.image[None, :, a:c, b:d]).to(self.model.baseline_.device)
        posterior = self.model.posterior(image)
        inner = slice(y - a, y - a + _TILE_PX), slice(x - b, x - b + _TILE_PX)
        out = []
        for k in range(self.n_draws):
            latent = [mean + sd * self._noise(k, level, (a, b), mean) for level, (mean, sd) in enumerate(posterior)]
            maps = self.model.maps(self.model.hidden(latent))
            out.append((maps.activity * maps.scale[:, None])[0, :, inner[0], inner[1]].cpu().numpy())
        return np.stack(out)

    def _noise(self, k: int, level: int, corner: tuple[int, int], like: Tensor) -> Tensor:
        """Return the noise of one level of a window, ``(C, h, w)``, from blocks anchored at the origin of um."""
        y, x = ((at + origin) >> level for at, origin in zip(corner, self.slide.origin))
        _, channels, h, w = like.shape
        out = torch.empty(channels, h, w)
        for i in range(y // _NOISE_BLOCK, -(-(y + h) // _NOISE_BLOCK)):
            for j in range(x // _NOISE_BLOCK, -(-(x + w) // _NOISE_BLOCK)):
                address = ((i + 2**19) << 20) + j + 2**19
                values = torch.randn(
                    channels, _NOISE_BLOCK, _NOISE_BLOCK, generator=generator_for(self.seed, address, 64 * k + level)
                )
                a, b = i * _NOISE_BLOCK - y, j * _NOISE_BLOCK - x
                rows, columns = slice(max(a, 0), min(a + _NOISE_BLOCK, h)), slice(max(b, 0), min(b + _NOISE_BLOCK, w))
                part = values[:, rows.start - a : rows.stop - a, columns.start - b : columns.stop - b]
                out[:, rows, columns] = part
        return out.to(like.device)


def box_means(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the mean over boxes of maps whose pixels are constant.

    Parameters
    ----------
    maps
        ``(..., h, w)``; pixels that are NaN in all maps do not count.
    boxes
        ``(n, 4)`` as top, left, bottom, right, in pixels, within the maps.

    Returns
    -------
    float64 ``(..., n)``, NaN where a box has no pixel that counts.
    """
    there = np.isfinite(maps.reshape(-1, *maps.shape[-2:])[0])
    total = _box_sums(np.where(there, maps, 0), boxes)
    area = _box_sums(there.astype(np.float32), boxes)
    return np.where(area > 1e-6, total / np.maximum(area, 1e-6), np.nan)


def _box_sums(maps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return integrals over boxes, from the integral over everything above and left of their corners."""
    summed = np.zeros((*maps.shape[:-2], maps.shape[-2] + 1, maps.shape[-1] + 1))
    np.cumsum(maps, axis=-2, out=summed[..., 1:, 1:])
    np.cumsum(summed[..., 1:, 1:], axis=-1, out=summed[..., 1:, 1:])

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        i = np.minimum(y.astype(np.int64), maps.shape[-2] - 1)
        j = np.minimum(x.astype(np.int64), maps.shape[-1] - 1)
        v, u = y - i, x - j
        above = (1 - u) * summed[..., i, j] + u * summed[..., i, j + 1]
        below = (1 - u) * summed[..., i + 1, j] + u * summed[..., i + 1, j + 1]
        return (1 - v) * above + v * below

    top, left, bottom, right = boxes.T
    return at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
