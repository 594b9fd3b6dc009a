"""What travels to a worker of Dask, and what is done with it there."""

from __future__ import annotations

import os
import platform
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hisdiff._cores import keep_freed_memory, one_core
from hisdiff._settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable

_PREPARED: dict[int, tuple[str, Any]] = {}  # by thread of a worker


@dataclass(frozen=True)
class Sent:
    """Work as it travels: pickled, with a name by which a worker knows it again."""

    name: str
    payload: bytes

    @classmethod
    def of(cls, name: str, work: Callable[[Any], Any]) -> Sent:
        """Pickle work, with the settings of this process."""
        from distributed.protocol.pickle import dumps

        return cls(name, dumps((work, _Client(_process(), settings.precision, settings.device))))

    def __sizeof__(self) -> int:
        return len(self.payload)


def same(sent: Sent) -> Sent:
    """Return what was sent: the result of a task stays with the cluster, also where a worker is lost."""
    return sent


def do(sent: Sent, item: Any) -> Any:
    """Do one piece of work on a worker, where each thread unpickles it once for all parts.

    What it remembers from part to part, such as pixels or an encoder, is therefore computed once. The scheduler may take ``sent`` away between
    two parts.
    """
    from distributed.protocol.pickle import loads

    name, work = _PREPARED.get(threading.get_ident(), ("", None))
    if name != sent.name:
        work, client = loads(sent.payload)
        client.followed()
        _PREPARED[threading.get_ident()] = sent.name, work
    with one_core():
        return work(item)


async def forget(name: str) -> None:
    """Let go of what the threads of a worker have prepared; run on each when all parts are done."""
    for thread, (known, _) in list(_PREPARED.items()):
        if known == name:
            del _PREPARED[thread]


@dataclass(frozen=True)
class _Client:
    """The process of the client, and its settings that decide results."""

    process: str
    precision: str
    device: str

    def followed(self) -> None:
        """Take its settings over; not on workers that are threads of its process, where they hold already."""
        import dask

        if self.process != _process():
            settings.precision, settings.device, settings.progress = self.precision, self.device, False
            dask.config.set(scheduler="synchronous")
            keep_freed_memory()


def _process() -> str:
    return f"{platform.node()}/{os.getpid()}"
