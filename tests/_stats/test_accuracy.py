import numpy as np
import pytest
from scipy import stats

from hisdiff._stats import _accuracy
from hisdiff._stats._accuracy import mae, mse, pearson, rvd, spearman, top_means


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    measured = np.log2(1 + rng.poisson(3, (60, 7)))
    return measured, measured + rng.normal(0, 1, measured.shape)


def test_correlations_are_those_of_scipy(pair):
    measured, predicted = pair
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        expected = [theirs(m, p).statistic for m, p in zip(measured.T, predicted.T)]
        np.testing.assert_allclose(ours(measured, predicted), expected, atol=1e-12)


def test_blocks_of_genes_do_not_change_the_result(pair, monkeypatch):
    whole = [metric(*pair) for metric in (pearson, spearman, mse, mae)]
    monkeypatch.setattr(_accuracy, "_BLOCK_VALUES", 100)
    for metric, expected in zip((pearson, spearman, mse, mae), whole):
        np.testing.assert_allclose(metric(*pair), expected, rtol=1e-12)


def test_constant_measurement_has_no_correlation_and_constant_prediction_has_zero():
    varying, flat = np.arange(5.0), np.full(5, 0.1, dtype=np.float32)
    measured, predicted = np.stack([flat, varying], 1), np.stack([varying, flat], 1)
    np.testing.assert_array_equal(pearson(measured, predicted), [np.nan, 0])
    np.testing.assert_array_equal(spearman(measured, predicted), [np.nan, 0])


def test_correlation_ignores_scale_and_shift(pair):
    measured, predicted = pair
    np.testing.assert_allclose(pearson(measured, 3 * predicted + 1e4), pearson(measured, predicted), atol=1e-9)


def test_errors_of_a_known_offset():
    measured = np.zeros((4, 2))
    predicted = np.array([[1.0, 0]] * 2 + [[-1.0, 0]] * 2)
    np.testing.assert_array_equal(mse(measured, predicted), [1, 0])
    np.testing.assert_array_equal(mae(measured, predicted + [1, -0.5]), [1, 0.5])


def test_no_location_gives_nan_not_an_error():
    empty = np.empty((0, 3))
    for metric in (pearson, mse, mae):
        assert np.isnan(metric(empty, empty)).all()


def test_top_means_rank_and_leave_out_nan():
    summary = top_means(np.array([0.1, np.nan, 0.9, 0.5]), tops=(2, 50))
    assert summary == pytest.approx({"pcc_2": 0.7, "pcc_50": 0.5, "pcc_all": 0.5})
    assert np.isnan(top_means(np.array([np.nan]))["pcc_all"])


def test_relative_variance_distance_of_known_variances():
    measured = np.array([[0.0, 0, 5], [2, 4, 5]])  # variances 1, 4 and none
    assert rvd(measured, measured) == 0
    assert rvd(measured, np.zeros_like(measured)) == 1
    assert rvd(measured, measured * [2, 1, 1]) == pytest.approx(9 / 2)


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\)"):
        pearson(np.zeros((3, 2)), np.zeros((3, 1)))
