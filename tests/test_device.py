from __future__ import annotations

import pytest
import torch

from hisdiff._device import one_thread, resolve_device, without_denormals
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


def test_work_on_one_thread_leaves_those_of_torch_as_they_were():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
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
