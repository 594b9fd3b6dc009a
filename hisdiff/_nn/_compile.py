"""Compiled forward passes, where a machine can compile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hisdiff._log import logger

if TYPE_CHECKING:
    from torch import nn

_WORTH_IT = 500
"""Evaluations of a large network on a card from which on compilation takes less time than it saves."""


def compiles(wanted: bool | None, device: torch.device, n_evaluations: int) -> bool:
    """Return whether to compile: as asked for, or with None where it pays, on CUDA cards."""
    return device.type == "cuda" and n_evaluations >= _WORTH_IT if wanted is None else wanted


def compile_forward(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the parts of a network in place; where that fails it goes on as it is, which is logged once.

    The parts are its children, and the members of its lists: alike blocks are compiled once, not one after the other. Copies of the
    network are not compiled.
    """
    parts = [
        part
        for child in network.children()
        for part in (child if isinstance(child, torch.nn.ModuleList) else (child,))
        if any(True for _ in part.parameters())
    ]
    for part in parts:
        if part._compiled_call_impl is None:
            part.compile(dynamic=False, backend=backend)
            part._compiled_call_impl = _or_as_it_is(part, parts)  # type: ignore[assignment]


def _or_as_it_is(part: nn.Module, parts: list[nn.Module]) -> Any:
    """Return the compiled forward pass of a part that, where it fails, leaves all parts uncompiled and does the usual one."""
    compiled: Any = part._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # compilers, drivers and missing headers have many; the network's own come again below
            if part._compiled_call_impl is not None:
                logger.warning("the network is not compiled: %s", str(error).strip().split("\n")[0][:200])
            for each in parts:
                each._compiled_call_impl = None
            return part(*args, **kwargs)

    return call
