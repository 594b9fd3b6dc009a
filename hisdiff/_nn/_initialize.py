"""Starting weights from a generator of one's own, so that no global random state is read or set."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class StartsItself(Protocol):
    """A module with starting values other than the common ones."""

    def start(self, generator: torch.Generator) -> None: ...


@torch.no_grad()
def initialize(module: M, generator: torch.Generator) -> M:
    """Initialise a module: linear layers Xavier uniform with biases 0, then the modules with an initialisation of their own.

    Parameters
    ----------
    module
        On the device of the generator.
    generator
        Source of randomness.

    Returns
    -------
    The same module.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, StartsItself):
            part.start(generator)
    return module
