"""The published denoiser: a transformer with one token per gene, or group of genes, and adaptive layer norm (HisDiff, Stem)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from hisdiff._nn._conditioner import TimestepEmbedder
from hisdiff._nn._groups import GroupReadout, Groups, GroupTokens

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-6


class GeneTokens(nn.Module):
    """One token per gene: a learned vector of the gene plus a network of its noisy value."""

    def __init__(self, n_genes: int, hidden: int) -> None:
        super().__init__()
        self.identity = nn.Parameter(torch.empty(n_genes, hidden))
        self.value = nn.Sequential(nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(B, G)`` into ``(B, G, hidden)``."""
        return self.identity + self.value(x[..., None])

    def start(self, generator: torch.Generator) -> None:
        """Spread the genes' vectors evenly within 1 / sqrt(hidden)."""
        bound = self.identity.shape[1] ** -0.5
        nn.init.uniform_(self.identity, -bound, bound, generator=generator)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the gene tokens."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, G, hidden)`` to the same shape."""
        batch, tokens, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, hidden))


class Block(nn.Module):
    """Transformer block whose norms are shifted and scaled, and whose branches are gated, by the condition."""

    def __init__(self, hidden: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        inner = int(hidden * mlp_ratio)
        self.attention = SelfAttention(hidden, heads)
        self.mlp = nn.Sequential(nn.Linear(hidden, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, hidden))
        self.modulation = nn.Linear(hidden, 6 * hidden)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """Map tokens ``(B, G, hidden)`` under the activated condition ``(B, hidden)``."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(activated)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(_modulated_norm(x, shift1, scale1))
        return x + gate2 * self.mlp(_modulated_norm(x, shift2, scale2))

    def start(self, generator: torch.Generator) -> None:
        """Start as the identity."""
        nn.init.zeros_(self.modulation.weight)


class Head(nn.Module):
    """Read the outputs of each gene off its token."""

    def __init__(self, hidden: int, outputs: int, groups: Groups | None = None) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden, 2 * hidden)
        self.linear = nn.Linear(hidden, outputs) if groups is None else GroupReadout(groups, hidden, outputs)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """Map tokens ``(B, tokens, hidden)`` to ``(B, outputs, G)``, or ``(B, outputs, groups, size)``."""
        shift, scale = self.modulation(activated)[:, None].chunk(2, dim=-1)
        read = self.linear(_modulated_norm(x, shift, scale))
        return read.transpose(1, 2) if isinstance(self.linear, nn.Linear) else read

    def start(self, generator: torch.Generator) -> None:
        """Start with zero output."""
        nn.init.zeros_(self.modulation.weight)
        if isinstance(self.linear, nn.Linear):
            nn.init.zeros_(self.linear.weight)


class DiT(nn.Module):
    """Transformer over gene tokens that predicts the noise in an expression vector.

    Parameters
    ----------
    n_genes
        Number of genes G.
    hidden
        Width of tokens and of the condition.
    depth
        Number of blocks.
    heads
        Attention heads; divides ``hidden``.
    mlp_ratio
        Width of the blocks' networks over ``hidden``.
    learn_variance
        Whether a second output per gene controls the variance of the reverse step.
    genes_per_token
        Genes that share a token; with 1 this is the published network. ``groups.arrange`` says which ones do.
    """

    def __init__(
        self,
        n_genes: int,
        hidden: int = 384,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        learn_variance: bool = True,
        genes_per_token: int = 1,
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"A width of {hidden} does not split into {heads} heads.")
        self.learn_variance = learn_variance
        self.time = TimestepEmbedder(hidden)
        self.groups = None if genes_per_token == 1 else Groups(n_genes, genes_per_token)
        self.tokens = GeneTokens(n_genes, hidden) if self.groups is None else GroupTokens(self.groups, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, mlp_ratio) for _ in range(depth))
        self.head = Head(hidden, 2 if learn_variance else 1, self.groups)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return the prediction.

        Parameters
        ----------
        x
            ``(B, G)`` noisy expression.
        t
            ``(B,)`` or ``(1,)`` steps.
        condition
            ``(B, hidden)`` from the conditioner.

        Returns
        -------
        ``(B, 2, G)``: noise and variance control; without learned variance ``(B, G)``.
        """
        return self.denoise(x, self.embed_time(t) + condition)

    def embed_time(self, t: Tensor) -> Tensor:
        """Embed steps ``(B,)`` as ``(B, hidden)``, to be added to the condition."""
        return self.time(t)

    def denoise(self, x: Tensor, condition: Tensor) -> Tensor:
        """Predict from the noisy expression and the sum of condition and time."""
        activated = F.silu(condition)
        tokens = self.tokens(x if self.groups is None else self.groups.split(x))
        for block in self.blocks:
            tokens = block(tokens, activated)
        output = self.head(tokens, activated)
        if self.groups is not None:
            output = self.groups.join(output)
        return output if self.learn_variance else output[:, 0]


def _modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=_EPS), 1 + scale)
