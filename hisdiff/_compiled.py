"""Compile functions with numba. It takes a quarter of a second to import: modules that use this are imported where they are needed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numba

if TYPE_CHECKING:
    from collections.abc import Callable


def compiled(**how: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a function on its first call, into code that does not hold the interpreter's lock.

    It is kept on disk, beside the package or in the cache of the home folder. ``how`` is passed to ``numba.njit``.
    """

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        made = partial(numba.njit, nogil=True, **how)
        try:
            return made(cache=True)(function)
        except RuntimeError:  # no folder that may be written, as in some containers
            return made()(function)

    return decorated
