"""Files that others see whole or not at all: atomic writes, folders that change places in one step, locks, free room."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import time
import uuid
from typing import TYPE_CHECKING

from hisdiff._libc import call
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None  # type: ignore[assignment]

_WAIT_S = 120.0
_PAUSE_S = 0.05
# Below this part of a result's size no compression makes room for it.
_MIN_ROOM = 0.25


def token() -> str:
    """Return a name that nothing else has."""
    return uuid.uuid4().hex[:12]


def write_text(path: Path, text: str, scratch: Path | None = None) -> None:
    """Write a file by one rename, so that a reader sees the old text or the new.

    ``scratch`` is the folder of the temporary file, on the same disk; by default the file's own.
    """
    fresh = (scratch or path.parent) / f".{path.name}.{token()}"
    try:
        fresh.write_text(text, encoding="utf8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def put_in_place(fresh: Path, target: Path, old: Path) -> None:
    """Move a folder to its place; what stands there goes to ``old`` and is there until that moment.

    All three are on one disk. Where the system cannot exchange two folders in one step there is nothing in between.
    """
    if not target.exists():
        fresh.rename(target)
        return
    old.parent.mkdir(parents=True, exist_ok=True)
    if _exchange(fresh, target):
        fresh.rename(old)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or its disk cannot."""
    a, b = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        done = call("renamex_np", a, b, 2)  # RENAME_SWAP
    else:
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        done = call("renameat2", here, a, here, b, exchange)
    failed, code = done or (-1, errno.ENOSYS)
    if failed and code not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return not failed


def check_writable(folder: Path, what: str) -> None:
    """Raise an ``OSError`` where nothing can be written in a folder, or where it is missing and cannot be made."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        _probe(nearest)
    except OSError as err:
        raise type(err)(err.errno, f"{what} cannot be written in {folder}: {err.strerror or err} ({nearest}).") from err


def _probe(folder: Path) -> None:
    """Make a file in a folder and let it go; a process that is killed meanwhile leaves none, or one that the next call removes."""
    if hasattr(os, "O_TMPFILE"):  # a file without a name, where the disk knows such
        with contextlib.suppress(OSError):
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
            return
    named = folder / ".hisdiff-probe"
    named.touch()
    named.unlink(missing_ok=True)


def check_room(folder: Path, nbytes: int, what: str) -> None:
    """Raise an ``OSError`` where a result of so many bytes, before compression, cannot fit on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    if free < nbytes * _MIN_ROOM:
        raise OSError(
            errno.ENOSPC,
            f"{what} takes up to {nbytes / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free in {folder}.",
        )


@contextlib.contextmanager
def locked(file: Path, what: str, *, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold a lock file that the process's end lets go of; the file and its empty folder are removed at the end.

    Parameters
    ----------
    file
        The lock. Its folder is made where it is missing.
    what
        What is held, for messages.
    wait_s
        How long to wait for another process or thread; 0 refuses at once.

    Raises
    ------
    BlockingIOError
        If it is held by another for longer, with the number of that process.
    OSError
        If the file cannot be made.
    """
    held = _acquire(file, what, wait_s)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # before it is let go of, so that nobody takes one that is not there any more
        _release(held)
        with contextlib.suppress(OSError):  # others are at work, or a user keeps something there
            file.parent.rmdir()


def _acquire(file: Path, what: str, wait_s: float) -> int:
    start, said = time.monotonic(), False
    while True:
        try:
            file.parent.mkdir(exist_ok=True)
            held = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as err:
            # The last holder may remove the folder between two steps, also those within mkdir.
            removed = isinstance(err, FileNotFoundError) and file.parent.parent.is_dir()
            if removed or (isinstance(err, FileExistsError) and (file.parent.is_dir() or not file.parent.exists())):
                continue
            raise type(err)(err.errno, f"{what} cannot be written ({err.strerror or err}: {file.parent}).") from err
        if _lock(held):
            if _is(held, file):
                os.ftruncate(held, 0)
                os.write(held, str(os.getpid()).encode())
                return held
            _release(held)
            continue
        pid = os.read(held, 20).decode(errors="replace") or "unknown"
        os.close(held)
        if time.monotonic() - start >= wait_s:
            waited = f" for {wait_s:.0f} s" if wait_s else ""
            raise BlockingIOError(
                errno.EAGAIN, f"{what} has been in use by process {pid}{waited}; try again when it has ended."
            )
        if not said and time.monotonic() - start > 1:
            logger.info("waiting for process %s, which writes %s", pid, what)
            said = True
        time.sleep(_PAUSE_S)


def _lock(held: int) -> bool:
    """Take the lock of an open file; True also where the disk knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        logger.debug("no locks on this disk: %s", err)
    return True


def _release(held: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_UN)  # a child process may have the file open as well
    os.close(held)


def _is(held: int, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(held), file.stat())
    except FileNotFoundError:
        return False
