import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hisdiff._training._config import TrainingConfig
from hisdiff._training._loop import (
    LossOutput,
    Validation,
    generator_for,
    train,
)

N, P = 64, 3
OPTIONS = TrainingConfig(
    max_steps=40, batch_size=16, learning_rate=0.05, ema=0.9, validate_every=10, checkpoint_every=7
)


class Line(torch.nn.Module):
    """Least squares with noise on the input, so that randomness matters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(P))

    def loss(self, batch, generator):
        x = batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator)
        error = (x @ self.weight - batch["y"]).square().mean()
        return LossOutput(error, {"mse": error})


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    x = torch.randn((N, P), generator=generator_for(5, 0))
    return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5])}


def run(data, options=OPTIONS, **kw):
    module = Line()
    return module, train(module, data, options, seed=3, device="cpu", **kw)


def weight(result) -> np.ndarray:
    return result.weights["weight"].numpy()


def test_learns_and_tells_how(data):
    module, result = run(data)
    np.testing.assert_allclose(weight(result), [1.0, -2.0, 0.5], atol=0.4)
    np.testing.assert_array_equal(module.weight.detach().numpy(), weight(result))
    assert [row["step"] for row in result.history] == [10, 20, 30, 40]
    assert result.history[-1]["loss"] < 0.3 * result.history[0]["loss"]
    assert not module.training


def test_same_seed_same_weights_and_global_generators_are_left_alone(data):
    before = torch.random.get_rng_state()
    one, two = weight(run(data)[1]), weight(run(data)[1])
    np.testing.assert_array_equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())
    other = train(Line(), data, OPTIONS, seed=4, device="cpu")
    assert not np.array_equal(one, weight(other))


def test_keeps_the_weights_of_the_best_look_and_stops_when_looks_get_worse(data):
    options = TrainingConfig(max_steps=400, batch_size=16, learning_rate=0.05, validate_every=5, patience=3)
    wanted = torch.tensor([0.5, -1.0, 0.25])  # on the way to the solution
    _, result = run(data, options, validate=lambda m: Validation(float((m.weight - wanted).norm()), {"n": 1.0}))
    scores = [row["val_score"] for row in result.history]
    assert result.history[0]["step"] == 0
    assert result.best_step == result.history[int(np.argmin(scores))]["step"]
    assert float(np.linalg.norm(weight(result) - wanted.numpy())) == pytest.approx(min(scores), abs=1e-6)
    assert len(scores) == int(np.argmin(scores)) + 1 + options.patience
    assert result.history[-1]["val_n"] == 1.0


def test_starting_weights_are_kept_where_training_only_harms(data):
    _, result = run(data, validate=lambda m: Validation(float(m.weight.norm()), {}))
    assert result.best_step == 0
    np.testing.assert_array_equal(weight(result), np.zeros(P))


@pytest.mark.parametrize("at", [3, 10, 23])
def test_resumes_to_the_same_numbers(data, tmp_path, at):
    def look(module):
        return Validation(float((module.weight - 0.3).norm()), {})

    _, whole = run(data, validate=look)
    stopping = Stopping(at)
    with pytest.raises(KeyboardInterrupt):
        train(stopping, data, OPTIONS, seed=3, device="cpu", validate=look, checkpoint=tmp_path / "c")
    _, resumed = run(data, validate=look, checkpoint=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(weight(whole), weight(resumed))
    assert whole.best_step == resumed.best_step
    assert whole.history == resumed.history


class Stopping(Line):
    """Presses Ctrl-C in the middle of a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def loss(self, batch, generator):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(batch, generator)


