import numpy as np
import pytest

from hisdiff._stats._gene_modules import GeneModules, centered
from hisdiff._stats._proper import crps, energy_score
from hisdiff._stats._resample import half_molecules
from hisdiff._stats._scorer import proper_scores, score_floor

RNG = np.random.default_rng


@pytest.fixture(scope="module")
def planted():
    """Counts of 60 genes in two modules, with levels that differ between three sections."""
    rng = RNG(0)
    section = np.repeat(np.arange(3), 200)
    programme = rng.normal(size=(600, 2))
    loading = np.zeros((2, 60))
    loading[0, :30], loading[1, 20:] = 0.8, 0.5
    rates = np.exp(1.5 + programme @ loading + rng.normal(size=(3, 60))[section])
    return rng.poisson(rates), rates, section


def test_modules_are_the_planted_directions_of_unit_variance_inside_sections(planted) -> None:
    counts, rates, section = planted
    measured = np.log2(1 + counts)
    modules = GeneModules.fit(measured, section, n=2)
    projected = centered(measured @ modules.raw, section)
    np.testing.assert_allclose(projected.std(axis=0), 1, rtol=1e-3)
    true = centered(np.log2(rates), section) @ modules.raw
    assert min(np.corrcoef(true[:, i], projected[:, i])[0, 1] for i in range(2)) > 0.97
    again = GeneModules.from_arrays(modules.arrays())
    np.testing.assert_array_equal(again.normalized, modules.normalized)


def test_modules_of_next_to_nothing_are_fewer_or_none() -> None:
    assert GeneModules.fit(np.ones((5, 3)), np.zeros(5)).raw.shape == (3, 0)
    assert GeneModules.fit(RNG(0).random((1, 3)), np.zeros(1)).raw.shape == (3, 0)
    assert GeneModules.fit(RNG(0).random((4, 20)), np.zeros(4)).raw.shape == (20, 3)


def test_crps_of_draws_from_a_normal_law_is_its_closed_form() -> None:
    rng, y = RNG(0), np.array([[-1.0], [0.3], [2.5]])
    draws = rng.normal(size=(200_000, 1, 1)) * np.ones((1, 3, 1))
    pdf, cdf = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi), np.array([[0.158655], [0.617911], [0.993790]])
    closed = y * (2 * cdf - 1) + 2 * pdf - 1 / np.sqrt(np.pi)  # Gneiting & Raftery 2007, eq. 21
    np.testing.assert_allclose(crps(draws, y), closed, atol=0.005)


def test_crps_is_the_energy_score_of_one_value_and_does_not_favour_a_number_of_draws() -> None:
    draws, y = RNG(0).normal(size=(7, 50, 1)), RNG(1).normal(size=(50, 1))
    np.testing.assert_allclose(crps(draws, y)[:, 0], energy_score(draws, y), atol=1e-9)
    np.testing.assert_allclose(crps(draws[:1], y), np.abs(draws[0] - y))
    with pytest.raises(ValueError, match=r"\(k, n, K\)"):
        crps(draws[0], y)


def test_the_centered_scores_do_not_see_the_level_of_a_section(planted) -> None:
    counts, rates, section = planted
    measured = np.log2(1 + counts)
    axes = GeneModules.fit(measured, section).raw
    draws = np.log2(1 + RNG(1).poisson(np.broadcast_to(rates, (8, *rates.shape))))
    lifted = draws + RNG(2).normal(size=(3, 60))[section]
    fair, off = (proper_scores(list(of), measured, axes, section) for of in (draws, lifted))
    for name in ("module_crps", "module_energy_score"):
        assert off[name] > 1.2 * fair[name]
        assert off[f"{name}_centered"] == pytest.approx(fair[f"{name}_centered"])
    assert set(proper_scores(list(draws), measured, None, section)) == {"energy_score"}


def test_half_of_the_molecules_give_the_score_of_the_law_given_the_rates(planted) -> None:
    counts, rates, section = planted
    measured = np.log2(1 + counts)
    axes = GeneModules.fit(np.log2(1 + RNG(2).poisson(rates)), section).raw  # of a cohort, not of the spots judged
    law = np.log2(1 + RNG(1).poisson(np.broadcast_to(rates, (16, *rates.shape))))
    known = proper_scores(list(law), measured, axes, section)
    floor = score_floor(half_molecules(counts), axes, section)
    for name, score in known.items():
        assert floor[name] == pytest.approx(score, rel=0.1), name


def test_modules_tell_the_true_law_from_regression_where_single_genes_do_not() -> None:
    """The image tells where a state is on or off, not which: regression with its residuals is in between, the law is not."""
    rng = RNG(0)
    image, state = rng.normal(size=(4, 3000)), rng.integers(2, size=(4, 3000)) * 2.0 - 1
    loading = rng.normal(size=(4, 80)) * 0.5

    def rates(states: np.ndarray) -> np.ndarray:
        return np.exp(0.3 + (states * (image > 0)).T @ loading)

    measured = np.log2(1 + rng.poisson(rates(state)))
    law = [np.log2(1 + rng.poisson(rates(rng.integers(2, size=(4, 3000)) * 2.0 - 1))) for _ in range(8)]
    design = np.column_stack([np.ones(3000), image.T])
    mean = design @ np.linalg.lstsq(design, measured, rcond=None)[0]
    regression = [mean + (measured - mean)[rng.permutation(3000)] for _ in range(8)]
    section = np.zeros(3000)
    axes = GeneModules.fit(measured, section).raw
    true, other = (proper_scores(draws, measured, axes, section) for draws in (law, regression))
    assert true["module_crps"] < 0.97 * other["module_crps"]
    gained = {name: 1 - true[name] / other[name] for name in true}
    assert gained["module_crps"] > 2 * gained["module_energy_score"] > 2 * gained["energy_score"] > 0
