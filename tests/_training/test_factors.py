import numpy as np
import pytest

from hisdiff._stats._counting import count, count_moments, count_rate, latent
from hisdiff._training._factors import Factors, fit_factors, matched, sized


def test_planted_factors_are_found():
    rng = np.random.default_rng(1)
    n, genes, k = 900, 40, 2
    loadings = rng.normal(size=(k, genes)) * 0.7
    held_out = np.full((n, genes), 6.0)
    level = held_out + rng.normal(size=(n, k)) @ loadings + 0.2 * rng.normal(size=(n, genes))
    targets = np.log2(1 + rng.poisson(count_rate(level)))
    factors, scores, _ = fit_factors(targets - targets.mean(axis=0), held_out, k)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=1e-2)
    planted, found = loadings.T @ loadings, factors.loadings.T @ factors.loadings
    assert np.corrcoef(planted.ravel(), found.ravel())[0, 1] > 0.98
    assert np.median(factors.specific) == pytest.approx(0.2, abs=0.06)


def test_constant_genes_have_no_spread():
    within = np.random.default_rng(0).normal(size=(30, 5))
    within[:, 2] = 0
    within -= within.mean(axis=0)
    factors, scores, _ = fit_factors(within, np.full((30, 5), 3.0), 3)
    np.testing.assert_allclose(factors.loadings[:, 2], 0, atol=1e-9)
    assert factors.specific[2] == 0
    assert np.isfinite(scores).all()


def test_factors_that_are_more_than_chance_are_counted():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 60))
    *_, told = fit_factors(shared + rng.normal(size=(400, 60)), np.full((400, 60), 6.0), 8)
    assert told == 2
    *_, least = fit_factors(rng.normal(size=(400, 60)), np.full((400, 60), 6.0), 8)
    assert least == 1


def test_genes_that_are_on_in_some_spots_only_vary_as_measured():
    rng = np.random.default_rng(2)
    level = 2.5 * (rng.random((600, 4)) < 0.35) + 0.3
    within = np.log2(1 + rng.poisson(count_rate(level)))
    held_out = np.broadcast_to(within.mean(axis=0), within.shape)
    factors, _, _ = fit_factors(within - held_out, held_out, 2)
    before, after = (
        count_moments(held_out[:1], np.sqrt(of.variance)).variance[0]
        for of in (factors, matched(factors, held_out, np.zeros(4), within.var(axis=0)))
    )
    assert (before < 0.92 * within.var(axis=0)).all()
    np.testing.assert_allclose(after, within.var(axis=0), rtol=0.03)


def test_genes_vary_together_as_measured_by_scores_of_a_state_that_few_spots_can_have():
    rng = np.random.default_rng(0)
    n, genes = 4000, 40
    able = rng.random(n) < 0.5  # in the others there is hardly any expression that could differ
    held_out = np.where(able[:, None], 3.0, 0.05) * np.ones(genes)
    state = np.where(able, 0.8 * rng.choice([-1.0, 1.0], n), 0)
    within = count(np.maximum(held_out + state[:, None], 0), rng.standard_normal((n, genes))) - held_out
    within -= within.mean(axis=0)
    other = np.zeros(genes)
    found, scores, _ = fit_factors(within, held_out, 1)
    factors = matched(found, held_out, other, within.var(axis=0))

    def drawn(scores: np.ndarray) -> float:
        """Return the sd of the mean of all genes in a draw with such scores."""
        level = latent(held_out, np.sqrt(factors.variance) * np.ones((n, 1))) + scores @ factors.loadings
        level += factors.specific * rng.standard_normal((n, genes))
        return (count(np.maximum(level, 0), rng.standard_normal((n, genes))) - held_out).mean(axis=1).std()

    measured = within.mean(axis=1).std()
    assert drawn(rng.standard_normal((n, 1))) == pytest.approx(
        measured, rel=0.08
    )  # for normal scores loadings were raised
    assert drawn(scores) > 1.3 * measured
    assert drawn(sized(scores, factors, found, held_out, other, np.ones(genes))) == pytest.approx(measured, rel=0.05)


def test_state_and_back():
    rng = np.random.default_rng(0)
    factors = Factors(rng.normal(size=(2, 3)), rng.random(3))
    back = Factors.from_state(factors.state())
    for name in ("loadings", "specific"):
        np.testing.assert_array_equal(getattr(back, name), getattr(factors, name))
