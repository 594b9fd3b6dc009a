"""The benchmark for a GPU runs in miniature on the CPU, so that it is ready where there is one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"
# What a machine with a GPU need not have.
ABSENT = ("spatialdata", "anndata", "scanpy", "squidpy", "zarr", "dask", "xarray", "geopandas", "shapely", "skimage")
RUN = f"""
import os, runpy, sys
from importlib import metadata
sys.modules.update(dict.fromkeys({ABSENT}, None))
found = metadata.MetadataPathFinder.find_distributions
metadata.MetadataPathFinder.find_distributions = lambda *context: (
    known for known in found(*context) if known.name != "hisdiff" or known.version == "0"
)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))  # as for a script
runpy.run_path(sys.argv[0], run_name="__main__")
"""


FAST = '{"n_components": 4, "max_steps": 4, "validate_every": 2, "n_members": 1, "width": 8, "fine": false}'
DIT = '{"preset": "dit", "max_steps": 2, "validate_every": 1, "width": 16, "depth": 1}'


@pytest.fixture
def sections(tmp_path) -> Path:
    """Three small sections, the last one left out."""
    rng = np.random.default_rng(0)
    n = 60
    embedding = rng.standard_normal((n, 6))
    arrays = {
        "counts": rng.poisson(np.exp(2 + 0.3 * embedding @ rng.standard_normal((6, 9)))),
        "embedding": embedding,
        "xy_um": 200.0 * np.stack(np.divmod(np.arange(n) % 20, 5), axis=1),
        "section": np.repeat([0, 1, 2], 20),
        "genes": np.array(list("abcdefghi")),
        "test": np.array([1, 2]),
        "shares": rng.dirichlet(np.ones(4), n),
    }
    np.savez(tmp_path / "made.npz", **arrays)
    return tmp_path / "made.npz"


@pytest.mark.slow
def test_it_runs_from_a_checkout_without_spatialdata_and_finds_the_same_numbers(tmp_path, sections) -> None:
    report = tmp_path / "gpu.json"
    line = [sys.executable, "-c", RUN, str(SCRIPT), "--dry-run", "--json", str(report), "--sections", str(sections)]
    methods = ["ridge=ridge:baseline", f"fast=hisdiff:{FAST}", f"dit=hisdiff:{DIT}"]
    line += ["--genes", "8", "--methods", *methods]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(report.read_text())
    assert not {name: part for name, part in found.items() if "failed" in part or "left out" in part}
    assert all(found[name]["same"] for name in ("noise", "equality", "fast"))
    for name in ("sampling_dit", "sampling_paper"):
        assert found[name]["bf16"]["spots_per_s"] > 0
    for name in ("training_dit", "training_paper"):
        assert found[name]["bf16_eager"]["steps_per_s"] > 0
        assert found[name]["bf16_eager"]["losses"][0] == pytest.approx(found[name]["no_eager"]["losses"][0], rel=0.02)
    assert found["kernels"]["eager"]["ms_by_kind"]["products"] > 0
    assert found["kernels"]["shapes"]["attention ms"] > 0
    scored = found["accuracy made"]
    assert (scored["spots"], scored["left_out"], scored["genes"]) == (20, 40, 8)
    for label in ("ridge", "fast", "dit"):
        assert 0 < scored[label]["module_crps"] < 2
        assert 0 <= scored[label]["auc"] <= 1
    assert scored["dit"]["looks"] == 3
    assert "skipped" in found["encoder"] or found["encoder"]["patches_per_s"] > 0


def test_real_sections_come_from_a_file_of_arrays(sections, monkeypatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    gpu = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = gpu
    spec.loader.exec_module(gpu)
    split = gpu.split_in(sections, gpu.section_of)
    with np.load(sections) as arrays:
        np.testing.assert_array_equal(split.test[1].counts.toarray(), arrays["counts"][40:])
        np.testing.assert_allclose(
            split.train[0].features.at(split.train[0].spots), arrays["embedding"][:20], rtol=1e-6
        )
        np.testing.assert_array_equal(split.shares[0], arrays["shares"][20:40])
        total = arrays["counts"][:20].sum(axis=0)
    few = split.most_counted(3)
    assert list(few.test[0].genes) == sorted("abcdefghi"[i] for i in np.argsort(-total)[:3])
    entry = gpu.Entry.parse('dit small=hisdiff:{"preset": "dit", "width": 32}@50')
    assert (entry.label, entry.config["width"], entry.n_steps) == ("dit small", 32, 50)
