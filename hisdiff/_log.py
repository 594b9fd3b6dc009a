"""One logger and one progress bar for the whole package."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TypeVar

from hisdiff._settings import settings  # sets the level of the logger

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class _UnconfiguredHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Print to stderr as long as the application has set up no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.stream = sys.stderr  # looked up late: notebooks and test runners replace it
            super().emit(record)


logger = logging.getLogger("hisdiff")
if not logger.handlers:
    _handler = _UnconfiguredHandler()
    _handler.setFormatter(logging.Formatter("hisdiff: %(message)s"))
    logger.addHandler(_handler)


def progress(
    iterable: Iterable[T] | None = None,
    *,
    desc: str,
    total: int | None = None,
    initial: int = 0,
    enabled: bool | None = None,
):
    """Wrap an iterable in a progress bar, or return a manual one when ``iterable`` is None.

    Parameters
    ----------
    iterable
        What to iterate over.
    desc
        Text in front of the bar.
    total
        Number of steps, where the iterable has no length.
    initial
        Steps that were done before.
    enabled
        True, False, or None for the package's setting (shown on a terminal or in a notebook).
    """
    from tqdm.auto import tqdm

    if enabled is None:
        enabled = settings.progress
    # tqdm's own `disable=None` means: off when the output is no terminal; notebooks are handled by tqdm.auto.
    return tqdm(
        iterable, desc=desc, total=total, initial=initial, disable=None if enabled is None else not enabled, leave=False
    )
