"""The benchmark of what models say of themselves runs on synthetic sections."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import hisdiff as hd

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_a_small_run_of_the_benchmark_writes_every_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("trust", FOLDER / "trust.py")
    trust = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "trust", trust)
    spec.loader.exec_module(trust)
    monkeypatch.setattr(hd.settings, "verbosity", hd.settings.verbosity)  # put back afterwards
    file = tmp_path / "trust.json"
    asked = ["--toy", "--methods", "ridge", "--choices", "2", "--json", str(file)]
    found = trust.main([*asked, "--parts", "suggest"])
    rows = json.loads(file.read_text())["ridge"]["suggest"]
    assert rows == found["ridge"]["suggest"]
    assert [row["section"] for row in rows] == list(trust.SUGGESTED)
    open_, by_chance = (sum(row[key] for row in rows) for key in ("open", "open, random"))
    assert 0 < open_ < 1.05 * by_chance  # with few spots on so little tissue, chance does nearly as well
