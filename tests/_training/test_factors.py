import numpy as np
import pytest

from hisdiff._stats._counting import count_moments, count_rate
from hisdiff._training._factors import Factors, fit_factors, raised


def test_planted_factors_are_found():
    rng = np.random.default_rng(1)
    n, genes, k = 900, 40, 2
    loadings = rng.normal(size=(k, genes)) * 0.7
    held_out = np.full((n, genes), 6.0)
    level = held_out + rng.normal(size=(n, k)) @ loadings + 0.2 * rng.normal(size=(n, genes))
    targets = np.log2(1 + rng.poisson(count_rate(level)))
    factors, scores = fit_factors(targets - targets.mean(axis=0), held_out, k)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-2)
    planted, found = loadings.T @ loadings, factors.loadings.T @ factors.loadings
    assert np.corrcoef(planted.ravel(), found.ravel())[0, 1] > 0.98
    assert np.median(factors.specific) == pytest.approx(0.2, abs=0.06)


def test_constant_genes_have_no_spread():
    within = np.random.default_rng(0).normal(size=(30, 5))
    within[:, 2] = 0
    within -= within.mean(axis=0)
    factors, scores = fit_factors(within, np.full((30, 5), 3.0), 3)
    np.testing.assert_allclose(factors.loadings[:, 2], 0, atol=1e-9)
    assert factors.specific[2] == 0
    assert np.isfinite(scores).all()


def test_genes_that_are_on_in_some_spots_only_vary_as_measured():
    rng = np.random.default_rng(2)
    level = 2.5 * (rng.random((600, 4)) < 0.35) + 0.3
    within = np.log2(1 + rng.poisson(count_rate(level)))
    held_out = np.broadcast_to(within.mean(axis=0), within.shape)
    factors, _ = fit_factors(within - held_out, held_out, 2)
    before, after = (
        count_moments(held_out[:1], np.sqrt(of.variance)).variance[0]
        for of in (factors, raised(factors, held_out, np.zeros(4), within.var(axis=0)))
    )
    assert (before < 0.92 * within.var(axis=0)).all()
    np.testing.assert_allclose(after, within.var(axis=0), rtol=0.03)


def test_state_and_back():
    rng = np.random.default_rng(0)
    factors = Factors(rng.normal(size=(2, 3)), rng.random(3))
    back = Factors.from_state(factors.state())
    for name in ("loadings", "specific"):
        np.testing.assert_array_equal(getattr(back, name), getattr(factors, name))
