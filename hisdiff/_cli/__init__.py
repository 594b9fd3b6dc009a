"""The command line: the functions of hisdiff, applied to stores and slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns 0 on success, 1 if the command failed for any of its inputs, 2 if the line could not be understood.
    """
    from hisdiff._cli._commands import app

    try:
        app(args=None if argv is None else list(argv), prog_name="hisdiff")
    except SystemExit as end:  # how click ends, with the status as its code
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
