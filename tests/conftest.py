"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HISDIFF_VERBOSITY", "info")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real sections (``her2st/``, ``reference/``); the test is skipped where there is none."""
    folder = os.environ.get("HISDIFF_TEST_DATA")
    if not folder:
        pytest.skip("HISDIFF_TEST_DATA names no folder with real sections")
    return Path(folder)


@pytest.fixture(autouse=True)
def _quiet_and_clean(tmp_path_factory: pytest.TempPathFactory):
    """Keep models out of the user's cache, progress bars out of the log, and close every figure."""
    from hisdiff._settings import settings

    with settings.override(cache_dir=tmp_path_factory.getbasetemp() / "cache", progress=False):
        yield
    import sys

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
