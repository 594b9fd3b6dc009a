import numpy as np
import pytest

from hisdiff._stats._structure import coexpression_agreement, gene_correlations, normalize_library_size


def test_library_size_normalisation_gives_every_location_the_median_total():
    counts = np.array([[1.0, 3], [10, 30], [0, 8]])
    normal = np.exp2(normalize_library_size(np.log2(1 + counts))) - 1
    np.testing.assert_allclose(normal, [[2, 6], [2, 6], [0, 8]])


def test_library_size_normalisation_removes_library_size_and_nothing_else():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5, (30, 6)) + 1.0
    deeper = counts * rng.uniform(1, 20, (30, 1))
    a, b = (normalize_library_size(np.log2(1 + c), total=100) for c in (counts, deeper))
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_location_without_counts_stays_zero_and_draws_are_each_normalised():
    values = np.log2(1 + np.array([[[0.0, 0], [1, 1]], [[4, 4], [0, 2]]]))
    normal = np.exp2(normalize_library_size(values)) - 1
    np.testing.assert_allclose(normal, [[[0, 0], [1, 1]], [[1, 1], [0, 2]]])
    np.testing.assert_array_equal(normalize_library_size(np.zeros((3, 2))), np.zeros((3, 2)))


def test_correlations_are_those_of_numpy_with_zeros_for_constant_genes():
    values = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(gene_correlations(values), np.corrcoef(values.T), atol=1e-12)
    values[:, 2] = 0.3
    found = gene_correlations(values)
    assert not found[2].any()
    assert not found[:, 2].any()


def test_agreement_is_perfect_with_itself_and_blind_to_scale():
    values = np.random.default_rng(0).normal(size=(50, 5)) @ np.random.default_rng(1).normal(size=(5, 5))
    r, mae = coexpression_agreement(values, 2 * values + 1)
    assert r == pytest.approx(1)
    assert mae == pytest.approx(0, abs=1e-12)


def test_agreement_of_known_matrices():
    # Measured: genes 0 and 1 equal, 2 their opposite. Predicted: all equal.
    x = np.arange(4.0)
    _, mae = coexpression_agreement(np.stack([x, x, -x], 1), np.stack([x, x, x], 1))
    assert mae == pytest.approx((0 + 2 + 2) / 3)


def test_flat_prediction_counts_as_uncorrelated_and_flat_measurement_is_left_out():
    x = np.arange(4.0)
    _, mae = coexpression_agreement(np.stack([x, x, np.ones(4)], 1), np.stack([x, np.ones(4), x], 1))
    assert mae == pytest.approx(1)
    assert np.isnan(coexpression_agreement(np.ones((4, 2)), np.ones((4, 2)))).all()
