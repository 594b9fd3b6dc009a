"""Work on many small arrays at once, one on each core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from hisdiff._workers import cpu_share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")


def on_cores(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``work(item)`` of each item, one item a thread: products this small gain nothing from threads of their own."""
    n_threads = min(cpu_share(), len(items))
    with _libraries().limit(limits=1, user_api="blas"):
        if n_threads <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(work, items))


@cache
def _libraries() -> ThreadpoolController:
    """Return what sets the threads of matrix products; to look for the libraries takes longer than to embed a patch."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
