"""One logger and one way to follow long steps for the whole package."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from hisdiff._settings import settings  # sets the level of the logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")
ESTIMATE_S, LONG_S = 1.0, 5.0
"""Seconds after which it is logged how long a step takes, and from which on a step is long."""
MANY = 20
"""Units from which on the first one is left out of the estimate: it holds what is made once."""
_PART: ContextVar[bool] = ContextVar("whether this is a part of a step that is followed", default=False)


class _UnconfiguredHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Print as long as the application has set up no logging of its own: to stderr, but in a notebook, which shows that in red, warnings only."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            calm = record.levelno < logging.WARNING and _in_notebook()
            self.stream = sys.stdout if calm else sys.stderr  # looked up late: notebooks and test runners replace them
            super().emit(record)


logger = logging.getLogger("hisdiff")
if not logger.handlers:
    _handler = _UnconfiguredHandler()
    _handler.setFormatter(logging.Formatter("hisdiff: %(message)s"))
    logger.addHandler(_handler)


# Once for every array, element or file, of what neither this package nor its user can change.
warnings.filterwarnings("ignore", "zarr v3 autosharding", UserWarning)  # anndata 0.12
warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*docrep")  # of squidpy, from Python 3.12 on
logging.getLogger("ome_zarr.reader").addFilter(lambda record: "no parent found" not in record.getMessage())


@contextlib.contextmanager
def libraries_silent() -> Iterator[None]:
    """Keep the logs of all libraries quiet, errors included: for calls whose every outcome is handled."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def part_of_a_step() -> Iterator[None]:
    """Show no bars, and no estimates, of what belongs to a step that is followed as a whole."""
    token = _PART.set(True)
    try:
        yield
    finally:
        _PART.reset(token)


class Progress:
    """A bar on a terminal and in a notebook; elsewhere one line in the log, as soon as it is clear that a step takes long.

    Parameters
    ----------
    iterable, desc, total, initial, enabled
        As in :func:`progress`.
    unit
        What is counted, in the plural.
    keep
        Leave the full bar where it is when the step ends.
    """

    def __init__(
        self, iterable: Any, desc: str, total: int | None, initial: int, enabled: bool | None, unit: str, *, keep: bool
    ) -> None:
        self.iterable, self.desc, self.unit = iterable, desc, unit
        self.total = total if total is not None or not hasattr(iterable, "__len__") else len(iterable)
        off = True if _PART.get() else None if enabled is None else not enabled
        if off is None and _in_notebook():
            off = False  # the standard error of a notebook is no terminal
        self.bar = _tqdm()(desc=desc, total=self.total, initial=initial, disable=off, leave=keep)
        self.initial, self.first = initial, True
        self.start, self.done, self.announced = time.monotonic(), 0, _PART.get() or not self.bar.disable

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.bar.leave = True  # it shows how far the step came
        self.bar.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def update(self, n: int = 1) -> None:
        """Count finished units, and say how long the rest takes once that is known."""
        self.bar.update(n)
        if self.announced or not n:
            return
        now = time.monotonic()
        if self.first and (self.total or 0) - self.initial > MANY * n:
            self.first, self.start, self.initial = False, now, self.initial + n
            return
        self.done += n
        elapsed = now - self.start
        if elapsed < ESTIMATE_S:
            return
        self.announced = True
        whole = elapsed / self.done * ((self.total or 0) - self.initial)
        if whole > LONG_S:
            size = f"{self.total:,} {self.unit}, " if self.total != 1 else ""
            logger.info("%s: %sabout %s", self.desc, size, duration(whole))

    def show(self, values: Mapping[str, float]) -> None:
        """Show values behind the bar."""
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)

    def stop(self, reason: str) -> None:
        """End early: the bar is full, since nothing is left to do, and says why."""
        bar = self.bar
        if bar.disable:
            return
        start, done = bar.start_t, bar.n
        bar.reset(total=done)
        bar.start_t = start
        bar.set_postfix_str(reason, refresh=False)
        bar.update(done)
        bar.refresh()


def announce(what: str, seconds: float) -> None:
    """Log what a step will do that cannot be followed, and about how long it takes, where that is long."""
    if seconds > LONG_S:
        logger.info("%s: about %s", what, duration(seconds))


def duration(seconds: float) -> str:
    """Return about how long something takes, in words."""
    if seconds < 90:
        return f"{max(round(seconds / 5) * 5, 5)} s" if seconds > 20 else f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress(
    iterable: Iterable[T] | None = None,
    *,
    desc: str,
    total: int | None = None,
    initial: int = 0,
    enabled: bool | None = None,
    unit: str = "steps",
    keep: bool = False,
) -> Progress:
    """Follow an iterable, or units that are counted by hand where ``iterable`` is None.

    Parameters
    ----------
    iterable
        What to iterate over.
    desc
        Text in front of the bar: what is done, and to what.
    total
        Number of units, where the iterable has no length.
    initial
        Units that were done before.
    enabled
        True, False, or None for the package's setting (shown on a terminal or in a notebook). Where no bar is shown, a step that
        takes more than a few seconds is logged with its size and about how long it takes.
    unit
        What is counted, in the plural.
    keep
        Leave the bar when it is full.
    """
    return Progress(iterable, desc, total, initial, settings.progress if enabled is None else enabled, unit, keep=keep)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and hasattr(shell, "kernel")


def _tqdm() -> Any:
    """Return the bar that suits the place; without ipywidgets a notebook has one of letters, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm


if _in_notebook():  # before another library imports it, with a warning in red where ipywidgets are not installed
    _tqdm()
