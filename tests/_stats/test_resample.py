import numpy as np
import pytest

from hisdiff._stats._resample import block_weights, paired_bootstrap, random_spots, with_counting_noise


def test_interval_of_a_mean_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(1, 2, 400)
    found = paired_bootstrap(lambda rows: values[rows].mean(), 400, n_resamples=2000)
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)
    assert found.low < found.estimate < found.high


def test_pairing_cancels_what_both_methods_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 200)
    a, b = hard + 1, hard + rng.normal(0, 0.1, 200)
    found = paired_bootstrap(lambda rows: (a[rows] - b[rows]).mean(), 200, n_resamples=300)
    assert 0.95 < found.low < 1 < found.high < 1.05


def test_same_seed_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    results = [paired_bootstrap(lambda r: values[r].mean(), 50, n_resamples=50, seed=s) for s in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_random_spots_are_whole_training_spots_and_differ_between_draws():
    training = np.arange(30.0).reshape(10, 3)
    draws = random_spots(training, n_locations=50, n_draws=3)
    assert draws.shape == (3, 50, 3)
    assert {tuple(row) for row in draws.reshape(-1, 3)} == {tuple(row) for row in training}
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(random_spots(training, 50, 2), draws[:2])


def test_random_spots_need_training_spots():
    with pytest.raises(ValueError, match="no training spot"):
        random_spots(np.empty((0, 3)), 5, 1)


def test_counting_noise_is_that_of_a_poisson_count_and_each_draw_has_its_own():
    expected = np.log2(1 + np.broadcast_to([[0.0, 9.0]], (2, 4000, 2)))
    drawn = with_counting_noise(expected, 3)
    counts = np.exp2(drawn) - 1
    assert not counts[..., 0].any()
    np.testing.assert_allclose(counts[..., 1].mean(axis=1), 9, rtol=0.03)
    np.testing.assert_allclose(counts[..., 1].var(axis=1), 9, rtol=0.1)
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(with_counting_noise(expected[:1], 3)[0], drawn[0])
    assert not with_counting_noise(np.full((1, 2, 2), np.nan)).any()


def test_intervals_over_blocks_are_those_of_neighbors_that_err_together():
    block = np.repeat(np.arange(30), 10)
    values = np.random.default_rng(0).normal(size=30)[block]
    weights = block_weights(block, 4000)
    assert weights.shape == (4000, 300)
    np.testing.assert_array_equal(weights.sum(axis=1), 300)
    means = weights @ values / 300
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.std() == pytest.approx(values.std() / np.sqrt(30), rel=0.05)
