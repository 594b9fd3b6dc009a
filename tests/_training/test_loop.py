import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from least_squares import Line, P, line_data

from hisdiff import _device
from hisdiff._device import Products
from hisdiff._training._batches import Epochs
from hisdiff._training._config import TrainingConfig
from hisdiff._training._loop import LossOutput, Validation, train
from hisdiff._training._state import TrainingState
from hisdiff.methods.hisdiff import GeneConfig

N = 64
OPTIONS = TrainingConfig(
    max_steps=40, batch_size=16, learning_rate=0.05, ema=0.9, validate_every=10, checkpoint_every=7
)


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C interrupts here, also where these tests are a job in the background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    return line_data(N)


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


def rows_taken(data, options, **kw) -> list[list[int]]:
    taken = []

    class Noting(Line):
        def loss(self, batch, generator):
            taken.append(batch["row"].tolist())
            return super().loss(batch, generator)

    train(Noting(), {**data, "row": torch.arange(N)}, options, seed=3, device="cpu", **kw)
    return taken


def test_an_epoch_takes_every_row_once_in_a_new_order(data):
    taken = rows_taken(data, TrainingConfig(max_epochs=3, batch_size=15))
    assert [len(rows) for rows in taken] == [13, 13, 13, 13, 12] * 3
    epochs = [sum(taken[first : first + 5], []) for first in (0, 5, 10)]
    assert all(sorted(rows) == list(range(N)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    steps = TrainingConfig(max_steps=7, batch_size=15)
    assert rows_taken(data, steps) == taken[:7]
    assert TrainingConfig(max_epochs=2000).steps(600) == 10_000


def test_an_epoch_goes_on_where_it_was_stopped(data, tmp_path):
    options = TrainingConfig(max_epochs=2, batch_size=10)
    whole = rows_taken(data, options)
    rows_taken(data, options.with_steps(5), checkpoint=tmp_path / "c")
    assert rows_taken(data, options, checkpoint=tmp_path / "c", resume=True) == whole[5:]


def test_processes_share_a_batch_evenly():
    epochs = Epochs(lambda epoch: torch.arange(7) + epoch, 2, torch.device("cpu"))
    shares = [epochs.rows(1, process, 2).tolist() for process in (0, 1)]
    assert shares == [[4, 6], [5, 4]]  # three rows for two: the first is taken twice
    assert epochs.rows(2).tolist() == [1, 2, 3, 4]


def test_the_end_is_given_in_steps_or_in_epochs(data):
    with pytest.raises(ValueError, match="max_steps is 3 and max_epochs is 4"):
        TrainingConfig(max_steps=3, max_epochs=4)
    with pytest.raises(ValueError, match="max_steps is 3 and max_epochs is 4"):
        GeneConfig.from_dict({"max_steps": 3, "max_epochs": 4})
    with pytest.raises(ValueError, match="both None"):
        GeneConfig(max_steps=None)
    with pytest.raises(ValueError, match="needs to know when it ends"):
        run(data, TrainingConfig())
    assert GeneConfig.from_dict({"max_epochs": 4}).max_steps is None
    assert GeneConfig.from_dict({"preset": "paper", "max_steps": 4}).max_epochs is None
    assert GeneConfig.preset("paper").max_epochs == 2000


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


def test_interrupt_that_is_ignored_stays_ignored(data):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(Stopping(5), data, OPTIONS, seed=3, device="cpu")


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
    module, advance, calls = Line(), TrainingState.advance, []

    def at_once(self):
        calls.append(self)
        if len(calls) == 8:  # weights and optimiser have gone on, the step has not
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(TrainingState, "advance", at_once)
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
    "changes", [{"max_steps": 0}, {"ema": 1.0}, {"precision": "int8"}, {"patience": 0}, {"clip": -1.0}]
)
def test_bad_options_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TrainingConfig(**{"max_steps": 1, **changes})


def test_cosine_falls_to_zero_and_warmup_rises():
    from hisdiff._training._loop import _rate

    options = TrainingConfig(max_steps=100, warmup=10, cosine=True)
    rates = [_rate(options, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert rates[99] < 1e-3
    assert int(np.argmax(rates)) == 9


class Overflowing(Line):
    """A loss that half precision cannot hold, as a GPU would compute it."""

    def loss(self, batch, generator):
        total, parts = super().loss(batch, generator)
        return LossOutput(total * (float("inf") if torch.is_autocast_enabled("cpu") else 1.0), parts)


def test_fp16_that_overflows_goes_on_in_float32_and_says_so(data, monkeypatch, caplog):
    def half(precision, device, **options):
        return Products(device, torch.float16)

    monkeypatch.setattr(Products, "of", half)
    monkeypatch.setattr(torch.amp, "GradScaler", SkipsWhatIsNotFinite)
    with caplog.at_level("WARNING", logger="hisdiff"):
        result = train(Overflowing(), data, OPTIONS, seed=3, device="cpu")
    assert "overflows in fp16 at step 10" in caplog.text
    assert np.isfinite(weight(result)).all()
    assert [row["step"] for row in result.history] == [10, 20, 30, 40]
    assert "loss" not in result.history[0]
    assert result.history[-1]["loss"] < result.history[1]["loss"]


class SkipsWhatIsNotFinite:
    """The scaler of gradients, as it works on a GPU."""

    def __init__(self, device, enabled):
        pass

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        pass

    def update(self):
        pass

    def step(self, optimizer):
        if all(p.grad.isfinite().all() for group in optimizer.param_groups for p in group["params"]):
            optimizer.step()


def test_a_step_that_needs_too_much_memory_names_the_setting(data):
    class Large(Line):
        def loss(self, batch, generator):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="training on 16 rows.*a smaller batch_size"):
        train(Large(), data, OPTIONS, seed=3, device="cpu")


def test_what_a_device_lacks_is_replaced_by_float32_and_said(monkeypatch, caplog):
    monkeypatch.setattr(_device, "multiplies_bf16", lambda device: False)
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert Products.of("auto", cuda) == Products(cuda, None, tf32=True)
    assert Products.of("auto", cpu) == Products.of("tf32", cpu) == Products.of("no", cpu) == Products(cpu)
    assert not caplog.records
    with caplog.at_level("WARNING", logger="hisdiff"):
        assert Products.of("bf16", cuda) == Products(cuda, None, tf32=True)
        assert Products.of("fp16", cpu) == Products(cpu)
    assert "'bf16': cuda:0 does not multiply in it; computing in float32" in caplog.text
    monkeypatch.setattr(_device, "multiplies_bf16", lambda device: True)
    assert Products.of("auto", cuda) == Products(cuda, torch.bfloat16, tf32=True)
    assert Products.of("no", cuda) == Products(cuda)


def test_tf32_is_allowed_inside_only():
    before = _device.tf32_allowed()
    for wanted in (True, False):
        with Products(torch.device("cuda", 0), None, tf32=wanted).allowed():
            assert _device.tf32_allowed() == (wanted, wanted)
            # Both names that torch has for it agree, or reading one of them would raise.
            assert torch.backends.cuda.matmul.allow_tf32 is wanted
            assert torch.get_float32_matmul_precision() == ("high" if wanted else "highest")
        assert _device.tf32_allowed() == before


def test_bf16_trains_too(data):
    _, result = run(data, TrainingConfig(max_steps=40, batch_size=16, learning_rate=0.05, precision="bf16"))
    np.testing.assert_allclose(weight(result), [1.0, -2.0, 0.5], atol=0.5)
