from __future__ import annotations

import numpy as np
import pytest

from hisdiff._geometry import array_mpp, similarity_scale


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
def test_array_mpp_is_exact_for_a_similarity(angle: float, mirror: int) -> None:
    units = np.stack(np.meshgrid(np.arange(8.0), np.arange(6.0)), -1).reshape(-1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pixels = (units * [1, mirror]) @ turn.T * 290.6 + [1000, 40]
    assert array_mpp(pixels, units, 200.0) == pytest.approx(200 / 290.6)


def test_jitter_of_single_spots_averages_out() -> None:
    rng = np.random.default_rng(0)
    units = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), -1).reshape(-1, 2)
    pixels = units * 290.6 + rng.normal(0, 20, units.shape)
    assert array_mpp(pixels, units, 200.0) == pytest.approx(200 / 290.6, rel=2e-3)


def test_too_few_or_coinciding_spots_are_refused() -> None:
    with pytest.raises(ValueError, match="At least 3 spots"):
        array_mpp(np.zeros((2, 2)), np.zeros((2, 2)), 200)
    with pytest.raises(ValueError, match="same array position"):
        array_mpp(np.zeros((4, 2)), np.ones((4, 2)), 200)


def test_similarity_scale_reads_scale_through_rotation_and_refuses_a_stretch() -> None:
    turn = 0.5 * np.array([[0, -1, 9], [1, 0, 3], [0, 0, 2]])
    assert similarity_scale(turn, "x") == pytest.approx(0.5)
    with pytest.raises(ValueError, match="image 'he' is stretched"):
        similarity_scale(np.diag([0.5, 0.6, 1]), "image 'he'")
