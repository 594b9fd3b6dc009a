import numpy as np
import pytest

from hisdiff._stats._accuracy import pearson
from hisdiff._stats._proper import coverage
from hisdiff._training._calibration import Calibration, Dispersion, interval_factor


def predictions(n: int, true_sd: np.ndarray, level: float = 8.0, seed: int = 0):
    """Measured counts around a known mean, with a claimed sd of 1."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(level, 1, (n, len(true_sd)))
    measured = np.log2(1 + np.round(np.exp2(np.maximum(rng.normal(mean, true_sd), 0)) - 1))
    return measured, mean, np.ones_like(mean)


def test_factor_is_that_of_the_normal_law_times_the_error_of_the_claimed_sd():
    sds = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(interval_factor(*predictions(5000, sds)), 1.645 * sds, rtol=0.06)


def test_factor_gives_nominal_coverage_on_new_data_even_for_rare_genes():
    sds = np.full(6, 0.8)
    for level in (0.5, 2.0, 8.0):
        factor = interval_factor(*predictions(3000, sds, level))
        covered = coverage(*predictions(3000, sds, level, seed=1), factor)
        np.testing.assert_allclose(covered, 0.9, atol=0.03)


def test_few_spots_are_drawn_towards_all_genes():
    same = np.ones(200)
    factor = interval_factor(*predictions(25, same))
    own = np.concatenate([interval_factor(*(a[:, [g]] for a in predictions(25, same))) for g in range(60)])
    assert factor.std() < 0.2 * own.std()
    assert factor.mean() == pytest.approx(1.645, rel=0.06)


def test_genes_without_counts_take_the_factor_of_the_others():
    measured, mean, std = predictions(2000, np.array([1.0, 1.0, 1.0]))
    measured[:, 2], mean[:, 2] = 0, 0
    factor = interval_factor(measured, mean, std)
    assert 1.4 < factor[2] < 1.9
    nothing = np.zeros((50, 3))
    assert np.isfinite(interval_factor(nothing, nothing, nothing)).all()
    assert interval_factor(nothing[:0], nothing[:0], nothing[:0]).shape == (3,)


def test_accuracy_is_taken_inside_sections():
    rng = np.random.default_rng(0)
    skill, sections = rng.normal(size=(60, 2)), np.repeat([0, 1], [40, 20])
    offset = np.where(sections == 0, 0.0, 50.0)[:, None]
    mean = skill + rng.normal(size=skill.shape) + offset
    found = Calibration.from_held_out(skill + offset, mean, np.ones_like(mean), sections)
    parts = [pearson(skill[sections == s], mean[sections == s]) for s in (0, 1)]
    np.testing.assert_allclose(found.cv_pcc, (40 * parts[0] + 20 * parts[1]) / 60, atol=1e-6)
    assert found.interval_factor.shape == (2,)


def test_a_gene_flat_in_one_section_is_judged_by_the_other_and_flat_in_all_is_nan():
    rng = np.random.default_rng(0)
    measured, sections = rng.normal(5, 1, (40, 2)), np.repeat([0, 1], 20)
    measured[:, 1] = 3
    measured[sections == 0, 0] = 3
    mean = rng.normal(5, 1, (40, 2))
    found = Calibration.from_held_out(measured, mean, np.ones_like(mean), sections).cv_pcc
    assert found[0] == pytest.approx(pearson(measured[20:], mean[20:])[0])
    assert np.isnan(found[1])


def test_scatter_tells_what_the_genes_of_a_spot_share_from_what_each_has_of_its_own():
    rng = np.random.default_rng(0)
    predicted = rng.gamma(3, 10, (3000, 60))
    shared, own = rng.gamma(5, 1 / 5, (3000, 1)), rng.gamma(8, 1 / 8, predicted.shape)
    found = Dispersion.from_counts(rng.poisson(predicted * shared * own), predicted)
    assert found.spot == pytest.approx(5, rel=0.15)
    np.testing.assert_allclose(np.median(found.gene), 8, rtol=0.1)
    alone = Dispersion.from_counts(rng.poisson(predicted * own), predicted)
    assert alone.spot > 50
    np.testing.assert_allclose(np.median(alone.gene), 8, rtol=0.1)
