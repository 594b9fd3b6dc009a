"""Networks between an image, its latent variables at several resolutions, and their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_SLOPE = 0.2
_MOMENTUM = 0.05
_MIN_SD = 1e-8


def block(n_in: int, n_out: int, side: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, side, stride, padding=side // 2),
        nn.BatchNorm2d(n_out, momentum=_MOMENTUM),
        nn.LeakyReLU(_SLOPE),
    )


def double(channels: int) -> nn.Sequential:
    """Two blocks of 3 x 3."""
    return nn.Sequential(block(channels, channels, 3), block(channels, channels, 3))


def head(channels: int, n_out: int) -> nn.Sequential:
    """Two convolutions of one pixel."""
    return nn.Sequential(block(channels, channels, 1), nn.Conv2d(channels, n_out, 1))


class Encoder(nn.Module):
    """From an image to a tensor at each level, finest first."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = block(3, channels[0], 3)
        self.levels = nn.ModuleList([double(c) for c in channels])
        self.down = nn.ModuleList([block(a, b, 5, stride=2) for a, b in zip(channels, channels[1:])])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return tensors ``(b, C_i, h / 2^i, w / 2^i)`` of an image ``(b, 3, h, w)``."""
        h = self.levels[0](self.stem(image))
        out = [h]
        for down, level in zip(self.down, self.levels[1:]):
            h = level(down(h))
            out.append(h)
        return out


class LatentHeads(nn.Module):
    """From the encoder's tensors to mean and standard deviation of the latent variables."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.mean = nn.ModuleList([head(c, c) for c in channels])
        self.sd = nn.ModuleList([head(c, c) for c in channels])

    def forward(self, encoded: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return mean and standard deviation at each level, in float32."""
        return [
            (mean(e).float(), nn.functional.softplus(sd(e).float()) + _MIN_SD)
            for e, mean, sd in zip(encoded, self.mean, self.sd)
        ]


class Decoder(nn.Module):
    """From latent variables to the finest hidden tensor, coarsest level first."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList([double(c) for c in channels])
        self.up = nn.ModuleList([block(b, a, 5) for a, b in zip(channels, channels[1:])])
        self.combine = nn.ModuleList([block(2 * a, a, 3) for a in channels[:-1]])

    def forward(self, latent: Sequence[Tensor]) -> Tensor:
        """Return ``(b, C_0, h, w)``."""
        h = self.levels[-1](latent[-1])
        for i in range(len(latent) - 2, -1, -1):
            z = latent[i]
            grown = nn.functional.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            # A level with an odd side is half a pixel smaller than twice the one above it.
            grown = self.up[i](grown)[..., : z.shape[-2], : z.shape[-1]]
            h = self.levels[i](self.combine[i](torch.cat([grown, z], dim=1)))
        return h


class ImageHeads(nn.Module):
    """Mean and standard deviation of each pixel's colours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.sd = head(channels, 3), head(channels, 3)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, ``(b, 3, h, w)``, in float32."""
        mean, sd = self.mean(hidden).float(), self.sd(hidden).float()
        return torch.tanh(mean), nn.functional.softplus(sd) + _MIN_SD

    @torch.no_grad()
    def start(self, mean: Tensor, sd: Tensor) -> None:
        """Start at the overall mean and standard deviation of the colours, ``(3,)`` each, for any hidden tensor."""
        for part, value in ((self.mean, torch.atanh(mean)), (self.sd, inverse_softplus(sd))):
            last = last_of(part)
            last.weight.zero_()
            assert last.bias is not None
            last.bias.copy_(value)


def last_of(layers: nn.Sequential) -> nn.Conv2d:
    """Return the last layer of a head."""
    return cast("nn.Conv2d", layers[-1])


def inverse_softplus(value: Tensor) -> Tensor:
    """Return x with softplus(x) = value, above zero."""
    return value + torch.log(-torch.expm1(-value))
