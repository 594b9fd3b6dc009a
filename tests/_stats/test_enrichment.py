from __future__ import annotations

import gseapy
import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, norm

from hisdiff._stats._coexpression import unit_columns
from hisdiff._stats._enrichment import first_component, group_scores, running_sum, set_means, single_sample_scores


def units_of(values, *, ranked=False):
    return unit_columns(lambda genes: values[:, genes], *values.shape, ranked=ranked)


def test_group_scores_are_the_rank_sum_test_with_ties() -> None:
    rng = np.random.default_rng(0)
    values = rng.poisson(2, (60, 5)).astype(float)
    member = np.arange(60) < 21
    z = group_scores(units_of(values, ranked=True), member[:, None])[:, 0]
    expected = mannwhitneyu(values[member], values[~member], use_continuity=False, method="asymptotic")
    np.testing.assert_allclose(2 * norm.sf(np.abs(z)), expected.pvalue, rtol=1e-3)
    assert (np.sign(z) == np.sign(expected.statistic - 21 * 39 / 2)).all()


@pytest.mark.parametrize("n", [12, 50])
def test_the_first_component_is_that_of_the_singular_value_decomposition(n) -> None:
    rng = np.random.default_rng(1)
    units = units_of(rng.normal(size=(n, 1)) * rng.uniform(0.5, 2, 20) + rng.normal(size=(n, 20)))
    expected = np.linalg.svd(units)[2][0]
    found = first_component(units)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    assert found.mean() >= 0


def test_the_running_sum_rises_to_one_over_a_set_on_top() -> None:
    member = np.arange(10) < 3
    curve = running_sum(np.linspace(2, -2, 10), member)
    assert curve[2] == pytest.approx(1)
    assert curve[-1] == pytest.approx(0)
    assert running_sum(np.linspace(2, -2, 10), ~member)[2] == pytest.approx(-1)
    assert np.isfinite(running_sum(np.zeros(4), np.array([True, False, False, True]))).all()


def test_set_means_are_mean_standard_scores() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, 6))
    member = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 0]], dtype=bool)
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(set_means(units_of(values), member)[:, 1], standard[:, 2:5].mean(axis=1), atol=1e-5)


def test_single_sample_scores_are_those_of_gseapy() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(7, 30))
    member = np.zeros((30, 3), dtype=bool)
    member[:5, 0] = member[3:20, 1] = member[29, 2] = True
    genes = [f"g{i}" for i in range(30)]
    sets = {f"t{j}": [genes[i] for i in np.flatnonzero(member[:, j])] for j in range(3)}
    frame = pd.DataFrame(values.T, index=genes, columns=[f"s{i}" for i in range(7)])
    found = gseapy.ssgsea(frame, sets, outdir=None, min_size=1, max_size=30, no_plot=True).res2d
    expected = found.pivot(index="Name", columns="Term", values="ES").astype(float).to_numpy() / 30
    np.testing.assert_allclose(single_sample_scores(values, member), expected, atol=1e-6)


def test_single_sample_scores_do_not_depend_on_the_order_of_tied_genes() -> None:
    rng = np.random.default_rng(3)
    values = rng.poisson(0.5, (6, 40)).astype(float)
    member = rng.random((40, 4)) < 0.3
    order = rng.permutation(40)
    scores = single_sample_scores(values, member)
    np.testing.assert_allclose(single_sample_scores(values[:, order], member[order]), scores, atol=1e-6)
    np.testing.assert_array_equal(single_sample_scores(values, np.ones((40, 1), dtype=bool)), 0)
