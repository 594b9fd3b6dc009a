"""A fit that torchrun starts in two processes: one writes, both have the same model; a broken torchvision is no obstacle."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hisdiff as hd

SCRIPT = """
import sys
import hisdiff as hd, spatialdata as sd
from hisdiff.models import Model
written = Model.save
Model.save = lambda self, path: (print("WRITES", flush=True), written(self, path))[1]
config = {"preset": "dit", "width": 8, "depth": 1, "heads": 1, "max_steps": 4, "batch_size": 16, "validate_every": 4, "n_steps": 2}
model = hd.tl.fit(sd.read_zarr(sys.argv[1]), config=config, save=sys.argv[2], device="cpu", progress=False)
print(f"MODEL {model.id};", flush=True)  # the two may share a line
"""


@pytest.mark.slow
def test_two_processes_fit_one_model_and_one_of_them_writes_it(make_section, color_encoder, tmp_path) -> None:
    section = make_section(side=5)
    hd.pp.select_genes(section)
    hd.pp.embed(section, color_encoder)
    section.write(tmp_path / "s.zarr")
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "train.py",
        "s.zarr",
        "model",
    ]
    path = os.pathsep.join([str(tmp_path), str(Path(hd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "HISDIFF_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("WRITES") == 1
    assert re.findall(r"MODEL (\w+);", done.stdout) == [hd.models.load(tmp_path / "model").id] * 2
