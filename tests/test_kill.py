"""A few kills of each kind; ``tests/benchmarks/kill.py`` does hundreds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_killed_calls_leave_stores_that_open_and_are_finished_by_the_same_call():
    script = Path(__file__).parent / "benchmarks" / "kill.py"
    run = subprocess.run([sys.executable, str(script), "--kills", "10"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
