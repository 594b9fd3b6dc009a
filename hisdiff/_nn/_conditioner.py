"""The condition of a denoiser: the image around a location, and the level of the noise schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


class SetAttention(nn.Module):
    """Multi-head attention of one query on a set, without positions; the order of the set does not matter.

    With a single query the projection of the keys is folded into the query and the projection of the values is applied to
    the weighted mean of the set: the products q (W_k a) = (W_k' q) a and W_v (w a) are the same numbers, at the price of one
    vector instead of one per member of the set. The bias of the keys adds the same to all scores and drops out.

    Parameters
    ----------
    width
        Length of the embeddings.
    heads
        Number of heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"A width of {width} does not split into {heads} heads.")
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, members: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from ``(B, W)`` on ``(B, k, W)``; members where ``mask`` ``(B, k)`` is False are left out."""
        batch, width = query.shape
        depth = width // self.heads
        weight_q, weight_k, weight_v = self.in_proj.weight.chunk(3)
        bias_q, _, bias_v = self.in_proj.bias.chunk(3)
        q = F.linear(query, weight_q, bias_q).view(batch, self.heads, depth)
        folded = torch.einsum("bhd,hdw->bhw", q, weight_k.view(self.heads, depth, width))
        scores = folded @ members.transpose(1, 2) / math.sqrt(depth)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights * mask[:, None]  # an empty set gives zeros
        pooled = torch.einsum("bhw,hdw->bhd", weights @ members, weight_v.view(self.heads, depth, width))
        return self.out_proj(pooled.reshape(batch, width) + bias_v)


class Conditioner(nn.Module):
    """Fuse the embedding of a location with those of its neighbourhood and of its wider surroundings.

    y = A_1(e, near) + A_2(e, wide), then Linear, ReLU, Linear: no residual and no positions, as in the HisDiff paper.

    Parameters
    ----------
    embedding_dim
        Length D of the embeddings.
    cond_dim
        Length of the condition.
    width
        Width of the attention; None for D. Another width than D puts a linear layer in front.
    heads
        Number of heads; divides the width.
    with_library_size
        Whether the library size is part of the condition.
    fusion_hidden
        Hidden width of the fusion network.
    """

    def __init__(
        self,
        embedding_dim: int,
        cond_dim: int,
        *,
        width: int | None = None,
        heads: int = 8,
        with_library_size: bool = False,
        fusion_hidden: int = 1024,
    ) -> None:
        super().__init__()
        inner = width or embedding_dim
        if inner % heads:
            raise ValueError(
                f"Embeddings of length {embedding_dim} at a width of {inner} do not split into {heads} heads; "
                f"give a width that {heads} divides."
            )
        self.project = nn.Linear(embedding_dim, inner) if inner != embedding_dim else nn.Identity()
        self.near = SetAttention(inner, heads)
        self.wide = SetAttention(inner, heads)
        self.fuse = nn.Sequential(nn.Linear(inner, fusion_hidden), nn.ReLU(), nn.Linear(fusion_hidden, cond_dim))
        self.size = (
            nn.Sequential(nn.Linear(1, cond_dim), nn.SiLU(), nn.Linear(cond_dim, cond_dim))
            if with_library_size
            else None
        )

    def start(self, generator: torch.Generator) -> None:
        """Start with a small condition, as published."""
        nn.init.normal_(cast("nn.Linear", self.fuse[-1]).weight, std=0.02, generator=generator)

    def forward(
        self,
        own: Tensor,
        anchors_near: Tensor,
        anchors_wide: Tensor,
        near_mask: Tensor | None = None,
        wide_mask: Tensor | None = None,
        log2_size: Tensor | None = None,
    ) -> Tensor:
        """Return the condition ``(B, cond_dim)``.

        Parameters
        ----------
        own
            ``(B, D)`` embedding of the locations.
        anchors_near, anchors_wide
            ``(B, 9, D)`` and ``(B, 49, D)`` embeddings of the anchors around them, in any order, or fewer.
        near_mask, wide_mask
            Boolean ``(B, 9)`` and ``(B, 49)``, True where there is an anchor; None for everywhere.
        log2_size
            ``(B,)`` log2 of the library size, centred to the order of 1; needed if and only if the conditioner takes it.
        """
        near, wide = self.project(anchors_near), self.project(anchors_wide)
        return self._fuse(self.project(own), near, wide, near_mask, wide_mask, log2_size)

    def at(self, own: Tensor, anchors: Tensor, near: Tensor, wide: Tensor, log2_size: Tensor | None = None) -> Tensor:
        """Return the condition from indices: on a CPU every anchor in use is projected once, however many locations share it.

        Parameters
        ----------
        own
            ``(B, D)`` embedding of the locations.
        anchors
            ``(m, D)`` embeddings of all anchors.
        near, wide
            ``(B, 9)`` and ``(B, 49)`` rows of ``anchors``, negative where there is none.
        log2_size
            As in ``forward``.
        """
        places = torch.cat([near, wide], dim=1).clamp(min=0)
        if places.device.type == "cpu":
            rows, places = places.unique(return_inverse=True)
            anchors = anchors[rows]
        elif len(anchors) > places.numel():  # to find out which are in use would wait for the device
            anchors, places = (
                anchors[places.ravel()],
                torch.arange(places.numel(), device=places.device).view_as(places),
            )
        projected = self.project(anchors)
        near_places, wide_places = places.split([near.shape[1], wide.shape[1]], dim=1)
        return self._fuse(
            self.project(own), projected[near_places], projected[wide_places], near >= 0, wide >= 0, log2_size
        )

    def _fuse(
        self,
        query: Tensor,
        near: Tensor,
        wide: Tensor,
        near_mask: Tensor | None,
        wide_mask: Tensor | None,
        log2_size: Tensor | None,
    ) -> Tensor:
        if (log2_size is None) != (self.size is None):
            raise ValueError("A library size is given if and only if the conditioner was made with_library_size.")
        condition = self.fuse(self.near(query, near, near_mask) + self.wide(query, wide, wide_mask))
        if self.size is not None and log2_size is not None:
            condition = condition + self.size(log2_size[:, None].to(condition.dtype))
        return condition


class TimestepEmbedder(nn.Module):
    """Embed times: sinusoids, then Linear, SiLU, Linear.

    Parameters
    ----------
    dim
        Length of the result.
    frequencies
        Length of the sinusoidal code, an even number.
    max_period
        Longest period; times are steps (0 to 999), so flows on [0, 1] multiply theirs by 1000.
    """

    def __init__(self, dim: int, frequencies: int = 256, max_period: float = 10_000.0) -> None:
        super().__init__()
        half = frequencies // 2
        rates = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("rates", rates, persistent=False)
        self.rates: Tensor
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times ``(B,)`` as ``(B, dim)``."""
        # Phases up to 999 rad need float32 also where matrix products run in bf16.
        phase = t[:, None].float() * self.rates
        return self.mlp(torch.cat([phase.cos(), phase.sin()], dim=-1).to(next(self.mlp.parameters()).dtype))

    def start(self, generator: torch.Generator) -> None:
        """Small weights, as is usual for time embeddings of diffusion transformers."""
        for weight in self.mlp.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02, generator=generator)
