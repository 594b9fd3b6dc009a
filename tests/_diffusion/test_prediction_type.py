from __future__ import annotations

import pytest
import torch

from hisdiff._diffusion._prediction_type import PREDICTION_TYPES, clean_value, noise_value, target


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (0.28, 0.96)])
def test_every_kind_of_prediction_gives_back_data_and_noise(prediction_type, alpha, sigma):
    x0, eps = randn(4, 3), randn(4, 3, seed=1)
    x = alpha * x0 + sigma * eps
    output = target(prediction_type, x0, eps, alpha, sigma)
    torch.testing.assert_close(clean_value(prediction_type, output, x, alpha, sigma), x0)
    torch.testing.assert_close(noise_value(prediction_type, output, x, alpha, sigma), eps)


def test_an_unknown_kind_is_named():
    x = randn(1, 1)
    for convert in (clean_value, noise_value, target):
        with pytest.raises(ValueError, match="'noise'"):
            convert("noise", x, x, 0.5, 0.5)
