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


def run_page(page: str, **names: Any) -> dict[str, Any]:
    """Run all Python blocks of a page one after the other, from names that it takes for granted; return the names."""
    names |= {"__name__": "__main__"}
    for code in blocks_of(page, "python"):
        exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


def blocks_of(page: str, language: str) -> list[str]:
    """Return the blocks of a language of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
