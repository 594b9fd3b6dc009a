"""Starting weights from a generator of one's own, so that no global random state is read or set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class StartsItself(Protocol):
    """A module with starting values other than the common ones."""

    def start(self, generator: torch.Generator) -> None: ...


Rule = Callable[[nn.Linear | nn.Conv2d, torch.Generator], None]
"""Draws weight and bias of one layer."""


@torch.no_grad()
def uniform(tensors: Iterable[torch.Tensor], n_inputs: int, generator: torch.Generator) -> None:
    """Draw tensors of a layer as torch does by default, uniform within 1 / sqrt(inputs)."""
    bound = n_inputs**-0.5
    for tensor in tensors:
        tensor.uniform_(-bound, bound, generator=generator)


def as_torch(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Draw a layer as torch does by default, but from the generator."""
    uniform([layer.weight] if layer.bias is None else [layer.weight, layer.bias], layer.weight[0].numel(), generator)


@torch.no_grad()
def xavier(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Draw the weight Xavier uniform; the bias is 0."""
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def initialize(module: M, generator: torch.Generator, *, rule: Rule = xavier) -> M:
    """Give a module its starting weights: its layers by a rule, then what modules ask for themselves.

    Parameters
    ----------
    module
        On the device of the generator.
    generator
        Source of randomness.
    rule
        For linear layers and convolutions.

    Returns
    -------
    The same module.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            rule(part, generator)
    for part in module.modules():
        if isinstance(part, StartsItself):
            part.start(generator)
    return module
