import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from hisdiff._stats._contrast import contrast


def test_single_units_give_the_plain_rank_test_and_the_fold_change() -> None:
    rng = np.random.default_rng(0)
    first = np.arange(60) < 25
    counts = rng.poisson(np.where(first[:, None], [20, 5, 8], [5, 20, 8]))
    values = np.log2(1 + counts)
    table, n = contrast(lambda genes: values[:, genes], 3, np.arange(60), first)
    assert n == (25, 35)
    expected = mannwhitneyu(values[first], values[~first], axis=0)
    np.testing.assert_allclose(table["p"], expected.pvalue)
    np.testing.assert_allclose(table["auc"], expected.statistic / (25 * 35))
    assert table["log2_fold_change"].to_numpy() == pytest.approx([2, -2, 0], abs=0.3)
    assert (table["fdr"] >= table["p"]).all()
    assert list(table)[:2] == ["log2_fold_change", "auc"]


def test_copies_of_a_spot_do_not_count_again() -> None:
    rng = np.random.default_rng(1)
    values, first = rng.normal(5, 1, (12, 40)), np.arange(12) < 6
    once, _ = contrast(lambda genes: values[:, genes], 40, np.arange(12), first)
    many = np.repeat(values, 50, axis=0)
    often, n = contrast(lambda genes: many[:, genes], 40, np.repeat(np.arange(12), 50), np.repeat(first, 50))
    assert n == (6, 6)
    np.testing.assert_allclose(often["p"], once["p"])
    naive, _ = contrast(lambda genes: many[:, genes], 40, np.arange(600), np.repeat(first, 50))
    assert naive["p"].median() < once["p"].median()


def test_a_unit_in_both_groups_belongs_to_the_one_with_most_of_it() -> None:
    values = np.array([[1.0], [1], [9], [5], [5], [5], [1], [5]])
    unit = np.array([0, 0, 0, 1, 1, 1, 2, 3])
    first = np.array([True, True, False, False, False, False, True, False])
    _, n = contrast(lambda genes: values[:, genes], 1, unit, first)
    assert n == (2, 2)


def test_one_unit_on_a_side_tells_effects_and_no_p_and_a_constant_gene_nothing() -> None:
    values = np.array([[1.0, 3], [2, 3], [4, 3]])
    table, _ = contrast(lambda genes: values[:, genes], 2, np.array([0, 1, 2]), np.array([True, False, False]))
    assert table["p"].isna().all()
    assert np.isfinite(table["log2_fold_change"]).all()
    table, _ = contrast(
        lambda genes: values[[0, 1, 2, 2], genes], 2, np.arange(4), np.array([True, True, False, False])
    )
    assert table["auc"][1] == 0.5
    assert table["p"][1] == 1
