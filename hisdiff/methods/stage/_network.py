"""The autoencoder whose hidden layer is made to be the place of a spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hisdiff._nn._initialize import as_torch, initialize
from hisdiff._training._loop import LossOutput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

_WIDTHS = (1000, 500, 50, 10)
# Weights of the published loss.
_SLICED, _ABSOLUTE, _LATENT, _RECONSTRUCTION = 0.1, 0.1, 0.1, 0.01


def sliced_wasserstein(first: Tensor, second: Tensor, n_directions: int, generator: torch.Generator) -> Tensor:
    """Return the squared sliced 2-Wasserstein distance of two point clouds ``(n, d)`` of the same size, no root taken.

    Both are projected on random directions; sorted projections are the optimal matching in one dimension.
    """
    d = first.shape[1]
    directions = torch.randn((n_directions, d), generator=generator, device=first.device, dtype=first.dtype)
    directions = directions / directions.norm(dim=1, keepdim=True)
    a, b = (directions @ points.T for points in (first, second))
    return (a.sort(dim=1).values - b.sort(dim=1).values).square().mean()


def chain(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    """Return Linear, BatchNorm, ReLU for each hidden layer, then Linear and optionally ReLU."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-2], widths[1:-1]):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1]))
    return nn.Sequential(*layers, *([nn.ReLU()] if last_relu else []))


class StageNetwork(nn.Module):
    """Encoder from expression to coordinates, decoder from coordinates to expression.

    Parameters
    ----------
    n_genes, n_dims
        Length of an expression vector; 2 or 3 coordinates.
    last_relu
        Whether both parts end with a ReLU.
    decoder_only
        Whether only the decoder is trained, on the true coordinates.
    n_directions
        Directions of the sliced Wasserstein distance.
    """

    def __init__(self, n_genes: int, n_dims: int, *, last_relu: bool, decoder_only: bool, n_directions: int) -> None:
        super().__init__()
        self.decoder_only, self.n_directions = decoder_only, n_directions
        self.encoder = chain((n_genes, *_WIDTHS, n_dims), last_relu=last_relu)
        self.decoder = chain((n_dims, *reversed(_WIDTHS), n_genes), last_relu=last_relu)

    @torch.no_grad()
    def initialize(self, seed: int, x: Tensor, c: Tensor) -> None:
        """Draw weights from a seed, and start both parts at the mean of what they are to give.

        Behind a ReLU, an output that starts below zero for all spots would never learn anything.
        """
        initialize(self, torch.Generator().manual_seed(seed), rule=as_torch)
        for part, target in ((self.encoder, c), (self.decoder, x)):
            last = [layer for layer in part if isinstance(layer, nn.Linear)][-1]
            last.bias.copy_(target.mean(dim=0))

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the published loss of spots with expression ``x`` ``(b, G)`` and coordinates ``c`` ``(b, d)``."""
        x, c = batch["x"], batch["c"]
        u = c if self.decoder_only else self.encoder(x)
        rest = self.decoder(u) - x
        reconstruction = rest.square().mean() + _ABSOLUTE * rest.abs().mean()
        if self.decoder_only:
            return LossOutput(_RECONSTRUCTION * reconstruction, {"reconstruction": reconstruction})
        latent = (u - c).abs().mean() + _SLICED * sliced_wasserstein(u, c, self.n_directions, generator)
        total = _LATENT * latent + _RECONSTRUCTION * reconstruction
        return LossOutput(total, {"latent": latent, "reconstruction": reconstruction})
