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
import runpy, sys
from importlib import metadata
sys.modules.update(dict.fromkeys({ABSENT}, None))
found = metadata.MetadataPathFinder.find_distributions
metadata.MetadataPathFinder.find_distributions = lambda *context: (
    known for known in found(*context) if known.name != "hisdiff" or known.version == "0"
)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_it_runs_from_a_checkout_without_spatialdata_and_finds_the_same_numbers(tmp_path) -> None:
    report = tmp_path / "gpu.json"
    line = [sys.executable, "-c", RUN, str(SCRIPT), "--dry-run", "--json", str(report)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(report.read_text())
    assert not {name: part for name, part in found.items() if "failed" in part or "left out" in part}
    assert all(found[name]["same"] for name in ("noise", "equality", "fast"))
    for name in ("sampling_dit", "sampling_paper"):
        assert found[name]["bf16"]["spots_per_s"] > 0
    for name in ("training_dit", "training_paper"):
        assert found[name]["bf16"]["steps_per_s"] > 0
        assert found[name]["bf16"]["loss"] == pytest.approx(found[name]["no"]["loss"], rel=0.02)
    assert "skipped" in found["encoder"] or found["encoder"]["patches_per_s"] > 0


def test_real_sections_come_from_a_file_of_arrays(tmp_path) -> None:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    gpu = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = gpu
    spec.loader.exec_module(gpu)
    rng = np.random.default_rng(0)
    arrays = {
        "counts": rng.poisson(3, (9, 4)),
        "embedding": rng.standard_normal((9, 5)),
        "xy_um": 200.0 * np.stack([np.arange(9) % 4, np.arange(9) // 4], axis=1),
        "section": np.repeat([0, 1], [4, 5]),
        "genes": np.array(list("abcd")),
    }
    np.savez(tmp_path / "sections.npz", **arrays)
    first, second = gpu.sections_in(tmp_path / "sections.npz")
    np.testing.assert_array_equal(second.counts.toarray(), arrays["counts"][4:])
    np.testing.assert_allclose(first.features.at(first.spots), arrays["embedding"][:4], rtol=1e-6)
