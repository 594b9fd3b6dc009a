"""What one process computes for all that train together."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._device import resolve_device
from hisdiff._training._loop import accelerator_on

if TYPE_CHECKING:
    from collections.abc import Callable

    from hisdiff._json import State

# How long the others wait; the default of a card's group is ten minutes, which a large cohort may take.
_PATIENCE = timedelta(days=2)


def is_shared() -> bool:
    """Whether torchrun or Accelerate started several processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def once(compute: Callable[[], State], device: str | None) -> State:
    """Return arrays and plain settings that the first process computes, and sends to the others as they are.

    Parameters
    ----------
    compute
        Called by the first process alone.
    device
        That processes train on; None for the package's setting.
    """
    if not is_shared():
        return compute()
    import torch
    from torch import distributed

    first = accelerator_on(resolve_device(device)).is_main_process
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def sent(array: np.ndarray) -> np.ndarray:
        distributed.broadcast(torch.from_numpy(array), 0, group)
        return array

    arrays, plain = compute() if first else ({}, {})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    kinds = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    text = np.frombuffer(bytearray(json.dumps([kinds, plain]).encode()), dtype=np.uint8)
    size = sent(np.array([len(text)]))
    kinds, plain = json.loads(sent(text if first else np.empty(size, dtype=np.uint8)).tobytes())
    found = {name: sent(arrays[name] if first else np.empty(shape, dtype)) for name, dtype, shape in kinds}
    distributed.destroy_process_group(group)
    return found, plain
