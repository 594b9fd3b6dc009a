"""The C library, for what Python has no function for."""

from __future__ import annotations

import ctypes
import sys


def call(name: str, *arguments: int | bytes) -> tuple[int, int] | None:
    """Call a function of the C library.

    Returns
    -------
    What it returns, and the error number that it leaves; None where the system has no such function.
    """
    if sys.platform not in ("linux", "darwin"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True)[name]
    except (AttributeError, OSError):  # such as musl
        return None
    return function(*arguments), ctypes.get_errno()
