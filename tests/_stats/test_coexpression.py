from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import rankdata, spearmanr

from hisdiff._stats._coexpression import (
    correlations,
    lee,
    matrix_agreement,
    mean_ranks,
    permutation_fdr,
    unit_columns,
)
from hisdiff._stats._spatial import knn_weights


def units_of(values, *, ranked=False):
    return unit_columns(lambda genes: values[:, genes], *values.shape, ranked=ranked)


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.poisson(1.5, (60, 150)).astype(np.float32)  # many ties


def test_ranks_are_those_of_scipy(values) -> None:
    np.testing.assert_allclose(mean_ranks(values.T), rankdata(values.T, axis=1) - 1)
    np.testing.assert_array_equal(mean_ranks(np.ones((2, 5))), np.full((2, 5), 2))


def test_correlations_are_those_of_numpy_and_scipy(values) -> None:
    np.testing.assert_allclose(correlations(units_of(values)), np.corrcoef(values.T), atol=2e-6)
    np.testing.assert_allclose(correlations(units_of(values, ranked=True)), spearmanr(values)[0], atol=2e-6)


def test_blocks_of_genes_and_locations_decide_nothing(values, monkeypatch) -> None:
    expected = correlations(units_of(values, ranked=True))
    monkeypatch.setattr("hisdiff._stats._coexpression._BLOCK_VALUES", 7 * 60)
    np.testing.assert_allclose(correlations(units_of(values, ranked=True)), expected, atol=1e-6)


def test_constant_genes_are_correlated_with_nothing(values) -> None:
    values[:, 3] = 1e4
    for ranked in (False, True):
        matrix = correlations(units_of(values, ranked=ranked))
        assert not matrix[3].any()
        assert not matrix[:, 3].any()
        assert np.isfinite(matrix).all()


def test_lee_of_one_gene_on_a_chessboard_is_that_of_its_neighbours() -> None:
    row, col = (a.ravel() for a in np.mgrid[:8, :8])
    board, stripes = (row + col) % 2, (row // 4) % 2
    touch = (np.abs(row[:, None] - row) + np.abs(col[:, None] - col) == 1).astype(float)
    weights = sparse.csr_matrix(touch / touch.sum(axis=1, keepdims=True))
    matrix = lee(units_of(np.stack([board, 1 - board, stripes], axis=1).astype(float)), weights)
    # Every neighbour of a black field is white: neighbours have the opposite, which agrees with itself.
    assert matrix[0, 0] == pytest.approx(1, abs=1e-5)
    assert matrix[0, 1] == pytest.approx(-matrix[0, 0], abs=1e-5)
    assert abs(matrix[0, 2]) < 0.05


def test_lee_is_its_formula() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2))
    weights = knn_weights(rng.normal(size=(30, 2)))
    z = x - x.mean(axis=0)
    w = weights.toarray()
    expected = 30 / (w.sum(axis=1) ** 2).sum() * ((w @ z[:, 0]) @ (w @ z[:, 1])) / np.sqrt((z**2).sum(axis=0).prod())
    assert lee(units_of(x), weights)[0, 1] == pytest.approx(expected, abs=1e-5)
    assert not lee(units_of(x), sparse.csr_matrix((30, 30))).any()


def test_permutations_find_the_planted_pair_and_little_else() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(80, 12))
    x[:, 1] = x[:, 0] + 0.3 * rng.normal(size=80)
    x[:, 5] = 0
    units = units_of(x)
    matrix = correlations(units)
    fdr = permutation_fdr([units], correlations, matrix, 999, seed=0)
    assert fdr[0, 1] == fdr[1, 0] < 0.06
    np.fill_diagonal(fdr, 1)
    assert (fdr < 0.05).sum() <= 2
    assert (fdr[5] == 1).all()
    np.testing.assert_array_equal(fdr[:2], permutation_fdr([units, units], correlations, matrix, 999, seed=0)[:2] * 1.0)


def test_agreement_is_over_pairs_that_vary_in_the_measurement(values) -> None:
    values[:, 0] = 2
    true = correlations(units_of(values))
    assert matrix_agreement(true, true) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    r, mae = matrix_agreement(true, true + 0.1)
    assert r == pytest.approx(1)
    assert mae == pytest.approx(0.1, abs=1e-5)
    assert np.isnan(matrix_agreement(np.eye(2), np.eye(2))[0])
    assert np.isnan(matrix_agreement(np.zeros((3, 3)), np.eye(3))[1])
