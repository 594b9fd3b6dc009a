from __future__ import annotations

import numpy as np
import pytest

from hisdiff._diffusion._schedule import Schedule, linear_betas, respaced_levels


def test_the_published_schedule_ends_at_the_published_signal():
    schedule = Schedule.from_betas(linear_betas())
    assert len(schedule) == 1000
    assert schedule.alpha[-1] ** 2 == pytest.approx(4.036e-5, rel=1e-3)
    np.testing.assert_allclose(schedule.alpha**2 + schedule.sigma**2, 1, rtol=1e-12)


def test_betas_are_recovered_from_the_path():
    betas = linear_betas(200)
    np.testing.assert_allclose(Schedule.from_betas(betas).betas, betas, rtol=1e-9)


def test_the_reverse_step_follows_bayes():
    """The mean and variance of x_j given x_0 and x_i, computed the long way from the joint normal distribution."""
    for schedule in (Schedule.from_betas(linear_betas(50)), Schedule.straight(10)):
        i = 6
        a_j, s_j, a_i, s_i = schedule.alpha[i - 1], schedule.sigma[i - 1], schedule.alpha[i], schedule.sigma[i]
        covariance = a_i / a_j * s_j**2  # of x_j and x_i given x_0
        slope = covariance / s_i**2
        weight_x0, weight_x = schedule.posterior_mean
        assert weight_x[i] == pytest.approx(slope)
        assert weight_x0[i] == pytest.approx(a_j - slope * a_i)
        assert np.exp(schedule.log_posterior_variance[i]) == pytest.approx(s_j**2 - slope * covariance)


def test_the_variance_of_level_0_stands_in_for_zero():
    schedule = Schedule.from_betas(linear_betas(50))
    assert schedule.log_posterior_variance[0] == schedule.log_posterior_variance[1]
    assert np.isfinite(schedule.respace(1).log_posterior_variance).all()


@pytest.mark.parametrize(("n", "kept"), [(1000, 50), (1000, 1), (1000, 1000), (10, 7), (7, 2)])
def test_respacing_keeps_both_ends_and_even_gaps(n, kept):
    levels = respaced_levels(n, kept)
    assert len(levels) == kept == len(np.unique(levels))
    assert levels[-1] == n - 1
    if kept > 1:
        assert levels[0] == 0
        assert np.ptp(np.diff(levels)) <= 1


def test_a_respaced_schedule_keeps_signal_noise_and_times():
    schedule = Schedule.from_betas(linear_betas())
    short = schedule.respace(50)
    np.testing.assert_array_equal(short.sigma, schedule.sigma[short.times])
    np.testing.assert_allclose(np.prod(1 - short.betas), schedule.alpha[-1] ** 2)
    assert schedule.respace(1000) is schedule


def test_a_straight_path_goes_from_pure_noise_to_data_in_even_steps():
    schedule = Schedule.straight(4, scale=1000)
    np.testing.assert_allclose(schedule.times, [250, 500, 750, 1000])
    np.testing.assert_allclose(schedule.alpha, [0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(schedule.alpha + schedule.sigma, 1)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="1 to 1000 steps, not 2000"):
        Schedule.from_betas(linear_betas()).respace(2000)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Schedule.from_betas(np.array([0.1, 1.0]))
    with pytest.raises(ValueError, match="increasing"):
        Schedule.from_betas(linear_betas()).at(np.array([3, 2]))
