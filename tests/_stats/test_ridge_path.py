import numpy as np
import pytest

from hisdiff._stats._accuracy import pearson
from hisdiff._stats._ridge_path import Moments, held_out_correlations, solve


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    return Moments.of(x, y, np.ones(len(x)))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 1, (60, 7))
    return x, x @ rng.normal(size=(7, 4)) + rng.normal(size=(60, 4)) + 10


def test_solution_is_that_of_scikit_learn(data):
    from sklearn.linear_model import Ridge

    x, y = data
    unit = np.sum((x - x.mean(0)) ** 2) / len(x)
    slopes, intercept = solve(moments(x, y), 3.0)
    expected = Ridge(alpha=3.0 * unit).fit(x, y)
    np.testing.assert_allclose(slopes.T, expected.coef_, rtol=1e-8)
    np.testing.assert_allclose(intercept, expected.intercept_, rtol=1e-8)


def test_a_weight_of_two_is_the_spot_twice(data):
    x, y = data
    weights = np.where(np.arange(60) < 20, 2.0, 1.0)
    twice = moments(np.concatenate([x, x[:20]]), np.concatenate([y, y[:20]]))
    for a, b in zip(solve(Moments.of(x, y, weights), 3.0), solve(twice, 3.0)):
        np.testing.assert_allclose(a, b, rtol=1e-8)


def test_penalty_does_not_depend_on_the_scale_of_features(data):
    x, y = data
    a, b = (s * solve(moments(s * x, y), 3.0)[0] for s in (1, 100))
    np.testing.assert_allclose(a, b, rtol=1e-8)


def test_moments_of_parts_add_up_and_subtract(data):
    x, y = data
    parts = [moments(x[rows], y[rows]) for rows in (slice(0, 20), slice(20, 60))]
    whole = moments(x, y)
    for name in ("n", "x", "y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(parts[0] + parts[1], name), getattr(whole, name))
        np.testing.assert_allclose(getattr(whole - parts[1], name), getattr(parts[0], name), atol=1e-8)
    np.testing.assert_allclose(whole.take(np.array([1, 4])).xx, moments(x[:, [1, 4]], y).xx)


def test_correlations_from_moments_are_those_of_predictions(data):
    x, y = data
    y[:, 3] = 2.0  # flat where it was measured
    training, held_out = moments(x[:40], y[:40]), moments(x[40:], y[40:])
    alphas = (0.1, 10.0)
    found = held_out_correlations(training, held_out, alphas)
    for row, alpha in zip(found, alphas):
        slopes, intercept = solve(training, alpha)
        np.testing.assert_allclose(row, pearson(y[40:], x[40:] @ slopes + intercept), atol=1e-9)
    assert np.isnan(found[:, 3]).all()


def test_features_without_variance_predict_the_mean(data):
    _, y = data
    slopes, intercept = solve(moments(np.ones((60, 2)), y), 1.0)
    np.testing.assert_allclose(slopes, 0, atol=1e-9)
    np.testing.assert_allclose(intercept, y.mean(0))
