"""Weights of networks among the named arrays of a saved model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


def weights_of(module: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """Return the weights and buffers of a module, with a prefix before their names."""
    return {prefix + name: value.cpu().numpy() for name, value in module.state_dict().items()}


def load_weights(module: nn.Module, arrays: Mapping[str, np.ndarray], prefix: str) -> None:
    """Load the weights that ``weights_of`` returned for the prefix; a ``RuntimeError`` where they do not fit."""
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    module.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in own.items()})