def test_interrupt_waits_for_the_step_to_finish_and_the_handler_is_put_back(data, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    module = Stopping(5)
    with pytest.raises(KeyboardInterrupt):
        train(module, data, OPTIONS, seed=3, device="cpu", checkpoint=tmp_path / "c")
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "c" / "weights.safetensors").is_file()
    _, resumed = run(data, checkpoint=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(weight(resumed), weight(run(data)[1]))


def test_interrupted_twice_within_a_step_the_last_whole_checkpoint_stays(data, tmp_path, monkeypatch):
    options = replace(OPTIONS, checkpoint_every=5)
    module, update, calls = Line(), torch.optim.swa_utils.AveragedModel.update_parameters, []

    def at_once(self, model):
        calls.append(model)
        if len(calls) == 8:  # weights and optimiser have gone on, the step has not
            raise KeyboardInterrupt
        update(self, model)

    monkeypatch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", at_once)
    with pytest.raises(KeyboardInterrupt):
        train(module, data, options, seed=3, device="cpu", checkpoint=tmp_path / "c")
    monkeypatch.undo()
    _, resumed = run(data, options, checkpoint=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(weight(resumed), weight(run(data, options)[1]))


def test_a_finished_run_resumes_to_itself(data, tmp_path):
    _, first = run(data, checkpoint=tmp_path / "c")
    module = Stopping(1)  # would be interrupted if it took a step
    again = train(module, data, OPTIONS, seed=3, device="cpu", checkpoint=tmp_path / "c", resume=True)
    np.testing.assert_array_equal(weight(first), weight(again))


def test_checkpoint_of_another_run_is_refused(data, tmp_path):
    run(data, checkpoint=tmp_path / "c")
    with pytest.raises(ValueError, match="another run"):
        train(Line(), data, OPTIONS, seed=9, device="cpu", checkpoint=tmp_path / "c", resume=True)


def test_unequal_or_empty_tensors_are_refused(data):
    with pytest.raises(ValueError, match="one row per observation"):
        run({"x": data["x"], "y": data["y"][:-1]})
    with pytest.raises(ValueError, match="one row per observation"):
        run({"x": data["x"][:0], "y": data["y"][:0]})


def test_a_loss_that_is_not_finite_is_an_error(data):
    with pytest.raises(FloatingPointError, match="step 10"):
        run({"x": data["x"], "y": data["y"] * float("nan")})


@pytest.mark.parametrize(
    "changes", [{"max_steps": 0}, {"ema": 1.0}, {"precision": "tf32"}, {"patience": 0}, {"clip": -1.0}]
)
def test_bad_options_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TrainingConfig(**{"max_steps": 1, **changes})


def test_cosine_falls_to_zero_and_warmup_rises():
    from hisdiff._training._loop import _rate

    options = TrainingConfig(max_steps=100, warmup=10, cosine=True)
    rates = [_rate(options, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert rates[99] < 1e-3
    assert int(np.argmax(rates)) == 9


def test_bf16_trains_too(data):
    _, result = run(data, TrainingConfig(max_steps=40, batch_size=16, learning_rate=0.05, precision="bf16"))
    np.testing.assert_allclose(weight(result), [1.0, -2.0, 0.5], atol=0.5)


SCRIPT = """
import sys, torch
sys.path.insert(0, {folder!r})
from test_loop import Line, N, P, OPTIONS
from hisdiff._training._loop import generator_for, train, Validation
from accelerate.state import PartialState
x = torch.randn((N, P), generator=generator_for(5, 0))
result = train(Line(), {{"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5])}}, OPTIONS, seed=3, device="cpu",
               validate=lambda m: Validation(float((m.weight - torch.tensor([1.0, -2.0, 0.5])).norm()), {{}}))
state = PartialState()
torch.save((state.num_processes, result.weights["weight"]), {out!r} + str(state.process_index))
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_agree(data, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), out=str(tmp_path / "w")))
    # On CPUs `accelerate launch` starts several processes through MPI only; torchrun sets the same environment.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(script)], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (n, one), (_, two) = (torch.load(tmp_path / f"w{i}", weights_only=True) for i in (0, 1))
    assert n == 2
    assert torch.equal(one, two)
    _, alone = run(data)
    np.testing.assert_allclose(one.numpy(), weight(alone), atol=0.4)
