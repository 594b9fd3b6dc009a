"""Do many pieces of work at once: on the workers of an active ``dask.distributed`` client, else here, on threads or one after another.

What is done is a pure function of its item, so results are the same bytes wherever they were computed and in whatever order they
come back. Only results travel back: whoever called writes them, alone.
"""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hisdiff._cores import on_threads, on_worker
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._sent_work import Sent, do, forget, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")
R = TypeVar("R")

_PYTHON = ".".join(map(str, sys.version_info[:2]))
BASE_BYTES = 600 * 2**20
"""Memory of a worker that has imported torch and done nothing."""
_LARGEST_SENT = 2**30
_AHEAD = 2
"""Pieces that are under way for each thread of a worker: one is done while the next one is sent."""
_ANSWER_S, _SENT_S = 15.0, 60.0
# Pause between two looks for parts, and for workers; how long none may be there (they may be waiting in a queue).
_PAUSE_S, _LOOK_S, _LOST_S = 0.01, 5.0, 300.0


class LazyItems(Sequence[R]):
    """Items that are made when they are asked for, so that not all of them are in memory."""

    def __init__(self, of: Sequence[T], make: Callable[[T], R]) -> None:
        self._of, self._make = of, make

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, number: Any) -> Any:
        return self._make(self._of[number])


def spread(
    work: Callable[[T], R],
    items: Sequence[T],
    what: str,
    *,
    needs_bytes: int = 0,
    threads: bool = False,
    workers: bool = True,
) -> Iterator[tuple[int, R]]:
    """Yield the number of each item and what ``work`` makes of it, as they are done.

    Parameters
    ----------
    work
        A pure function; on workers it is pickled once for all items, with all that it holds.
    items
        What it is called with.
    what
        What is done, for messages, such as ``"the grid of 'C5'"``.
    needs_bytes
        Memory that a worker or a thread needs for one item, beside its libraries.
    threads
        Whether several threads may call ``work`` at once. Here it is then done on as many as there are cores, each item on one core.
    workers
        Whether it is worth to be sent to workers, where there are any.

    Raises
    ------
    ConnectionError
        If the scheduler does not answer, or all workers are lost.
    ValueError
        Before any work, if there is no worker, or one has another version or may not use enough memory.
    """
    client = active_client() if workers and len(items) > 1 else None
    if client is not None:
        yield from _on_workers(client, work, items, what, needs_bytes)
    elif threads:
        yield from on_threads(work, items, needs_bytes=needs_bytes)
    else:
        for number, item in enumerate(items):
            yield number, work(item)


def active_client() -> Any | None:
    """Return the ``distributed`` client that is active in this process; None where there is none, and on a worker."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    if on_worker():
        return None
    try:
        client = distributed.default_client()
    except ValueError:
        _LAST.tell_if_lost()
        return None
    _LAST.remember(client)
    return client


class _LastClient:
    """The client that was active last. Where its scheduler goes away, distributed closes it and has no active one from then on."""

    def __init__(self) -> None:
        self._client: Callable[[], Any | None] = lambda: None
        self._address = ""

    def remember(self, client: Any) -> None:
        """Take over the active client, for as long as somebody holds it."""
        if client is not self._client():
            self._client, self._address = weakref.ref(client), _address(client)

    def address_of(self, client: Any) -> str:
        """Return the address of a client's scheduler, also when the client has lost it."""
        return self._address if client is self._client() else _address(client)

    def tell_if_lost(self) -> None:
        """Warn once where the client is closed and its loop still runs, which ``client.close()`` would have stopped."""
        client = self._client()
        loop = getattr(client, "_loop_runner", None)
        if client is None or client.status != "closed":
            return
        self._client = lambda: None
        if loop is not None and loop.is_started():
            logger.warning(
                "the client of scheduler %s lost it and is closed: hisdiff computes in this process from now on; make a new client to "
                "compute on workers",
                self._address,
            )


_LAST = _LastClient()


