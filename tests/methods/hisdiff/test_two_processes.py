"""`dit` trained by two processes that share every batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_sections import linear_section

from hisdiff.methods.hisdiff import FittedHisDiff, GeneConfig, HisDiff

CONFIG = {
    "preset": "dit", "width": 16, "depth": 1, "heads": 2, "max_steps": 60, "batch_size": 64, "validate_every": 20,
    "patience": None, "n_steps": 5, "learning_rate": 5e-3, "warmup": 0, "ema": 0.9,
}  # fmt: skip
SCRIPT = """
import sys, torch
sys.path[:0] = {folders!r}
from accelerate.state import PartialState
from hisdiff.methods.hisdiff.factor import _closed
from test_two_processes import fit, outcome
cross_fit, calls = _closed.cross_fit, []
_closed.cross_fit = lambda *args, **how: calls.append(1) or cross_fit(*args, **how)
fitted = fit()
state = PartialState()
torch.save((state.num_processes, len(calls), *outcome(fitted)), {out!r} + str(state.process_index))
"""


def fit() -> FittedHisDiff:
    cohort = [linear_section("A", 1), linear_section("B", 2)]
    return HisDiff().fit(cohort, GeneConfig.from_dict(CONFIG), device="cpu", progress=False)


def outcome(fitted: FittedHisDiff) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """Return all weights, the mean of draws at a new section, and the losses on the way."""
    test = linear_section("T", 7)
    mean = fitted.predict(test, test.spots, n_draws=4, device="cpu", progress=False).mean
    weights = torch.cat([p.detach().ravel() for p in fitted.generator.network.parameters()])
    return weights, torch.as_tensor(mean), [row["loss"] for row in fitted.history if "loss" in row]


@pytest.mark.slow
def test_dit_on_two_processes_learns_what_one_learns(tmp_path) -> None:
    """They share the spots of a batch but draw other noise: the loss is that of one process within a tenth. One fits the mean."""
    script, here = tmp_path / "run.py", Path(__file__).parent
    folders = [str(here), str(here.parents[1] / "helpers")]
    script.write_text(SCRIPT.format(folders=folders, out=str(tmp_path / "rank")))
    # On CPUs `accelerate launch` starts several processes through MPI only; torchrun sets the same environment.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [torch.load(tmp_path / f"rank{i}", weights_only=True) for i in (0, 1)]
    (n, n_means, weights, mean, losses), (_, n_other_means, other, other_mean, _) = found
    assert (n, n_means, n_other_means) == (2, 1, 0)
    assert torch.equal(weights, other)
    assert torch.equal(mean, other_mean)
    _, alone, alone_losses = outcome(fit())
    assert min(losses) < 0.97 * losses[0]
    np.testing.assert_allclose(losses, alone_losses, rtol=0.1)
    assert np.corrcoef(mean[:, :6].ravel(), alone[:, :6].ravel())[0, 1] > 0.6
