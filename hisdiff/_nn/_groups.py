"""Groups of genes as tokens: attention costs the square of the number of tokens, and coexpressed genes carry much the same information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Groups(nn.Module):
    """Which genes share a token.

    Parameters
    ----------
    n_genes, size
        Genes G, and genes of a group; the last group is filled up with nothing.
    """

    def __init__(self, n_genes: int, size: int) -> None:
        super().__init__()
        if not 1 <= size <= n_genes:
            raise ValueError(f"A token holds from one gene to all {n_genes} of the panel, not {size}.")
        self.size, self.n_groups = size, -(-n_genes // size)
        self.register_buffer("order", torch.arange(n_genes))
        self.register_buffer("place", torch.arange(n_genes))
        self.order: Tensor
        self.place: Tensor

    def arrange(self, order: Tensor) -> None:
        """Set the order of genes ``(G,)`` that is cut into groups."""
        self.order.copy_(order)
        self.place.copy_(order.argsort())

    def split(self, x: Tensor) -> Tensor:
        """Turn ``(B, G)`` into ``(B, groups, size)``."""
        ordered = x[:, self.order]
        missing = self.n_groups * self.size - x.shape[1]
        return nn.functional.pad(ordered, (0, missing)).view(len(x), self.n_groups, self.size)

    def join(self, x: Tensor) -> Tensor:
        """Turn ``(B, outputs, groups, size)`` back into ``(B, outputs, G)``."""
        return x.flatten(2)[..., self.place]


class GroupTokens(nn.Module):
    """One token per group: a learned vector of the group plus a network of its noisy values, whose first layer is its own."""

    def __init__(self, groups: Groups, hidden: int) -> None:
        super().__init__()
        self.identity = nn.Parameter(torch.empty(groups.n_groups, hidden))
        self.enter = nn.Parameter(torch.empty(groups.n_groups, groups.size, hidden))
        self.value = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(B, groups, size)`` into ``(B, groups, hidden)``."""
        return self.identity + self.value(torch.einsum("bng,ngh->bnh", x, self.enter))

    def start(self, generator: torch.Generator) -> None:
        """Spread the groups' vectors evenly within 1 / sqrt(hidden), and first layers as Glorot and Bengio (2010)."""
        _, size, hidden = self.enter.shape
        nn.init.uniform_(self.identity, -(hidden**-0.5), hidden**-0.5, generator=generator)
        bound = (6 / (size + hidden)) ** 0.5
        nn.init.uniform_(self.enter, -bound, bound, generator=generator)


class GroupReadout(nn.Module):
    """Read the outputs of the genes of a group off its token, by a layer of its own; starts at zero."""

    def __init__(self, groups: Groups, hidden: int, outputs: int) -> None:
        super().__init__()
        self.size, self.outputs = groups.size, outputs
        self.weight = nn.Parameter(torch.zeros(groups.n_groups, hidden, outputs * groups.size))
        self.bias = nn.Parameter(torch.zeros(groups.n_groups, outputs * groups.size))

    def forward(self, x: Tensor) -> Tensor:
        """Turn ``(B, groups, hidden)`` into ``(B, outputs, groups, size)``."""
        values = torch.einsum("bnh,nho->bno", x, self.weight) + self.bias
        return values.view(*x.shape[:2], self.outputs, self.size).transpose(1, 2)

    def start(self, generator: torch.Generator) -> None:
        """Start with zero output."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
