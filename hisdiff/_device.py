"""Which device tensors go to, and what it is quick at."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from hisdiff._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device that a name stands for.

    Parameters
    ----------
    device
        A device or its name; ``"auto"`` takes CUDA, then Apple's MPS, then the CPU; None takes the package's setting.

    Raises
    ------
    ValueError
        Where torch does not know the name, or this machine lacks the device.
    """
    import torch

    device = settings.device if device is None else device
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as err:
        raise ValueError(f"device is 'auto' or a name that torch knows, such as 'cuda:1', not {device!r}.") from err
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"There is no device {device!r}; torch sees {torch.cuda.device_count()} of CUDA.")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"There is no device {device!r} on this machine.")
    return found


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16; emulated, they are slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public name for it
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


@contextmanager
def one_thread() -> Iterator[None]:
    """Run networks of a few thousand weights on one core of the CPU, and leave torch's threads as they were.

    To hand a product of microseconds to several threads takes longer than the product, up to a hundred times as long
    where other work wants the cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 as zero on the CPU, and leave torch's setting as it was.

    Moments of an optimiser and gradients of units that a ReLU has switched off fade into that range, in which a processor
    takes a hundred times as long.
    """
    import torch

    before = float(torch.tensor(2e-38) * 0.01) == 0  # torch does not tell its setting
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
