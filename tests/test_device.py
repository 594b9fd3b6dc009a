from __future__ import annotations

import numpy as np
import pytest
import torch

from hisdiff._device import Chunks, one_thread, resolve_device, rows_that_fit, without_denormals
from hisdiff._settings import settings


def test_none_takes_the_setting():
    with settings.override(device="cpu"):
        assert resolve_device() == torch.device("cpu")
    with settings.override(device="meta"):
        assert resolve_device(None) == torch.device("meta")


def test_auto_is_a_device_that_works():
    assert torch.zeros(1, device=resolve_device("auto")).item() == 0


def test_a_device_passes_through():
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_an_unknown_name_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="gpu"):
        resolve_device("gpu")


def test_a_missing_gpu_is_an_error_before_work_starts():
    with pytest.raises(ValueError, match="cuda:99"):
        resolve_device("cuda:99")


def test_every_process_of_a_launcher_has_a_card_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


def test_chunks_are_halved_where_memory_runs_out_and_it_is_said(caplog):
    rows = np.arange(21)
    tried = []

    def work(part):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return 2 * part

    chunks = Chunks(21, 10)
    with caplog.at_level("WARNING", logger="hisdiff"):
        np.testing.assert_array_equal(np.concatenate(list(chunks.each(work))), 2 * rows)
    assert "going on with 4 rows at a time instead of 7" in caplog.text
    assert chunks.at_once == 2
    tried.clear()
    np.testing.assert_array_equal(np.concatenate(list(chunks.each(work))), 2 * rows)
    assert max(tried) <= 3  # what is known of the memory is kept
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(Chunks(2, 2).each(lambda part: work(np.arange(4))))


def test_a_card_takes_rows_for_half_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6_000, 9_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000)
    card = torch.device("cuda", 0)
    assert rows_that_fit(100, card) == 40
    assert rows_that_fit(10**6, card) == 1


def test_work_on_one_thread_leaves_those_of_torch_as_they_were():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with one_thread(torch.device("meta")):
        assert torch.get_num_threads() == before


def test_denormals_are_zero_only_inside_and_the_setting_is_left_as_it_was():
    tiny = lambda: float(torch.tensor(2e-38) * 0.01)  # noqa: E731
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormals")
    with without_denormals():
        assert tiny() == 0
    assert tiny() > 0
    torch.set_flush_denormal(True)
    try:
        with without_denormals():
            pass
        assert tiny() == 0
    finally:
        torch.set_flush_denormal(False)
