import numpy as np
import pytest
from scipy.stats import poisson

from hisdiff._stats._counting import (
    count,
    count_mean,
    count_moments,
    count_rate,
    counting_variance,
    latent,
    rate_moments,
)

MEANS = np.array([0.0, 0.2, 1.0, 2.5, 5.0, 9.0])


def exact(rate: float) -> tuple[float, float]:
    counts = np.arange(0, int(rate + 12 * np.sqrt(rate) + 40))
    weight, value = poisson.pmf(counts, rate), np.log2(1 + counts)
    mean = weight @ value
    return mean, weight @ (value - mean) ** 2


@pytest.mark.parametrize("mean", MEANS)
def test_rate_mean_and_variance_of_counting_agree_with_the_exact_sums(mean):
    rate = float(count_rate(np.array(mean)))
    found, variance = exact(rate)
    assert found == pytest.approx(mean, abs=2e-3)
    assert float(counting_variance(np.array(mean))) == pytest.approx(variance, abs=5e-3)


@pytest.mark.parametrize("shift", [-4.0, -0.5, 0.0, 1.5])
def test_mean_at_another_library_size_is_that_of_rates_scaled(shift):
    for mean in MEANS:
        rate = float(count_rate(np.array(mean)))
        assert float(count_mean(np.array(mean), shift)) == pytest.approx(exact(rate * 2**shift)[0], abs=1e-2)
        assert float(count_rate(np.array(mean), shift)) == pytest.approx(rate * 2**shift, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_drawn_counts_have_the_mean_and_variance_of_counting(shift):
    normal = np.random.default_rng(0).normal(size=(20_000, len(MEANS))).astype(np.float32)
    drawn = count(np.broadcast_to(MEANS, normal.shape), normal, shift)
    wanted = [exact(float(count_rate(np.array(mean), shift))) for mean in MEANS]
    np.testing.assert_allclose(drawn.mean(axis=0), [w[0] for w in wanted], atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), [w[1] for w in wanted], atol=0.04)


def test_high_counts_follow_the_logarithm():
    high = np.array([[15.5, 18.0]])
    np.testing.assert_allclose(count_mean(high, -2.0), high - 2, atol=0.02)
    np.testing.assert_allclose(count(high, np.zeros((1, 2)), -2.0), high - 2, atol=0.02)
    np.testing.assert_allclose(np.log2(1 + count_rate(high)), high, atol=0.02)


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_moments_around_an_uncertain_level_are_those_of_draws(shift):
    rng = np.random.default_rng(0)
    mean, sd = np.array([[0.05, 0.4, 3.0, 6.1, 9.3]]), np.array([[0.7, 0.9, 1.1, 0.55, 2.2]])
    at = np.maximum(latent(mean, sd) + sd * rng.normal(size=(60_000, 5)), 0)
    np.testing.assert_allclose(at.mean(axis=0), mean[0], atol=0.03)
    drawn = np.log2(1 + rng.poisson(count_rate(at, shift)))
    found = count_moments(mean, sd, shift)
    np.testing.assert_allclose(found.mean[0], mean[0] if shift == 0 else drawn.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.sqrt(found.variance[0]), drawn.std(axis=0), atol=0.03)
    rates = rate_moments(mean, sd, shift)
    np.testing.assert_allclose(rates.mean[0, 1:4], count_rate(at, shift).mean(axis=0)[1:4], rtol=0.05)
    np.testing.assert_allclose(np.sqrt(rates.variance[0, 1:4]), count_rate(at, shift).std(axis=0)[1:4], rtol=0.1)


def test_moments_of_a_certain_level_are_those_of_counting():
    level = np.array([[0.3, 2.0, 7.7]])
    found = count_moments(level, np.zeros((1, 3)))
    np.testing.assert_allclose(found.mean, level, atol=5e-3)
    np.testing.assert_allclose(found.variance, counting_variance(level), atol=0.02)
    np.testing.assert_allclose(rate_moments(level, np.zeros((1, 3)), 1.0).mean, 2 * count_rate(level), rtol=0.02)
