"""An ensemble of superpixel networks that is computed as one, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from hisdiff._nn._initialize import uniform
from hisdiff._training._loop import LossOutput, generator_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

_N_HIDDEN = 4
_SLOPE = 0.1
_ALPHA = 0.01
"""Slope of the last ELU and the offset added to it, which keep predictions above zero."""


class Ensemble(nn.Module):
    """Members of one shape, their weights stacked: four hidden layers, and an output that is strictly positive.

    Parameters
    ----------
    n_members, n_inputs, width, n_genes
        Sizes.
    seed
        Member k starts from ``seed + k``, so that a larger ensemble has the members of a smaller one.
    start
        ``(G,)`` targets that the outputs start around, or None to start from chance as published.
    """

    def __init__(
        self, n_members: int, n_inputs: int, width: int, n_genes: int, *, seed: int = 0, start: np.ndarray | None = None
    ) -> None:
        super().__init__()
        sizes = [n_inputs, *[width] * _N_HIDDEN, n_genes]
        self.weights = nn.ParameterList([torch.empty(n_members, a, b) for a, b in zip(sizes, sizes[1:])])
        self.biases = nn.ParameterList([torch.empty(n_members, 1, b) for b in sizes[1:]])
        with torch.no_grad():
            for member in range(n_members):
                generator = generator_for(seed + member, -1)
                for weight, bias in zip(self.weights, self.biases):
                    uniform((weight[member], bias[member]), weight.shape[1], generator)
            if start is not None:
                self.biases[-1].copy_(torch.as_tensor(start, dtype=torch.float32) - _ALPHA)

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return self.weights[0].shape[0]

    def hidden(self, features: Tensor) -> Tensor:
        """Return the last hidden layer of each member, ``(E, n, width)``, for features ``(n, D)``."""
        # All members see the same features: their first layers are one product.
        first = self.weights[0]
        flat = features @ first.permute(1, 0, 2).reshape(first.shape[1], -1)
        h = flat.view(len(features), self.n_members, -1).transpose(0, 1) + self.biases[0]
        h = nn.functional.leaky_relu(h, _SLOPE)
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1]):
            h = nn.functional.leaky_relu(torch.baddbmm(bias, h, weight), _SLOPE)
        return h

    def forward(self, features: Tensor) -> Tensor:
        """Return predictions of each member, ``(E, n, G)``, on the scale of the targets."""
        out = torch.baddbmm(self.biases[-1], self.hidden(features), self.weights[-1])
        return nn.functional.elu(out, _ALPHA) + _ALPHA


class Superpixels:
    """Features ``(m, D)`` of all superpixels on each device in use; not a buffer, since buffers are copied each step."""

    def __init__(self, values: np.ndarray) -> None:
        self._on = {torch.device("cpu"): torch.from_numpy(values)}

    def __deepcopy__(self, memo: object) -> Superpixels:
        return self

    def on(self, device: torch.device) -> Tensor:
        """Return them on a device."""
        if device not in self._on:
            self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]


class FootprintLoss(nn.Module):
    """The ensemble with its weak supervision: the mean over a spot's footprint is to be the spot's target.

    Batches have ``bins`` ``(B, M)``, rows of the superpixels, ``share`` ``(B, M)``, which sum to 1 and are 0 where a
    footprint has fewer superpixels, and ``target`` ``(B, G)``.
    """

    def __init__(self, network: Ensemble, superpixels: Superpixels, n_sampled: int | None) -> None:
        super().__init__()
        self.network, self.superpixels, self.n_sampled = network, superpixels, n_sampled

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> LossOutput:
        """Return the squared error, summed over members, so that each is trained as if it were alone."""
        bins, share = batch["bins"], batch["share"]
        if self.n_sampled is not None and self.n_sampled < bins.shape[1]:
            picked = torch.multinomial(share, self.n_sampled, replacement=True, generator=generator)
            bins, share = bins.gather(1, picked), torch.full(picked.shape, 1 / self.n_sampled, device=share.device)
        errors = self.footprint_means(bins, share) - batch["target"]
        each = errors.square().mean(dim=(1, 2))
        return LossOutput(each.sum(), {"mse": each.mean()})

    def footprint_means(self, bins: Tensor, share: Tensor) -> Tensor:
        """Return the mean over each footprint, ``(E, B, G)``."""
        features = self.superpixels.on(bins.device)[bins.reshape(-1)]
        each = self.network(features)
        each = each.view(len(each), *bins.shape, -1)
        return torch.einsum("ebmg,bm->ebg", each, share.to(each.dtype)).float()