def check_stores(what: str, stores: Iterable[Path | None]) -> None:
    """Raise where the workers of an active client do not see a store, or cannot do the work of hisdiff at all."""
    client = active_client()
    if client is not None:
        _check_workers(client, what, [store for store in stores if store is not None], 0)


def _on_workers(
    client: Any, work: Callable[[T], R], items: Sequence[T], what: str, needs_bytes: int
) -> Iterator[tuple[int, R]]:
    from distributed import as_completed

    n_threads = _check_workers(client, what, [], needs_bytes)
    sent = Sent.of(f"hisdiff-{uuid.uuid4().hex}", work)
    if sys.getsizeof(sent) > _LARGEST_SENT:
        raise ValueError(
            f"For {what} {sys.getsizeof(sent) / 1e9:.1f} GB would be sent to each worker; write the object to a zarr store that the workers "
            "see (sdata.write, then spatialdata.read_zarr), or close the client."
        )
    logger.info("%s: %d parts on %d threads of the workers of %s", what, len(items), n_threads, _address(client))
    held = _held(client, sent)
    waiting = list(range(len(items)))[::-1]
    number_of: dict[str, int] = {}

    def one_more() -> list[Any]:
        if not waiting:
            return []
        number = waiting.pop()
        future = _submit(client, do, held, items[number], pure=False, retries=1)
        number_of[future.key] = number
        return [future]

    first = [future for _ in range(_AHEAD * n_threads) for future in one_more()]
    done = as_completed(first, with_results=False)
    try:
        while not done.is_empty():
            _wait_for_one(client, done, what)
            future = next(done)
            result = _result_of(client, future, what)
            number = number_of[future.key]
            future.release()
            for more in one_more():
                done.add(more)
            yield number, result
    finally:  # after an error or an interruption, running parts are not waited for
        with contextlib.suppress(Exception):
            client.cancel(list(done.futures), force=True)
        with contextlib.suppress(Exception):
            client.sync(client._run, forget, sent.name, wait=False, on_error="ignore", callback_timeout=_ANSWER_S)


def _held(client: Any, sent: Sent) -> Any:
    """Give every worker what all parts need, before the first part is dealt out: the scheduler deals them to the one that has it.

    It is the result of a task: what is scattered is lost with the worker that holds it. Workers that come later fetch it by themselves.
    """
    held = _submit(client, same, sent, key=sent.name)
    with contextlib.suppress(Exception):  # what is wrong here is said of the first part
        client.sync(client._replicate, [held], callback_timeout=_SENT_S)
    return held


def _wait_for_one(client: Any, done: Any, what: str) -> None:
    """Wait until a part is done; raise where there has been no worker for minutes, since a scheduler waits without end."""
    from distributed.comm import CommClosedError

    looked = seen = time.monotonic()
    while not done.has_ready():
        time.sleep(_PAUSE_S)
        now = time.monotonic()
        if now - looked < _LOOK_S:
            continue
        looked = now
        try:
            left = client.sync(client.scheduler.ncores, callback_timeout=_ANSWER_S)
        except (OSError, TimeoutError, CommClosedError):  # then the parts are cancelled, and that is an error
            continue
        if left:
            seen = now
        elif now - seen > _LOST_S:
            raise ConnectionError(
                f"All workers of {_address(client)} were lost in {what}, and none came for {now - seen:.0f} s; with new ones the same "
                "call goes on."
            )


def _submit(client: Any, *task: Any, **how: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Sending large graph", UserWarning
        )  # once for all parts, or what a part is of
        return client.submit(*task, **how)


def _result_of(client: Any, future: Any, what: str) -> Any:
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker as error:
        raise ConnectionError(
            f"Workers of {_address(client)} died again and again in {what}, as they do where a part needs more memory than they may "
            f"use: {error}"
        ) from error
    except (CommClosedError, TimeoutError) as error:
        raise ConnectionError(f"The scheduler {_address(client)} was lost in {what}; the same call goes on.") from error
    except Exception as error:
        if type(error).__name__ == "FutureCancelledError":  # of newer versions, when the scheduler has gone
            raise ConnectionError(
                f"The scheduler {_address(client)} was lost in {what}; the same call goes on."
            ) from error
        raise


