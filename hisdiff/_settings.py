"""Package-wide settings, read from the environment at import and changeable at run time."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVELS = ("debug", "info", "warning", "error")


def _default_cache() -> Path:
    return Path(os.environ.get("HISDIFF_CACHE_DIR") or Path.home() / ".cache" / "hisdiff")


@dataclass
class Settings:
    """Settings of hisdiff.

    Attributes
    ----------
    device
        ``"auto"`` (a GPU when there is one), or any name that torch knows (``"cpu"``, ``"cuda:1"``, ``"mps"``).
    progress
        Show progress bars: True, False, or None for only on a terminal or in a notebook.
    verbosity
        ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``.
    cache_dir
        Where fitted models and downloads go.
    """

    device: str = field(default_factory=lambda: os.environ.get("HISDIFF_DEVICE", "auto"))
    progress: bool | None = None
    verbosity: str = field(default_factory=lambda: os.environ.get("HISDIFF_VERBOSITY", "info"))
    cache_dir: Path = field(default_factory=_default_cache)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {f.name for f in fields(self)}:
            raise AttributeError(f"hisdiff has no setting {name!r}; there are {sorted(f.name for f in fields(self))}.")
        if name == "verbosity":
            if value not in _LEVELS:
                raise ValueError(f"verbosity is one of {list(_LEVELS)}, not {value!r}.")
            logging.getLogger("hisdiff").setLevel(value.upper())
        if name == "cache_dir":
            value = Path(value).expanduser()
        super().__setattr__(name, value)

    @contextlib.contextmanager
    def override(self, **changes: Any) -> Iterator[Settings]:
        """Change settings inside a ``with`` block only."""
        before = {name: getattr(self, name) for name in changes}
        try:
            for name, value in changes.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)


settings = Settings()
