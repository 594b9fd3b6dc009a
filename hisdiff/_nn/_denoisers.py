"""Denoisers of the gene vector, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hisdiff._nn._dit import DiT

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Denoiser(Protocol):
    """An ``nn.Module`` that denoises the vector of ``G`` genes, given time and condition."""

    def embed_time(self, t: Tensor) -> Tensor:
        """Return the embedding of times ``(B,)`` that is added to the condition, ``(B, width)``."""

    def denoise(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the prediction for noisy genes ``(B, G)`` and conditions ``(B, width)``: ``(B, G)``, or ``(B, 2, G)``."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return ``denoise(x, embed_time(t) + condition)``."""

    def __call__(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Call ``forward``, as every ``nn.Module`` does."""


DENOISERS: dict[str, Callable[..., Denoiser]] = {"dit": DiT}
"""Name -> class, called with ``(n_genes, width, depth, heads, mlp_ratio, learn_variance, genes_per_token)``."""
