"""Planted cohorts: what is said of sections that were not seen, against many of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from planted import GENES, SIDE, planted_cohort

from hisdiff._prediction._field import SmoothNoise
from hisdiff._stats._counting import count_rate
from hisdiff._stats._proper import coverage
from hisdiff._training._given import Given, library_shift, posterior_of
from hisdiff._training._level import fit_levels, moderated
from hisdiff._training._slope import fit_slope
from hisdiff._training._smooth import smoothness
from hisdiff._training._spread import Library
from hisdiff.methods.ridge import Ridge, RidgeConfig


@pytest.fixture(scope="module")
def sections():
    return planted_cohort(0, 24)


@pytest.fixture(scope="module")
def fitted(sections):
    return Ridge().fit(sections[:4], RidgeConfig(scalings=("standardized",), n_components=(6,)))


def log2(section):
    return np.log2(1 + section.counts.toarray())


def test_draws_are_as_far_from_each_other_as_from_new_sections(sections, fitted):
    away, apart, covered, distances = [], [], [], []
    for section in sections[4:]:
        made = fitted.predict(section, section.spots, n_draws=8, keep_draws=8, seed=int(section.name[1:]))
        away.append(np.linalg.norm(made.draws - log2(section), axis=2).mean())
        apart.append(np.mean([np.linalg.norm(made.draws[i] - made.draws[i - 1], axis=1).mean() for i in range(8)]))
        covered.append(coverage(log2(section), made.mean, made.std, 1.645).mean())
        distances.append(fitted.cohort_model.transfer_distance(section))
    assert np.mean(apart) == pytest.approx(np.mean(away), rel=0.06)
    assert 0.86 < np.mean(covered) < 0.94
    assert max(distances) < 1  # all of them are like the cohort


def test_spread_is_that_of_draws_and_no_seed_changes_it(sections, fitted):
    section = sections[5]
    many = fitted.predict(section, section.spots, n_draws=150, keep_draws=150, seed=1)
    other = fitted.predict(section, section.spots, n_draws=2, seed=2)
    np.testing.assert_array_equal(many.std, other.std)
    np.testing.assert_allclose(np.std(many.draws, axis=0).mean(axis=0), many.std.mean(axis=0), rtol=0.15)
    np.testing.assert_allclose(np.mean(many.draws, axis=0).mean(axis=0), many.mean.mean(axis=0), atol=0.25)


def test_levels_of_new_sections_are_as_large_as_planted():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        own = 0.3 * rng.normal(size=(3, 50)) + rng.normal(size=(3, 50)) / 10
        levels = fit_levels(
            np.zeros((1, 50)), np.zeros((3, 1)), own, (np.ones(1), np.ones(50)), np.ones(50), np.full(3, 100)
        )
        found.append(levels.variance.mean())
    assert np.mean(found) == pytest.approx(0.09 * (1 + 1 / 3), rel=0.1)


def test_levels_of_genes_are_as_large_as_planted_whatever_their_components_have_in_common():
    rng = np.random.default_rng(1)
    axes, scale = np.linalg.qr(rng.normal(size=(50, 50)))[0], np.exp(rng.normal(size=50))
    found = []
    for _ in range(40):
        shared = (0.3 * rng.normal(size=(4, 50)) / scale) @ axes.T
        none = np.zeros((4, 50))
        levels = fit_levels(axes * scale, shared, none, (np.ones(50), np.zeros(50)), scale, np.full(4, 1e9))
        found.append(levels.variance.mean())
    assert np.mean(found) == pytest.approx(0.09 * (1 + 1 / 4), rel=0.1)


def test_smooth_part_of_scores_is_found_around_the_means_of_sections():
    xy = np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2) * 100.0
    section = np.repeat(np.arange(4), len(xy))
    rng = np.random.default_rng(0)
    smooth = np.concatenate([SmoothNoise(s, xy, 300.0).normal(0, 0, np.arange(len(xy)), 8) for s in range(4)])
    scores = np.sqrt(0.5) * (smooth + rng.normal(size=smooth.shape))
    scores -= np.stack([scores[section == s].mean(axis=0) for s in range(4)])[section]
    spots = SimpleNamespace(pitch_um=100.0, xy_um=np.tile(xy, (4, 1)), section=section)
    share, spacing = smoothness(spots, np.arange(len(section)), scores, np.ones(8))
    assert share == pytest.approx(0.5, abs=0.1)
    assert 200 < spacing < 450


def test_shrunken_variances_keep_their_sum_and_come_closer_with_few_sections():
    rng = np.random.default_rng(0)
    raw = rng.chisquare(1, size=400)
    told = moderated(raw, np.ones(400), 1)
    assert told.sum() == pytest.approx(raw.sum())
    assert told.std() < 0.3 * raw.std()
    wide = rng.chisquare(20, size=400) / 20 * np.where(np.arange(400) < 200, 0.1, 2.0)
    assert np.corrcoef(wide, moderated(wide, np.ones(400), 20))[0, 1] > 0.99


def test_one_odd_spot_does_not_set_the_library_size_and_several_alike_do():
    library = Library(mean=0.0, sd=0.15, spot_sd=0.5)
    assert abs(library_shift(library, np.array([-3.0]))) < 0.3
    assert library_shift(library, np.full(6, -4.0) + np.linspace(-0.5, 0.5, 6)) == pytest.approx(-4, abs=0.4)


def test_what_spots_tell_does_not_depend_on_their_order_and_grows_with_them(sections, fitted):
    section = sections[7]
    model = fitted.cohort_model
    rng = np.random.default_rng(0)
    errors, open_part = [], []
    for n in (2, 8, 32):
        rows = rng.permutation(SIDE**2)[:n]
        given = model.adapted(section, rows, GENES)
        other = model.adapted(section, rows[::-1], GENES)
        np.testing.assert_allclose(given.posterior.level.mean, other.posterior.level.mean, atol=1e-6)
        made = given.predict(
            section, section.spots, genes=GENES, library_size=None, n_draws=1, keep_draws=0, units="log2", seed=0
        )
        errors.append(np.square(log2(section) - made.mean).mean())
        open_part.append(made.obs["uncertainty"].mean())
    assert errors[0] > errors[1] > errors[2]
    assert open_part[0] > open_part[1] > open_part[2]


def test_the_posterior_of_levels_covers_what_was_planted(fitted):
    spread, rng = fitted.cohort_model.spread, np.random.default_rng(3)
    scores, n, n_genes = [], 10, len(GENES)
    for _ in range(12):
        center = np.full((n, n_genes), 5.0)
        level = spread.levels.draw(rng)
        chance = rng.normal(size=(n, len(spread.factors.loadings))) @ spread.factors.loadings
        chance += spread.factors.specific * rng.normal(size=(n, n_genes))
        counts = rng.poisson(count_rate(np.maximum(center + level + chance, 0)))
        features = np.zeros((n, spread.relation.landmarks.shape[1]))
        found = posterior_of(
            spread, Given(rng.normal(size=(n, 2)), features, center, counts, np.zeros(n), features)
        ).level
        scores.append((found.mean - level) / np.sqrt(found.variance))
    assert 0.6 < np.std(scores) < 1.5


@pytest.mark.parametrize("steeper", [0.5, 1.6])
def test_a_few_spots_tell_that_another_patient_follows_its_image_more_or_less(steeper):
    errors = {"as predicted": [], "as measured": []}
    for seed in range(4):
        *cohort, patient = planted_cohort(1000 + seed, 5, steeper=steeper, away=4)
        model = Ridge().fit(cohort, RidgeConfig(scalings=("standardized",), n_components=(6,))).cohort_model
        rows = np.random.default_rng(seed).permutation(SIDE**2)[:6]
        rest = np.setdiff1d(np.arange(SIDE**2), rows)
        for name, slope in (("as predicted", 1e-9), ("as measured", model.spread.slope)):
            given = replace(model, spread=replace(model.spread, slope=slope)).adapted(patient, rows, GENES)
            options = {"genes": GENES, "library_size": None, "n_draws": 300, "units": "log2", "seed": 0}
            made = given.predict(patient, patient.spots, keep_draws=300 if seed == 0 else 0, **options)
            errors[name].append(np.square(log2(patient) - made.mean)[rest].mean())
        assert np.sign(given.posterior.slope.mean) == np.sign(steeper - 1)
        if seed == 0:  # draws have the spread that is said, that of the slope included
            np.testing.assert_allclose(made.draws.std(axis=0).mean(axis=0), made.std.mean(axis=0), rtol=0.1)
    assert np.mean(errors["as measured"]) < 0.96 * np.mean(errors["as predicted"])


def test_slopes_vary_between_sections_as_planted_and_a_single_section_tells_nothing_of_it():
    rng = np.random.default_rng(0)
    section = np.repeat(np.arange(60), 80)
    predicted = rng.normal(size=section.size)
    for sd in (0.0, 0.3):
        left = (sd * rng.normal(size=60))[section] * predicted + 2 * rng.normal(size=section.size)
        assert fit_slope(predicted, left, section) == pytest.approx(max(sd**2, 1e-3), rel=0.4, abs=0.01)
    assert fit_slope(predicted[:80], left[:80], section[:80]) == fit_slope(predicted[:80], 9 * left[:80], section[:80])


def test_given_spots_that_are_unlike_the_rest_of_their_section_do_not_set_its_level(sections, fitted):
    model, rows, errors = fitted.cohort_model, np.arange(6), []
    for section in sections[4:]:
        given = model.adapted(section, rows, GENES)
        beside = replace(
            given, given=replace(given.given, reference=given.given.features)
        )  # as if they were the section
        options = {"genes": GENES, "library_size": None, "n_draws": 1, "keep_draws": 0, "units": "log2", "seed": 0}
        made = [of.predict(section, section.spots, **options).mean for of in (given, beside)]
        errors.append([np.square(log2(section) - mean)[len(rows) :].mean() for mean in made])
    of_section, of_spots = np.mean(errors, axis=0)
    assert of_section < 0.995 * of_spots
