import numpy as np
import pytest

from hisdiff._stats import _proper
from hisdiff._stats._proper import coverage, energy_score, interval


def brute_force(draws: np.ndarray, y: np.ndarray) -> float:
    k = len(draws)
    near = np.mean([np.linalg.norm(x - y) for x in draws])
    pairs = [np.linalg.norm(draws[i] - draws[j]) for i in range(k) for j in range(k) if i != j]
    return near - (0.5 * np.mean(pairs) if pairs else 0)


def test_energy_score_is_that_of_the_definition(monkeypatch):
    rng = np.random.default_rng(0)
    draws, measured = rng.normal(100, 1, (5, 9, 6)).astype(np.float32), rng.normal(100, 1, (9, 6))
    expected = [brute_force(draws[:, i].astype(float), measured[i]) for i in range(9)]
    np.testing.assert_allclose(energy_score(draws, measured), expected, rtol=1e-9)
    monkeypatch.setattr(_proper, "_BLOCK_VALUES", 70)  # two locations at a time
    np.testing.assert_allclose(energy_score(draws, measured), expected, rtol=1e-9)


def test_energy_score_of_one_draw_and_of_equal_draws_is_the_distance():
    measured, draw = np.zeros((3, 2)), np.full((1, 3, 2), [3.0, 4.0])
    np.testing.assert_allclose(energy_score(draw, measured), 5)
    np.testing.assert_allclose(energy_score(np.repeat(draw, 4, axis=0), measured), 5)


def test_energy_score_does_not_favour_a_number_of_draws():
    rng = np.random.default_rng(0)
    draws, measured = rng.normal(size=(64, 3000, 4)), rng.normal(size=(3000, 4))
    few, many = energy_score(draws[:2], measured).mean(), energy_score(draws, measured).mean()
    assert few == pytest.approx(many, abs=0.03)  # pairing a draw with itself would shift `few` by .6


def test_energy_score_prefers_the_true_law():
    rng = np.random.default_rng(0)
    measured = rng.normal(size=(2000, 3))
    score = {name: energy_score(f(rng.normal(size=(16, 2000, 3))), measured).mean()
             for name, f in {"true": lambda x: x, "narrow": lambda x: x / 2, "wide": lambda x: 2 * x, "shifted": lambda x: x + 0.5}.items()}  # fmt: skip
    assert min(score, key=score.get) == "true"


def test_energy_score_rejects_draws_of_other_shape():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(3, 5\)"):
        energy_score(np.zeros((2, 3, 4)), np.zeros((3, 5)))


def test_interval_stops_at_zero():
    low, high = interval(np.array([[1.0, 4.0]]), np.array([[1.0, 1.0]]), np.array([2.0, 1.0]))
    np.testing.assert_array_equal(low, [[0, 3]])
    np.testing.assert_array_equal(high, [[3, 5]])


@pytest.mark.parametrize("level", [0.3, 5, 200])
def test_counts_of_the_predicted_law_are_covered_as_often_as_promised_however_rare(level):
    """Genes that are mostly zero, small and large."""
    rng = np.random.default_rng(0)
    mean, std = np.full((20_000, 1), np.log2(1 + level)), np.full((20_000, 1), 0.7)
    counts = np.round(np.exp2(np.maximum(rng.normal(mean, std), 0)) - 1)
    found = coverage(np.log2(1 + counts), mean, std, _proper._Z)
    np.testing.assert_allclose(found, 0.9, atol=0.01)


def test_coverage_is_plain_where_counts_are_large():
    rng = np.random.default_rng(0)
    mean, std = np.full((5000, 2), 16.0), np.full((5000, 2), 1.0)
    measured = np.log2(1 + np.round(np.exp2(rng.normal(mean, 1)) - 1))
    factor = np.array([1.0, 2.0])
    low, high = interval(mean, std, factor)
    plain = ((measured > low) & (measured < high)).mean(axis=0)
    np.testing.assert_allclose(coverage(measured, mean, std, factor), plain, atol=1e-3)


def test_coverage_of_hopeless_and_of_exact_predictions():
    measured = np.log2(1 + np.array([[10.0, 10.0, 0.0]]))
    mean = np.array([[12.0, measured[0, 0], 0.0]])
    found = coverage(measured, mean, np.zeros((1, 3)), 1.0)
    # A law that sits on the count is the count; its randomised PIT is uniform, so 90 % of it is inside.
    np.testing.assert_allclose(found, [0, 0.9, 0.9], atol=1e-6)
