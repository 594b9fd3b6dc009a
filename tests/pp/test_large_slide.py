from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import spatialdata


def test_a_small_run_of_the_benchmark_streams_a_grid(tmp_path):
    file = Path(__file__).parents[1] / "benchmarks" / "large_slide.py"
    spec = importlib.util.spec_from_file_location("large_slide", file)
    large_slide = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(large_slide)
    path = tmp_path / "slide.zarr"
    large_slide.write_slide(path, 2100)
    result = large_slide.stream(path, 32.0)
    labels = spatialdata.read_zarr(path).labels["grid_32um"].values
    # 21 pixels of glass all around; the outline of the tissue is known to a few pixels of 8 um.
    assert abs(result["bins"] - (2058 * 0.35 / 32) ** 2) < 60
    assert result["bins"] == labels.max()
    assert result["grid_peak_gb"] < 4
    embedding = spatialdata.read_zarr(path).images["grid_32um_embedding"].values
    assert np.isfinite(embedding[:, labels > 0]).all()
