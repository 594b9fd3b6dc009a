"""Weights from a seed of their own, without touching torch's global one."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def draw_weights(module: nn.Module, seed: int) -> None:
    """Draw the weights of linear and convolutional layers as torch does by default, uniform within 1 / sqrt(inputs)."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            bound = layer.weight[0].numel() ** -0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            if layer.bias is not None:
                layer.bias.uniform_(-bound, bound, generator=generator)
