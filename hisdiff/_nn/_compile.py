"""Compiled forward passes, where a machine can compile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hisdiff._log import logger

if TYPE_CHECKING:
    from torch import nn


def compile_forward(network: nn.Module, backend: str = "inductor") -> None:
    """Compile the forward pass of a network in place; where that fails it goes on as it is, which is logged.

    Copies of the network are not compiled.
    """
    network.compile(dynamic=False, backend=backend)
    compiled: Any = network._compiled_call_impl

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # of compilers, drivers and missing headers; its own errors come again
            logger.warning("the network is not compiled: %s", str(error).strip().split("\n")[0][:200])
            network._compiled_call_impl = None
            return network(*args, **kwargs)

    network._compiled_call_impl = call
