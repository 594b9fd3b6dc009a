"""Which device tensors go to, and what it is quick at."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from hisdiff._log import logger
from hisdiff._settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

T = TypeVar("T")
Precision = Literal["auto", "no", "tf32", "bf16", "fp16"]
"""How networks multiply, from ``"no"`` (plain float32) to half precision; see ``Products``."""


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device that a name stands for.

    Parameters
    ----------
    device
        A device or its name; ``"auto"`` takes CUDA, then Apple's MPS, then the CPU; None takes the package's setting.
        ``"cuda"`` is the first card, and for a process that torchrun or Accelerate started the one of its local rank.

    Raises
    ------
    ValueError
        Where torch does not know the name, or this machine lacks the device.
    """
    import torch

    device = settings.device if device is None else device
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return _own_card()
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as err:
        raise ValueError(f"device is 'auto' or a name that torch knows, such as 'cuda:1', not {device!r}.") from err
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"There is no device {device!r}; torch sees {torch.cuda.device_count()} of CUDA.")
    if found.type == "cuda" and found.index is None:
        return _own_card()
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"There is no device {device!r} on this machine.")
    return found


def _own_card() -> torch.device:
    import torch

    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16; emulated, they are slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public name for it
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


@dataclass(frozen=True)
class Products:
    """How networks multiply on a device: the one place that decides it.

    Attributes
    ----------
    device
        Where.
    half
        Type that autocast multiplies in, or None.
    tf32
        Whether a CUDA card may round what it multiplies in float32 to the 10 bits of TF32.
    """

    device: torch.device
    half: torch.dtype | None = None
    tf32: bool = False

    @classmethod
    def of(cls, precision: Precision, device: torch.device, *, emulated: bool = True) -> Products:
        """Return the products that a setting stands for.

        ``"auto"`` is bf16 on CUDA cards with instructions for it, and TF32 on others; ``"tf32"`` is TF32 on CUDA; both are
        float32 elsewhere. ``"no"`` is float32 everywhere. What a device lacks is replaced by float32, which is logged.

        Parameters
        ----------
        precision
            The setting.
        device
            A resolved device.
        emulated
            Whether a CPU without instructions for bf16 computes in it all the same, which is slow.
        """
        import torch

        tf32 = device.type == "cuda" and precision != "no"
        if precision == "auto":
            return cls(device, torch.bfloat16 if tf32 and multiplies_bf16(device) else None, tf32)
        if precision not in ("bf16", "fp16"):
            return cls(device, None, tf32)
        if precision == "bf16" and device.type == "cpu":
            return cls(device, torch.bfloat16 if emulated or multiplies_bf16(device) else None)
        if device.type == "cuda" and (precision == "fp16" or multiplies_bf16(device)):
            return cls(device, torch.bfloat16 if precision == "bf16" else torch.float16, tf32)
        logger.warning("precision %r: %s does not multiply in it; computing in float32", precision, device)
        return cls(device, None, tf32)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a card use TF32, or not, and leave torch's setting as it was."""
        if self.device.type != "cuda":
            yield
            return
        before = tf32_allowed()
        _allow_tf32(self.tf32, self.tf32)
        try:
            yield
        finally:
            _allow_tf32(*before)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Multiply in half precision, where that is asked for."""
        import torch

        with torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None):
            yield


def tf32_allowed() -> tuple[bool, bool]:
    """Return whether matrix products and convolutions on CUDA may round to TF32."""
    import torch

    matmul, convolution = torch.backends.cuda.matmul, cast("Any", torch.backends.cudnn)
    if not hasattr(matmul, "fp32_precision"):  # before torch 2.9
        return matmul.allow_tf32, convolution.allow_tf32
    # The older names raise where somebody has set the newer ones.
    return matmul.fp32_precision == "tf32", convolution.conv.fp32_precision == "tf32"


def _allow_tf32(products: bool, convolutions: bool) -> None:
    """Set it by the older names, which keep the newer ones in step; the other way round the older ones raise."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


class Chunks:
    """Rows that a device works on at a time; where its memory runs out they are halved, which is logged.

    Parameters
    ----------
    n_rows
        Of all chunks together.
    at_once
        Rows of a chunk at most; fewer after memory ran out.
    """

    def __init__(self, n_rows: int, at_once: int) -> None:
        self.at_once = at_once
        self._parts = np.array_split(np.arange(n_rows), max(1, -(-n_rows // at_once)))

    def each(self, work: Callable[[np.ndarray], T]) -> Iterator[T]:
        """Yield ``work(rows)`` for chunk after chunk, in order.

        Raises
        ------
        torch.OutOfMemoryError
            If there is no room for a single row.
        """
        import torch

        done = 0
        while done < len(self._parts):
            try:
                result = work(self._parts[done])
            except torch.OutOfMemoryError:
                if len(self._parts[done]) == 1:
                    raise
            else:
                yield result
                done += 1
                continue
            done = self._halve(done)  # not while the error is handled, which holds what was computed

    def _halve(self, done: int) -> int:
        import torch

        before = len(self._parts[done])
        self.at_once = -(-before // 2)
        finer = [np.array_split(rows, -(-len(rows) // self.at_once)) for rows in self._parts]
        logger.warning(
            "out of memory on the device: going on with %d rows at a time instead of %d", self.at_once, before
        )
        self._parts = [rows for parts in finer for rows in parts]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return sum(map(len, finer[:done]))


def rows_that_fit(row_bytes: int, device: torch.device) -> int:
    """Return how many rows fill half of the memory that is free on a card, at least one and at most 2^15."""
    import torch

    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by torch for reuse
    return max(1, min(1 << 15, free // (2 * row_bytes)))


@contextmanager
def one_thread(device: torch.device | None = None) -> Iterator[None]:
    """Run networks of a few thousand weights on one core of the CPU, and leave torch's threads as they were.

    Nothing changes for another device. To hand a product of microseconds to several threads takes longer than the product, up to a hundred times as long
    where other work wants the cores.
    """
    import torch

    if device is not None and device.type != "cpu":
        yield
        return
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


def is_writer() -> bool:
    """Whether this process writes files: the first one, where torchrun or Accelerate started several."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    return not several or os.environ.get("RANK", "0") == "0"


def wait_for_writer() -> None:
    """Wait until all processes that train together have come here."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
