"""The noise of ``BlockNoise`` and ``SmoothNoise`` made on a device: the same numbers, without a copy for every step.

Philox with four words of 64 bits and ten rounds (Salmon et al., 2011), as numpy has it, in integer operations of torch.
Torch's 64-bit integers are signed: products and sums wrap as unsigned ones do, shifts to the right are masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from hisdiff._prediction._field import SmoothNoise
from hisdiff._prediction._noise import LANES

if TYPE_CHECKING:
    from torch import Tensor

    from hisdiff._prediction._noise import BlockNoise

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 0xFFFFFFFF


class Normal(Protocol):
    """Standard normal noise on a device."""

    def __call__(self, draw: int, step: int, rows: np.ndarray, width: int) -> Tensor:
        """Return float32 ``(len(rows), width)``; see ``BlockNoise.normal``."""


def noise_on(noise: BlockNoise | SmoothNoise, device: torch.device) -> Normal:
    """Return the noise where it is needed: made there on CUDA, else made by numpy, which is quicker on a processor."""
    if device.type != "cuda":
        return lambda draw, step, rows, width: torch.from_numpy(noise.normal(draw, step, rows, width)).to(device)
    return DeviceNoise(noise, device)


class DeviceNoise:
    """Noise made on a device. What depends on the rows alone is put there once for each set of rows.

    Parameters
    ----------
    noise
        Noise as numpy makes it; the values agree to 1e-6.
    device
        Where.
    """

    def __init__(self, noise: BlockNoise | SmoothNoise, device: torch.device) -> None:
        self._noise, self._device = noise, device
        self._rows: np.ndarray | None = None
        self._block = self._rank = torch.empty(0)
        self._key: list[int] = []
        self._weights: tuple[Tensor, ...] = ()
        self._nodes: tuple[Tensor, ...] = ()

    def __call__(self, draw: int, step: int, rows: np.ndarray, width: int) -> Tensor:
        """Return float32 ``(len(rows), width)``; see ``BlockNoise.normal``."""
        if rows is not self._rows:
            self._address(rows)
        white = _normal(self._block, self._rank, (draw, step), self._key, width)
        if not self._nodes:
            return white
        blended = torch.zeros((len(rows), width), device=self._device)
        for weight, node in zip(self._weights, self._nodes):
            blended.addcmul_(weight, white[node])
        return blended

    def _address(self, rows: np.ndarray) -> None:
        white, nodes = self._noise, np.asarray(rows)
        if isinstance(white, SmoothNoise):
            blend, nodes, white = white.parts(nodes)
            # Every place has as many nodes around it.
            weights, around = (a.reshape(len(rows), -1).T for a in (blend.data, blend.indices))
            self._weights = tuple(self._put(weights[..., None].astype(np.float32)))
            self._nodes = tuple(self._put(around.astype(np.int64)))
        block, rank, key = white.addresses(nodes)
        self._block, self._rank, self._key = self._put(block.view(np.int64)), self._put(rank), key.tolist()
        self._rows = rows

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _normal(block: Tensor, rank: Tensor, address: tuple[int, int], key: list[int], width: int) -> Tensor:
    """Return the noise of rows by their block and rank, for a draw and step."""
    ticks = -(-width // LANES)
    # The generator counts up before it gives its first numbers.
    count = rank[:, None] * ticks + torch.arange(1, ticks + 1, device=rank.device)
    draw, step = (torch.full_like(count, word) for word in address)
    words = _philox([count, block[:, None].expand_as(count), draw, step], key)
    bits = torch.stack(words, dim=-1)  # (n, ticks, 4) words of 64 bits, each two of 32, the lower first
    halves = torch.stack([bits & _LOW, (bits >> 32) & _LOW], dim=-1).flatten(1)
    uniform = (halves >> 8).to(torch.float32) * 2.0**-24
    near, far = uniform.chunk(2, dim=1)
    radius = torch.sqrt(-2 * torch.log(1 - near))
    angle = 2 * np.pi * far
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :width]


def _philox(counter: list[Tensor], key: list[int]) -> list[Tensor]:
    """Return the four words of each counter."""
    a, b, c, d = counter
    for i in range(_ROUNDS):
        first, second = (_signed(k + i * w) for k, w in zip(key, _WEYL))
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
    return [a, b, c, d]


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower 64 bits of unsigned products."""
    low, high = x & _LOW, (x >> 32) & _LOW
    factor_low, factor_high = factor & _LOW, factor >> 32
    # Products of halves of 32 bits fill 64, so they are put together by halves.
    ll, lh, hl = low * factor_low, low * factor_high, high * factor_low
    middle = ((ll >> 32) & _LOW) + (lh & _LOW) + (hl & _LOW)
    upper = high * factor_high + ((lh >> 32) & _LOW) + ((hl >> 32) & _LOW) + (middle >> 32)
    return upper, x * _signed(factor)


def _signed(word: int) -> int:
    word &= 0xFFFFFFFFFFFFFFFF
    return word - (1 << 64) if word >> 63 else word
