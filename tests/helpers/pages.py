"""Code of the pages, to be run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def code_of(page: str, heading: str) -> list[str]:
    """Return the Python blocks below a heading of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf8")
    section = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def run(page: str, heading: str, blocks: slice = slice(None)) -> dict[str, Any]:
    """Run blocks of code one after the other, and return the names they define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in code_of(page, heading)[blocks]:
        exec(compile(code, f"{page}, {heading}", "exec", dont_inherit=True), names)
    return names
