from __future__ import annotations

import numpy as np
import pytest
import torch

from hisdiff._stats import _dense as dense

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((40, 30)), RNG.standard_normal((30, 5))
SYMMETRIC = A.T @ A + np.eye(30)


@pytest.fixture
def on_card(monkeypatch):
    """Every matrix counts as large, and the CPU as the card."""
    monkeypatch.setattr(dense, "_place", lambda flop: torch.device("cpu"))


def check() -> None:
    np.testing.assert_allclose(dense.product(A, B), A @ B, rtol=1e-12)
    np.testing.assert_allclose(dense.product(A.T, A), A.T @ A, rtol=1e-12)
    np.testing.assert_allclose(SYMMETRIC @ dense.solve(SYMMETRIC, B), B, atol=1e-12)
    values, axes = dense.eigh(SYMMETRIC)
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose((axes * values) @ axes.T, SYMMETRIC, atol=1e-10)


def test_a_card_gives_the_numbers_of_numpy(on_card):
    check()


def test_where_the_card_has_no_room_the_cpu_takes_over_and_it_is_said(on_card, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "from_numpy", full)
    with caplog.at_level("WARNING", logger="hisdiff"):
        check()
    assert "a matrix of (40, 30) is worked on by the CPU" in caplog.text


def test_small_matrices_and_methods_on_the_cpu_stay_with_numpy(monkeypatch):
    monkeypatch.setattr(dense, "resolve_device", lambda name: torch.device("cuda", 0))
    assert dense._place(1e12) is None
    with dense.dense_on("cuda"):
        assert dense._place(1e12) == torch.device("cuda", 0)
        assert dense._place(1e6) is None
    with dense.dense_on("cpu"):
        assert dense._place(1e12) is None
    assert dense._place(1e12) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_triangular_matrices_take_less_work_and_give_the_same(dtype):
    upper = np.triu(SYMMETRIC).astype(dtype)
    near = 1e-4 if dtype == np.float32 else 1e-11
    for laid_out in (np.ascontiguousarray(upper), np.asfortranarray(upper)):
        np.testing.assert_allclose(dense.times_upper(A.astype(dtype), laid_out), A.astype(dtype) @ upper, atol=near)
        np.testing.assert_allclose(dense.upper_inverse(laid_out), np.linalg.inv(upper), atol=near)
