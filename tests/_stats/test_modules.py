from __future__ import annotations

import numpy as np
import pytest

from hisdiff._stats._coexpression import correlations, unit_columns
from hisdiff._stats._modules import heatmap_order, hierarchical_modules, leiden_modules, module_scores

PLANTED = np.repeat([0, 1, 2], [12, 9, 6])


@pytest.fixture
def units():
    """Three blocks of genes with a common driver each."""
    rng = np.random.default_rng(0)
    drivers = rng.normal(size=(200, 3))
    values = drivers[:, PLANTED] + 0.7 * rng.normal(size=(200, len(PLANTED)))
    return unit_columns(lambda genes: values[:, genes], *values.shape, ranked=False)


def leiden(matrix, **options):
    return leiden_modules(matrix, **{"resolution": 1.0, "min_genes": 3, "seed": 0, **options})


def test_planted_blocks_are_found_by_both_and_numbered_by_size(units) -> None:
    matrix = correlations(units)
    np.testing.assert_array_equal(leiden(matrix), PLANTED)
    np.testing.assert_array_equal(hierarchical_modules(matrix, min_genes=3), PLANTED)


def test_the_order_of_genes_decides_nothing(units) -> None:
    shuffled = np.random.default_rng(1).permutation(len(PLANTED))
    matrix = correlations(units)[np.ix_(shuffled, shuffled)]
    np.testing.assert_array_equal(leiden(matrix), PLANTED[shuffled])


def test_negative_partners_are_pushed_apart() -> None:
    signs = np.repeat([1, -1], 8)
    matrix = np.outer(signs, signs) * 0.6
    np.fill_diagonal(matrix, 1)
    np.testing.assert_array_equal(leiden(matrix), np.repeat([0, 1], 8))


def test_small_modules_and_constant_genes_are_in_none(units) -> None:
    matrix = correlations(units)
    matrix[0] = matrix[:, 0] = 0
    found = leiden(matrix, min_genes=7)
    assert found[0] == -1
    np.testing.assert_array_equal(found[1:], np.where(PLANTED == 2, -1, PLANTED)[1:])
    assert (leiden(np.eye(5)) == -1).all()
    assert (leiden(np.zeros((4, 4))) == -1).all()
    assert (hierarchical_modules(np.zeros((4, 4)), min_genes=1) == -1).all()


def test_a_large_panel_keeps_the_strongest_partners_only(units, monkeypatch) -> None:
    monkeypatch.setattr("hisdiff._stats._modules._PARTNERS", 4)
    np.testing.assert_array_equal(leiden(correlations(units)), PLANTED)


def test_heatmap_order_goes_module_by_module_and_none_comes_last(units) -> None:
    labels = np.where(PLANTED == 1, -1, np.where(PLANTED == 2, 1, 0))
    order = heatmap_order(correlations(units), labels)
    assert sorted(order) == list(range(len(PLANTED)))
    assert labels[order].tolist() == [0] * 12 + [1] * 6 + [-1] * 9


def test_scores_are_mean_standard_scores(units) -> None:
    scores = module_scores(units, PLANTED)
    standard = units * np.sqrt(len(units))
    np.testing.assert_allclose(scores[:, 1], standard[:, PLANTED == 1].mean(axis=1), atol=1e-5)
    assert module_scores(units, np.full(len(PLANTED), -1)).shape == (200, 0)
