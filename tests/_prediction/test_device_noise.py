from __future__ import annotations

import numpy as np
import pytest
import torch

from hisdiff._prediction._device_noise import DeviceNoise, noise_on
from hisdiff._prediction._field import SmoothNoise
from hisdiff._prediction._noise import BlockNoise

CPU = torch.device("cpu")
N = 300
RNG = np.random.default_rng(0)
PLACES = RNG.uniform(-3000, 9000, (N, 2))
KINDS = {
    "rows": BlockNoise.for_rows(7, N),
    "places": BlockNoise.for_places(2**40 + 5, PLACES),
    "grid": BlockNoise.for_grid(1, RNG.integers(-100, 100, (N, 2))),
    "smooth": SmoothNoise(3, PLACES, 55.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_makes_the_noise_of_numpy(kind):
    noise = KINDS[kind]
    there = DeviceNoise(noise, CPU)
    for rows in (RNG.permutation(N)[:70], np.arange(3)):
        for draw, step, width in ((0, 0, 1), (3, 999, 7), (2**31, 5, 64), (1, 1, 300)):
            told = there(draw, step, rows, width)
            assert told.dtype == torch.float32
            np.testing.assert_allclose(told.numpy(), noise.normal(draw, step, rows, width), rtol=0, atol=2e-6)


def test_elsewhere_numpy_makes_it():
    rows = np.arange(N)
    there = noise_on(KINDS["places"], CPU)
    np.testing.assert_array_equal(there(1, 2, rows, 9).numpy(), KINDS["places"].normal(1, 2, rows, 9))


def test_a_card_makes_the_noise_of_numpy():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for noise in KINDS.values():
        there = noise_on(noise, torch.device("cuda"))(3, 999, np.arange(N), 300)
        np.testing.assert_allclose(there.cpu().numpy(), noise.normal(3, 999, np.arange(N), 300), rtol=0, atol=2e-6)
