"""``python -m hisdiff``: the command line."""

from __future__ import annotations

from hisdiff._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
