import numpy as np
import pytest
from scipy.stats import poisson

from hisdiff.methods.hisdiff.factor._factors import (
    Factors,
    count,
    count_mean,
    count_rate,
    counting_variance,
    expected_rate,
    fit_factors,
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


def test_planted_factors_and_offsets_are_found():
    rng = np.random.default_rng(1)
    n, genes, k = 900, 40, 2
    loadings = rng.normal(size=(k, genes)) * 0.7
    section = np.repeat([0, 1, 2], n // 3)
    offsets = np.array([[-0.3], [0.0], [0.3]]) * np.ones(genes)
    held_out = np.full((n, genes), 6.0)
    level = held_out + rng.normal(size=(n, k)) @ loadings + offsets[section] + 0.2 * rng.normal(size=(n, genes))
    targets = np.log2(1 + rng.poisson(count_rate(level)))
    factors, scores = fit_factors(targets, held_out, section, k)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-2)
    planted, found = loadings.T @ loadings, factors.loadings.T @ factors.loadings
    assert np.corrcoef(planted.ravel(), found.ravel())[0, 1] > 0.98
    np.testing.assert_allclose(factors.offsets, offsets, atol=0.2)
    np.testing.assert_allclose(factors.offsets.sum(axis=0), 0, atol=1e-9)
    assert np.median(factors.specific) == pytest.approx(0.2, abs=0.06)


def test_offsets_are_drawn_with_the_spread_among_sections():
    offsets = np.array([[-1.0, 0.5], [0.0, -1.0], [1.0, 0.5]])
    factors = Factors(np.zeros((1, 2)), np.zeros(2), offsets)
    drawn = np.stack([factors.offset(z) for z in np.random.default_rng(0).normal(size=(20_000, 3))])
    np.testing.assert_allclose(np.cov(drawn.T), offsets.T @ offsets / 2, atol=0.05)


def test_a_single_section_has_no_offset_and_constant_genes_no_spread():
    rng = np.random.default_rng(0)
    targets = rng.normal(3, 1, size=(30, 5))
    targets[:, 2] = 0
    held_out = np.where(np.arange(5) == 2, 0.0, 3.0) * np.ones((30, 1))
    factors, scores = fit_factors(targets, held_out, np.zeros(30, dtype=int), 3)
    np.testing.assert_allclose(factors.offsets, 0, atol=1e-12)
    np.testing.assert_allclose(factors.loadings[:, 2], 0, atol=1e-9)
    assert factors.specific[2] == 0
    assert np.isfinite(scores).all()


def test_state_and_back():
    rng = np.random.default_rng(0)
    factors = Factors(rng.normal(size=(2, 3)), rng.random(3), rng.normal(size=(2, 3)))
    back = Factors.from_state(factors.state())
    for name in ("loadings", "specific", "offsets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(factors, name))


def test_expected_rate_is_the_mean_of_the_rates_around_a_level():
    mean, sd = np.array([[0.5, 3.0, 9.0]]), np.array([0.3, 0.8, 1.2])
    drawn = count_rate(mean + sd * np.random.default_rng(0).standard_normal((200_000, 3))).mean(axis=0)
    np.testing.assert_allclose(expected_rate(mean, sd)[0], drawn, rtol=0.02)
    np.testing.assert_allclose(expected_rate(mean, np.zeros(3), 1.0), 2 * count_rate(mean), rtol=1e-3)
