"""The image tower of CONCH: a vision transformer whose tokens one learned query pools (CoCa; Lu et al., 2024).

The embedding is what the pool gives after its norm, before the projection that compares images with text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hisdiff.encoders._import_timm import import_timm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from hisdiff._json import Plain

_TOWER = "visual."
_HEADS = 8
_SCALES = "ls1.gamma"


class QueryPool(nn.Module):
    """Attention of one learned query on tokens ``(B, k, width)``, giving ``(B, dim)``."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, _HEADS, kdim=width, vdim=width, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens."""
        known = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, known, known, need_weights=False)[0][:, 0]


class ImageTower(nn.Module):
    """Transformer, pool and norm.

    Parameters
    ----------
    architecture, kwargs
        Of the transformer, for timm.
    dim
        Length of the embedding.
    """

    def __init__(self, architecture: str, kwargs: Plain, dim: int) -> None:
        super().__init__()
        self.trunk = import_timm().create_model(architecture, pretrained=False, num_classes=0, **kwargs)
        self.attn_pool_contrast = QueryPool(dim, self.trunk.num_features)
        self.ln_contrast = nn.LayerNorm(dim)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of those of the patches."""
        return self.trunk.num_prefix_tokens

    def forward_features(self, batch: Tensor) -> Tensor:
        """Return the tokens of normalised patches."""
        return self.trunk.forward_features(batch)

    def forward(self, batch: Tensor) -> Tensor:
        """Embed normalised patches ``(B, 3, height, width)``."""
        return self.ln_contrast(self.attn_pool_contrast(self.forward_features(batch)))


def tower_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the image tower, out of those of the whole model."""
    parts = ("trunk.", "attn_pool_contrast.", "ln_contrast.")
    inside = {name.removeprefix(_TOWER): value for name, value in state.items() if name.startswith(_TOWER)}
    return {name: value for name, value in inside.items() if name.startswith(parts)}


def scales_branches(state: Mapping[str, Tensor]) -> bool:
    """Whether the branches of the transformer have learned scales, told by its weights."""
    return any(name.endswith(_SCALES) for name in state)
