"""Denoiser of the `fast` preset: a residual MLP with adaptive norm, several independent networks computed as one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from hisdiff._nn._conditioner import TimestepEmbedder

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-6
# Of biases, sd.
_OFFSET = 0.25


class StackedLinear(nn.Module):
    """One linear layer for each of ``M`` members; maps ``(M, n, i)`` to ``(M, n, o)``.

    Small networks leave most of a step to overhead, so that members computed together cost little more than one.

    Parameters
    ----------
    n_members, n_in, n_out
        M, i and o.
    zero, offset
        Whether weights start as zero, and whether biases start as something else.
    """

    def __init__(self, n_members: int, n_in: int, n_out: int, *, zero: bool = False, offset: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_members, n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_members, 1, n_out))
        self.zero, self.offset = zero, offset

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        return torch.baddbmm(self.bias, x, self.weight)

    def start(self, generator: torch.Generator) -> None:
        """Spread weights evenly as Glorot and Bengio (2010), or leave them zero."""
        if not self.zero:
            bound = math.sqrt(6 / sum(self.weight.shape[1:]))
            nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        if self.offset:
            nn.init.normal_(self.bias, std=_OFFSET, generator=generator)


class Block(nn.Module):
    """Residual block whose norm is shifted and scaled, and whose branch is gated, by the condition."""

    def __init__(self, n_members: int, width: int) -> None:
        super().__init__()
        self.modulation = StackedLinear(n_members, width, 3 * width, zero=True)
        self.widen = StackedLinear(n_members, width, 2 * width)
        self.narrow = StackedLinear(n_members, 2 * width, width)

    def forward(self, h: Tensor, activated: Tensor, dropout: float, generator: torch.Generator | None) -> Tensor:
        """Map ``(M, n, width)`` under the activated condition."""
        shift, scale, gate = self.modulation(activated).chunk(3, dim=-1)
        normed = torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=_EPS), 1 + scale)
        inner = seeded_dropout(F.silu(self.widen(normed)), dropout, generator)
        return torch.addcmul(h, gate, self.narrow(inner))


class StackedMLP(nn.Module):
    """``M`` independent denoisers of a vector of ``K`` values.

    Parameters
    ----------
    n_members
        M.
    n_values
        K.
    n_condition
        Length of the condition vector.
    width, depth
        Of each network.
    dropout, condition_dropout
        Part of the hidden values, and of the condition's, that is set to zero in training.
    """

    def __init__(
        self,
        n_members: int,
        n_values: int,
        n_condition: int,
        *,
        width: int,
        depth: int,
        dropout: float = 0.0,
        condition_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.condition_dropout = dropout, condition_dropout
        self.sizes = {"n_values": n_values, "n_condition": n_condition, "width": width, "depth": depth}
        # Torch's own layers take their first weights from the global generator, which is put back: `initialize` gives
        # them others.
        with torch.random.fork_rng(devices=[]):
            self.time = TimestepEmbedder(width, 64)
        # The norm that follows takes the size of values away, unless they are told from an offset.
        self.enter = StackedLinear(n_members, n_values, width, offset=True)
        self.fuse_in = StackedLinear(n_members, n_condition, width)
        self.fuse_out = StackedLinear(n_members, width, width)
        self.blocks = nn.ModuleList(Block(n_members, width) for _ in range(depth))
        self.head = StackedLinear(n_members, width, n_values, zero=True)

    def like(self, n_members: int) -> StackedMLP:
        """Return networks of the same sizes for another number of members, weights zero."""
        return StackedMLP(n_members, **self.sizes, dropout=self.dropout, condition_dropout=self.condition_dropout)

    def embed_time(self, t: Tensor) -> Tensor:
        """Embed times ``(B,)`` as ``(B, width)``; members share this part."""
        return self.time(t)

    def condition(self, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fuse condition vectors ``(M, n, C)`` into ``(M, n, width)``; once per location, outside the sampling loop."""
        hidden = F.silu(self.fuse_in(seeded_dropout(condition, self.condition_dropout, generator)))
        return self.fuse_out(seeded_dropout(hidden, self.dropout, generator))

    def denoise(self, x: Tensor, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Predict from noisy values ``(M, n, K)`` and the sum of condition and time ``(M, n, width)``."""
        activated = F.silu(condition)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, activated, self.dropout, generator)
        return self.head(F.layer_norm(h, h.shape[-1:], eps=_EPS))


def seeded_dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Set a part of the values to zero and scale up the rest; nothing without a generator, as outside training.

    ``torch.nn.Dropout`` draws from the global generator, which is not ours to seed.
    """
    if generator is None or rate == 0:
        return x
    # In place: a mask of truth values would be turned into numbers here and again for the gradient.
    mask = torch.rand(x.shape, generator=generator, device=x.device).ge_(rate).mul_(1 / (1 - rate))
    return x * mask
