"""Benchmarks that can be run in miniature."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "benchmarks"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_states_in_miniature_scores_every_method_between_ridge_and_the_truth(tmp_path):
    small = 'fast=hisdiff:{"n_components": 8, "max_steps": 4, "validate_every": 2, "n_members": 1, "width": 8}'
    outputs = ["--json", str(tmp_path / "s.json"), "--figure", str(tmp_path / "s.png")]
    found = script("states").main(["--dry-run", "--methods", "ridge=ridge:baseline", small, *outputs])
    (of,) = found.values()
    assert set(of) == {"truth", "ridge", "fast"}
    assert of["truth"]["mCRPS"] < min(of["ridge"]["mCRPS"], of["fast"]["mCRPS"])
    assert of["ridge"]["closed mCRPS"] == pytest.approx(0)
    assert json.loads((tmp_path / "s.json").read_text())["spots"] == found
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_time_and_memory_are_measured_for_each_size(tmp_path) -> None:
    report = tmp_path / "size.json"
    rows = script("size").main(["--dry-run", "--jobs", "fit-ridge", "predict-ridge", "--json", str(report)])
    assert json.loads(report.read_text()) == rows
    assert [row["job"] for row in rows] == ["fit-ridge"] * 2 + ["predict-ridge"] * 2
    assert [row["spots"] for row in rows] == [60, 80] * 2
    assert all(row["cpu_s"] >= 0 and row["peak_gb"] > 0 for row in rows)