# What can be wrong with workers


def _check_workers(client: Any, what: str, stores: Sequence[Path], needs_bytes: int) -> int:
    """Return the number of threads of all workers, after checking that they can do the work."""
    from distributed.comm import CommClosedError

    if client.status == "closed":  # and still active, in its `with` block
        raise ConnectionError(
            f"The client of scheduler {_LAST.address_of(client)}, on whose workers {what} was to be computed, lost it and is closed; make a "
            "new client, or leave the `with` block of this one to compute it here."
        )
    try:
        answers = _answers(client, stores)
    except (OSError, TimeoutError, CommClosedError, AttributeError, RuntimeError) as error:
        raise ConnectionError(
            f"The scheduler {_address(client)} does not answer ({str(error) or type(error).__name__}), on whose workers {what} was to be computed; close the client "
            "(or leave its `with` block) to compute it here."
        ) from error
    if not answers:
        raise ValueError(
            f"The scheduler {_address(client)} has no workers, on which {what} was to be computed; add some, or close the client."
        )
    n_threads = 0
    for address, told in answers.items():
        answer = _checked(address, told)
        n_threads += answer.threads
        limit, needed = answer.memory, BASE_BYTES + answer.threads * needs_bytes
        if 0 < limit < needed:
            raise ValueError(
                f"Worker {address} may use {limit / 1e9:.2f} GB of memory, and {what} takes about {needed / 1e9:.2f} GB on its "
                f"{answer.threads} thread(s); give workers more (memory_limit=), or fewer threads (threads_per_worker=)."
            )
    return n_threads


def _answers(client: Any, stores: Sequence[Path]) -> dict[str, _Worker | BaseException]:
    """Return what each worker tells of itself; one that ends meanwhile is none, and where all do others are waited for."""
    from distributed.comm import CommClosedError

    until = time.monotonic() + _ANSWER_S
    while True:
        told = client.sync(client._run, _about, stores, on_error="return", callback_timeout=_ANSWER_S)
        gone = (CommClosedError, ConnectionError, TimeoutError)
        there = {address: answer for address, answer in told.items() if not isinstance(answer, gone)}
        if there or not told or time.monotonic() > until:
            return there
        time.sleep(_PAUSE_S)


@dataclass(frozen=True)
class _Worker:
    """What decides whether a worker can take part."""

    version: str
    python: str
    lacks: list[Path]
    threads: int
    memory: int


def _about(stores: Sequence[Path], dask_worker: Any) -> _Worker:
    """Tell what a worker is; run on each."""
    lacks = [store for store in stores if not store.exists()]
    memory = dask_worker.memory_manager.memory_limit or 0
    return _Worker(VERSION, _PYTHON, lacks, dask_worker.state.nthreads, memory)


def _checked(address: str, answer: _Worker | BaseException) -> _Worker:
    if isinstance(answer, BaseException):
        raise ValueError(
            f"Worker {address} cannot do the work of hisdiff {VERSION}: {type(answer).__name__}: {answer}. Is the same version installed there?"
        ) from answer
    for package, there, here in (("hisdiff", answer.version, VERSION), ("Python", answer.python, _PYTHON)):
        if there != here:
            raise ValueError(f"Worker {address} has {package} {there}, this process {here}; install the same on all.")
    if answer.lacks:
        store = answer.lacks[0]
        remedy = (
            "put it on a disk that all workers share, by the same path."
            if store.is_absolute()
            else f"workers run in other folders: open it by its whole path, {store.absolute()}."
        )
        raise ValueError(f"Worker {address} does not see the store {store}; {remedy}")
    return answer


def _address(client: Any) -> str:
    """Return the address of a client's scheduler, also where the client lost it before anybody asked."""
    asked = getattr(client, "_start_arg", None)  # an address, or a cluster
    known = getattr(getattr(client, "scheduler", None), "addr", None)
    return str(known or getattr(asked, "scheduler_address", None) or asked or "at an unknown address")
