"""How many cores and how much memory this process may use, and work on many things at once, one core for each.

Libraries hand the products of one matrix to several threads, which gains nothing for small ones, and rounds differently with their
number. Here each piece of work keeps to one core, so that its bytes do not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hisdiff._libc import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")

_THREAD = threading.local()
# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3), in bytes.
_KEPT_WHEN_FREED = ((-3, 32 * 2**20), (-1, 64 * 2**20))


def cpu_share() -> int:
    """Return how many cores this process may use: its affinity, the quota of its control group, what Slurm gave; at least one.

    A task on a worker, or on one of several threads, has one: the others of its process are for other tasks.
    """
    if on_worker() or getattr(_THREAD, "is_one_of_several", False):
        return 1
    shares = [float(os.cpu_count() or 1)]
    if hasattr(os, "sched_getaffinity"):
        shares.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(KeyError, ValueError):
        shares.append(int(os.environ["SLURM_CPUS_PER_TASK"]))
    shares += _quotas()
    return max(1, int(min(shares)))


def _quotas() -> list[float]:
    """Return the limits of the control group in cores (versions 2 and 1); none where there is no limit."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        quota, period = _text("/sys/fs/cgroup/cpu.max").split()
        found.append(float(quota) / float(period))  # "max" is no number
    with contextlib.suppress(OSError, ValueError):
        folder = "/sys/fs/cgroup/cpu"
        quota, period = (_text(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
        found.append(float(quota) / float(period))
    return [share for share in found if share > 0]


def free_memory() -> int:
    """Return how many bytes this process may still take: what the machine has free, and what its control group leaves."""
    import psutil

    free = [psutil.virtual_memory().available]
    for most, used, files in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            free.append(int(_text(f"/sys/fs/cgroup/{most}")) - int(_text(f"/sys/fs/cgroup/{used}")) + _of_files(files))
    return max(0, min(free))


def give_back_memory() -> None:
    """Give memory that was freed back to the system, where the C library keeps it between what is in use (glibc)."""
    call("malloc_trim", 0)


def _of_files(file: str) -> int:
    """Return the memory that counts as used because files were read, such as those of a slide, and that is given up when needed."""
    with contextlib.suppress(OSError, ValueError):
        amounts = dict(line.split() for line in _text(f"/sys/fs/cgroup/{file}").splitlines())
        return int(amounts.get("total_inactive_file", amounts.get("inactive_file", 0)))
    return 0


def _text(file: str) -> str:
    return Path(file).read_text(encoding="ascii")


@cache
def keep_freed_memory() -> None:
    """Let this process use memory that it has freed again, instead of giving it back to the system and taking it page by page.

    With ``MALLOC_TRIM_THRESHOLD_`` in its environment, as Dask starts its workers, the C library of Linux gives every array above 128 KB back
    at once, which makes work on images take twice the time. Here are the values that it comes to by itself without that.
    """
    for parameter, value in _KEPT_WHEN_FREED:
        call("mallopt", parameter, value)


def on_worker() -> bool:
    """Whether this is a task on a worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def on_cores(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``work(item)`` of each item, one item a thread; for what takes milliseconds."""
    n_threads = min(cpu_share(), len(items))
    with _libraries().limit(limits=1, user_api="blas"):
        if n_threads <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(work, items))


def on_threads(work: Callable[[T], R], items: Sequence[T], *, needs_bytes: int = 0) -> Iterator[tuple[int, R]]:
    """Yield the number of each item and ``work(item)`` as they are done; for what takes seconds.

    As many threads are used as there are cores, and as fit into half of the memory that is free.

    Parameters
    ----------
    work
        What several threads may call at once. What it does on several cores by itself stays on one here.
    items
        What it is called with. One more than there are threads is under way, so that none waits while a result is written.
    needs_bytes
        Memory that an item needs.
    """
    n_threads = min(cpu_share(), len(items), max(1, free_memory() // (2 * max(needs_bytes, 1))))
    if n_threads <= 1:
        for number, item in enumerate(items):
            with one_core():
                result = work(item)
            yield number, result
        return
    keep_freed_memory()
    waiting = iter(enumerate(items))
    with one_core(), ThreadPoolExecutor(n_threads, initializer=_join_others) as pool:
        running = {pool.submit(work, item): number for number, item in itertools.islice(waiting, n_threads + 1)}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number, result = running.pop(future), future.result()
                    for next_number, item in itertools.islice(waiting, 1):
                        running[pool.submit(work, item)] = next_number
                    yield number, result
        finally:  # an error or an interruption does not wait for what nobody needs
            for future in running:
                future.cancel()


def _join_others() -> None:
    """Make this thread one of several."""
    _THREAD.is_one_of_several = True


class _OneCore(contextlib.ContextDecorator):
    """Keeps libraries to one core as long as anybody wants it."""

    def __init__(self) -> None:
        self._lock, self._wanted, self._stack = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._wanted:
                self._stack.enter_context(_libraries().limit(limits=1, user_api="blas"))
                self._stack.enter_context(_torch_on(1))
            self._wanted += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._stack.close()


_ONE_CORE = _OneCore()
_FEW_ROWS = 4000


def one_core() -> _OneCore:
    """Keep matrix products of this process to one core each, in a ``with`` block or a decorated function; blocks of threads may overlap."""
    return _ONE_CORE


def cores_for(n_rows: int) -> contextlib.AbstractContextManager:
    """Keep matrix products to one core where they go over few rows: several cores wait for each other longer than they compute."""
    return one_core() if n_rows <= _FEW_ROWS else contextlib.nullcontext()


@contextlib.contextmanager
def own_cores() -> Iterator[None]:
    """Keep matrix products to the cores of this process, inside a ``with`` block.

    Libraries start a thread for each core of the machine, also in a container that may use a few of them, and then wait for each other.
    """
    share = cpu_share()
    with contextlib.ExitStack() as stack:
        if any(library["num_threads"] > share for library in _libraries().info() if library["user_api"] == "blas"):
            stack.enter_context(_libraries().limit(limits=share, user_api="blas"))
        torch = sys.modules.get("torch")
        if torch and torch.get_num_threads() > share:
            stack.enter_context(_torch_on(share))
        yield


@contextlib.contextmanager
def _torch_on(cores: int) -> Iterator[None]:
    """Threads that start later take the number over."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(cores)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


@cache
def _libraries() -> ThreadpoolController:
    """Return what sets the threads of matrix products; to look for the libraries takes longer than to embed a patch."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
