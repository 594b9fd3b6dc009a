"""Lets the package be imported from a checkout that is not installed, on a machine without shapely; imported before it."""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
if "hisdiff" not in sys.modules and (ROOT / "hisdiff" / "__init__.py").is_file():
    sys.path.insert(0, str(ROOT))
sys.path.append(str(Path(__file__).parent))


class _Missing(ModuleType):
    """Stands for shapely where it is missing: outlines of tissue are read with it, and there are none here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


try:
    import shapely  # noqa: F401
except ModuleNotFoundError:
    sys.modules["shapely"] = _Missing("shapely")

try:
    metadata.version("hisdiff")
except metadata.PackageNotFoundError:  # a checkout that is not installed says nothing of its version
    about = Path(tempfile.mkdtemp()) / "hisdiff-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hisdiff\nVersion: 0\n")
    sys.path.append(str(about.parent))
