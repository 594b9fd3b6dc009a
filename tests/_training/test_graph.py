"""Steps that are recorded once and replayed; a stand-in records by keeping what to do, as a card keeps its kernels."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from least_squares import Line, line_data

from hisdiff._training import _loop
from hisdiff._training._config import TrainingConfig
from hisdiff._training._graph import Replayed
from hisdiff._training._loop import LossOutput, _Run, train

N = 21
OPTIONS = TrainingConfig(max_steps=30, batch_size=6, learning_rate=0.05, ema=0.9, validate_every=10)


class StandIn:
    """Records on the CPU: a replay does the work once more, on the tensors it was recorded with."""

    def __init__(self, *, fails: str | None = None) -> None:
        self.fails, self.events = fails, []

    def generator(self) -> torch.Generator:
        return torch.Generator()

    @contextmanager
    def aside(self, *, strictly):
        self.events.append("strict" if strictly else "trial")
        if strictly and self.fails == "trial":
            raise RuntimeError("called a synchronizing CUDA operation")
        yield

    def record(self, work, generator):
        self.events.append("record")
        if self.fails == "record":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        made = LossOutput(torch.zeros(()), {"mse": torch.zeros(())})

        def replay() -> None:
            self.events.append("replay")
            now = work()
            made.total.copy_(now.total)
            made.parts["mse"].copy_(now.parts["mse"])

        return replay, made


class RecordableLine(Line):
    recordable = True


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    return line_data(N)


@pytest.fixture
def as_on_a_card(monkeypatch):
    """Return a function that lets trainings be recorded by a stand-in."""

    def use(recorder: StandIn) -> None:
        made = _Run.__init__

        def init(self, *args):
            made(self, *args)
            self.replayed = Replayed(recorder)

        monkeypatch.setattr(_loop._Run, "__init__", init)

    return use


def trained(data):
    return train(RecordableLine(), data, OPTIONS, seed=3, device="cpu", progress_bar=False)


@pytest.mark.parametrize("fails", [None, "trial", "record"])
def test_replayed_steps_give_the_numbers_of_plain_ones(data, as_on_a_card, fails, caplog):
    plain = trained(data)
    recorder = StandIn(fails=fails)
    as_on_a_card(recorder)
    with caplog.at_level("INFO", logger="hisdiff"):
        found = trained(data)
    np.testing.assert_array_equal(found.weights["weight"], plain.weights["weight"])
    assert found.history == plain.history
    assert caplog.text.count("not replayed as a CUDA graph") == (fails is not None)
    if fails is None:
        # Batches are of 6 and of 5 rows; either is tried three times, and recorded once.
        assert recorder.events.count("record") == 2
        assert recorder.events.count("replay") == 30 - 2 * 3
        assert recorder.events.count("strict") == 2
    else:
        assert "replay" not in recorder.events
        assert recorder.events.count("record") == (fails == "record")


def test_memory_that_runs_out_in_a_trial_is_no_reason_to_go_on(data, as_on_a_card):
    class Large(RecordableLine):
        def loss(self, batch, generator):
            raise torch.OutOfMemoryError("CUDA out of memory")

    as_on_a_card(StandIn())
    with pytest.raises(torch.OutOfMemoryError, match="a smaller batch_size"):
        train(Large(), data, OPTIONS, seed=3, device="cpu", progress_bar=False)


def test_steps_on_a_processor_are_not_recorded(data, monkeypatch):
    def no_card(device):
        raise AssertionError("a card was asked for")

    monkeypatch.setattr(_loop, "Card", no_card)
    trained(data)
