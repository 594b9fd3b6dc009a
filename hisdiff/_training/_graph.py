"""Steps of training on a CUDA card as one launch each.

A small network leaves most of a step to the host, which hands a thousand kernels to the card one by one. A CUDA graph holds them
all: a step is recorded once for every number of rows, and then replayed on other rows with other noise. It is the same kernels in
the same order, and the generator is put to the same seed, so the numbers are those of steps that are not replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

T = TypeVar("T")
Step = Callable[["Tensor", torch.Generator], T]
"""A step on the given rows. What is recorded is work of the device, so that nothing in it may need a value on the host (``.item()``)."""

_TRIALS = 3
"""Steps with a number of rows before it is recorded: compilers, caches and the optimiser's moments have to be there."""


class Recorder(Protocol):
    """What a device does to record work."""

    def generator(self) -> torch.Generator:
        """Return a generator whose seed can be set between replays."""

    def aside(self, *, strictly: bool) -> Any:
        """Return a context for trials; where ``strictly``, waiting for the device is an error."""

    def record(self, work: Callable[[], T], generator: torch.Generator) -> tuple[Callable[[], None], T]:
        """Record work without doing it; return what does it, and the tensors in which the result will be."""


class Card:
    """Records on a CUDA card.

    Trials run on the stream that records, since gradients are added up on the stream they were first made on, and libraries keep a
    workspace for each. Recordings share memory: they are never replayed at the same time, and what one leaves is used before the
    next begins.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool: Any = None

    def generator(self) -> torch.Generator:
        """Return a generator of the card."""
        return torch.Generator(self._device)

    @contextmanager
    def aside(self, *, strictly: bool) -> Iterator[None]:
        """Run on the stream that records."""
        usual, before = torch.cuda.current_stream(self._device), torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(usual)
        try:
            with torch.cuda.stream(self._stream):
                if strictly:
                    _set_sync_debug_mode("error")
                yield
        finally:
            _set_sync_debug_mode(before)
            usual.wait_stream(self._stream)

    def record(self, work: Callable[[], T], generator: torch.Generator) -> tuple[Callable[[], None], T]:
        """Capture a CUDA graph."""
        graph, usual = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        graph.register_generator_state(generator)
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                made = work()
        finally:
            torch.cuda.set_stream(usual)  # a recording that fails leaves its own
        self._pool = graph.pool()
        return graph.replay, made


def _set_sync_debug_mode(mode: int | str) -> None:
    """Say what happens where the host waits for the card, without torch's note that it does not notice all of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)


class Replayed(Generic[T]):
    """Does steps by replaying them; where that cannot be, as they are, which is logged."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._generator = recorder, recorder.generator()
        self._trials: dict[int, int] = {}
        self._recorded: dict[int, tuple[Tensor, Callable[[], None], T]] = {}
        self._given_up = False

    def __call__(self, step: Step[T], rows: Tensor, seed: int) -> T:
        """Do a step, always the same one; the result is overwritten by the next call."""
        n = len(rows)
        if n not in self._recorded and not self._given_up:
            trial = self._trials[n] = self._trials.get(n, 0) + 1
            if trial <= _TRIALS:
                return self._tried(step, rows, seed, strictly=trial == _TRIALS)
            self._record(step, rows)
        if n not in self._recorded:
            return step(rows, self._generator.manual_seed(seed))
        place, replay, made = self._recorded[n]
        place.copy_(rows)
        self._generator.manual_seed(seed)
        replay()
        return made

    def _tried(self, step: Step[T], rows: Tensor, seed: int, *, strictly: bool) -> T:
        """Do a step as it is; one that waits for the device cannot be recorded, and is done again."""
        try:
            with self._recorder.aside(strictly=strictly):
                return step(rows, self._generator.manual_seed(seed))
        except RuntimeError as error:
            if not strictly or isinstance(error, torch.OutOfMemoryError):
                raise
            self._give_up(error)
        return step(rows, self._generator.manual_seed(seed))

    def _record(self, step: Step[T], rows: Tensor) -> None:
        place, generator = rows.clone(), self._generator
        try:
            replay, made = self._recorder.record(lambda: step(place, generator), generator)
        except Exception as error:  # noqa: BLE001  # of drivers and of what cannot be recorded
            self._give_up(error)
        else:
            self._recorded[len(rows)] = place, replay, made

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        self._generator = self._recorder.generator()  # that of a recording that failed may be in the middle of it
        logger.info("steps are not replayed as a CUDA graph: %s", str(error).strip().split("\n")[0][:200])
