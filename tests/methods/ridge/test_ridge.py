import numpy as np
import pytest
from linear_sections import GENES, D, log2
from linear_sections import linear_section as section
from scipy.sparse import csr_matrix

from hisdiff._section import Section
from hisdiff._stats._accuracy import pearson
from hisdiff._stats._proper import coverage
from hisdiff.methods._registry import get as method
from hisdiff.methods.ridge import FittedRidge, Ridge, RidgeConfig
from hisdiff.methods.ridge._baseline import BaselineRidge, at_size, unread


@pytest.fixture(scope="module")
def cohort() -> list[Section]:
    return [section("A", 1), section("B", 2), section("C", 3)]


@pytest.fixture(scope="module")
def fitted(cohort) -> FittedRidge:
    return Ridge().fit(cohort, RidgeConfig())


@pytest.fixture(scope="module")
def baseline(cohort) -> BaselineRidge:
    return Ridge().fit(cohort, RidgeConfig.preset("baseline"))


def test_recovers_what_the_embedding_decides_and_knows_it_beforehand(fitted):
    test = section("T", 7)
    found = pearson(log2(test), fitted.predict(test, test.spots, n_draws=2).mean)
    assert found[:6].min() > 0.8
    assert abs(found[6]) < 0.25
    np.testing.assert_allclose(fitted.calibration.cv_pcc[:6], found[:6], atol=0.1)
    assert np.isnan(fitted.calibration.cv_pcc[7])


def test_interval_covers_nine_in_ten_of_a_new_section(fitted):
    test = section("T", 7)
    prediction = fitted.predict(test, test.spots, n_draws=16)
    covered = coverage(log2(test), prediction.mean, prediction.std, fitted.calibration.interval_factor)
    assert 0.85 < covered[:7].mean() < 0.95


def test_draws_carry_the_residuals_of_one_spot_across_genes(baseline):
    test = section("T", 7)
    whole = baseline._regression(test, test.spots)
    draws = baseline.predict(test, test.spots, n_draws=3, keep_draws=3, library_size=2**baseline.log2_size).draws
    possible = at_size(whole[0] + baseline.residuals, baseline.log2_size - baseline._log2_size_of(whole))
    for draw in draws:
        assert np.abs(possible - draw[0]).max(axis=1).min() < 1e-4


def test_same_seed_same_result_and_draws_do_not_depend_on_their_number(fitted):
    test = section("T", 7)
    a = fitted.predict(test, test.spots, n_draws=4, keep_draws=2, seed=3)
    b = fitted.predict(test, test.spots, n_draws=2, keep_draws=2, seed=3)
    c = fitted.predict(test, test.spots, n_draws=4, keep_draws=2, seed=4)
    np.testing.assert_array_equal(a.draws, b.draws)
    assert not np.array_equal(a.draws, c.draws)
    assert not np.array_equal(a.draws[0], a.draws[1])
    np.testing.assert_array_equal(a.mean, c.mean)


def test_a_part_of_the_locations_has_the_mean_of_the_whole(fitted):
    test = section("T", 7)
    whole = fitted.predict(test, test.spots, n_draws=2)
    part = fitted.predict(test, test.spots.take(np.arange(10, 30)), n_draws=2)
    np.testing.assert_allclose(part.mean, whole.mean[10:30], rtol=1e-5, atol=1e-5)


def test_saved_state_predicts_the_same(fitted, baseline):
    test = section("T", 7)
    for made in (fitted, baseline):
        arrays, settings = made.state()
        again = FittedRidge.from_state(arrays, settings, made.genes)
        assert type(again) is type(made)
        a, b = (m.predict(test, test.spots, n_draws=2, keep_draws=1) for m in (made, again))
        np.testing.assert_array_equal(a.mean, b.mean)
        np.testing.assert_array_equal(a.draws, b.draws)


def test_predictions_are_as_deep_as_asked(baseline):
    test = section("T", 7)
    for log2_size in (baseline.log2_size - 3, baseline.log2_size + 1):
        counts = baseline.predict(test, test.spots, n_draws=2, units="counts", library_size=2**log2_size).mean
        assert np.log2(np.median(counts.sum(1))) == pytest.approx(log2_size, abs=0.02)


def test_a_shallower_section_gets_its_own_library_size_and_keeps_the_ranking(fitted):
    shallow = section("T", 7, level=1.0)
    prediction = fitted.predict(shallow, shallow.spots, n_draws=16)
    measured = log2(shallow)
    assert np.abs(prediction.mean.mean(0) - measured.mean(0))[:6].max() < 0.4
    # The noise of rare counts is in the draws: they are about as variable as the measurement.
    draw = fitted.predict(shallow, shallow.spots, n_draws=1, keep_draws=1).draws[0]
    np.testing.assert_allclose(draw[:, :6].var(0), measured[:, :6].var(0), rtol=0.5)


def test_a_shallow_section_in_the_cohort_does_not_spoil_draws_of_deep_ones(cohort):
    test = section("T", 7)
    mixed = Ridge().fit([*cohort[:2], section("S", 3, level=-1.0)], RidgeConfig.preset("baseline"))
    assert mixed.log2_size == pytest.approx(max(s.log2_size for s in cohort[:2]))
    prediction = mixed.predict(test, test.spots, n_draws=1, keep_draws=1)
    measured = log2(test)
    assert pearson(measured, prediction.mean)[:6].min() > 0.8
    np.testing.assert_allclose(prediction.draws[0][:, :6].var(0), measured[:, :6].var(0), rtol=0.5)


def test_a_section_without_counts_is_predicted_as_deep_as_the_median_section(cohort):
    fitted = Ridge().fit([*cohort[:2], section("S", 3, level=1.0)], RidgeConfig.preset("baseline"))
    test = section("T", 7)
    bare = Section("T", GENES, None, test.spots, None, test.features)
    counts = fitted.predict(bare, bare.spots, n_draws=1, units="counts").mean
    assert np.log2(np.median(counts.sum(1))) == pytest.approx(fitted.usual_log2_size, abs=0.02)
    assert fitted.usual_log2_size < fitted.log2_size


def test_counts_are_expected_counts_not_the_transform_of_a_mean(fitted):
    test = section("T", 7)
    counts = fitted.predict(test, test.spots, n_draws=16, units="counts")
    assert counts.units == "counts"
    np.testing.assert_allclose(counts.mean[:, :7].mean(0), test.counts.toarray()[:, :7].mean(0), rtol=0.25)
    kept = fitted.predict(test, test.spots, n_draws=64, units="counts", keep_draws=64)
    np.testing.assert_allclose(kept.draws.mean(0)[:, :7].mean(0), kept.mean[:, :7].mean(0), rtol=0.1)


def test_nothing_is_below_zero(fitted):
    test = section("T", 7, level=0.0)
    for units in ("log2", "counts"):
        prediction = fitted.predict(test, test.spots, n_draws=3, keep_draws=3, units=units)
        assert min(prediction.mean.min(), prediction.draws.min()) >= 0
        assert np.isfinite(prediction.mean).all()
        assert np.isfinite(prediction.std).all()


def test_standardising_is_chosen_where_stain_differs():
    stained = [section(str(i), i, stain=s) for i, s in enumerate([0.0, 40.0, -30.0])]
    fitted = Ridge().fit(stained, RidgeConfig(scalings=("raw", "standardized")))
    assert fitted.cohort_model.mean.projection.scaling == "standardized"


def test_one_section_is_cut_into_blocks():
    fitted = Ridge().fit([section("A", 1)], RidgeConfig())
    assert fitted.calibration.cv_pcc[:6].min() > 0.7
    test = section("T", 7)
    assert pearson(log2(test), fitted.predict(test, test.spots, n_draws=2).mean)[:6].min() > 0.7


@pytest.mark.parametrize("side", [2, 3])
def test_few_spots_are_handled(side):
    small = section("A", 1, side=side)
    fitted = Ridge().fit([small], RidgeConfig())
    prediction = fitted.predict(small, small.spots, n_draws=2)
    assert prediction.mean.shape == (side**2, len(GENES))
    assert np.isfinite(prediction.mean).all()


def test_too_few_spots_with_counts_is_an_error_that_names_the_section():
    empty = section("A", 1)
    empty = Section("A", GENES, csr_matrix(empty.counts.shape, dtype=int), empty.spots, None, empty.features)
    with pytest.raises(ValueError, match=r"at least 4 spots.*'A'.*have 0"):
        Ridge().fit([empty], RidgeConfig())


def test_spots_without_counts_do_not_take_part(cohort):
    first = cohort[0]
    counts = first.counts.toarray()
    counts[::2] = 0
    holed = Section("A", GENES, csr_matrix(counts), first.spots, None, first.features, library_size=first.library_size)
    fitted = Ridge().fit([holed, *cohort[1:]], RidgeConfig())
    assert fitted.calibration.cv_pcc[:6].min() > 0.75


def test_validation_sections_choose_the_penalty(cohort):
    noise = section("V", 5)
    rng = np.random.default_rng(0)
    shuffled = Section("V", GENES, noise.counts[rng.permutation(144)], noise.spots, None, noise.features).with_panel(
        GENES
    )
    chosen = [Ridge().fit(cohort, RidgeConfig(), validation=v).history for v in ([], [noise], [shuffled])]
    best = [max(row["held_out_pcc"] for row in path) for path in chosen]
    assert best[1] > 0.7
    assert best[2] < 0.3


def test_history_is_the_path_of_penalties(fitted):
    assert [row["step"] for row in fitted.history] == list(range(len(RidgeConfig().alphas)))
    assert {"alpha", "held_out_pcc"} <= set(fitted.history[0])


def test_residuals_are_capped(cohort):
    fitted = Ridge().fit(cohort, RidgeConfig(n_residuals=50, spread="residuals"))
    assert fitted.residuals.shape == (50, len(GENES))


def test_thinning_noise_has_mean_and_variance_of_binomial_thinning():
    counts = np.full((200_000, 1), 20.0)
    noisy = np.exp2(unread(np.log2(1 + counts), -2.0, np.random.default_rng(0).normal(size=counts.shape))) - 1
    assert noisy.mean() == pytest.approx(20, rel=0.01)
    assert noisy.var() == pytest.approx(20 * (1 - 0.25), rel=0.05)


def test_config_survives_a_round_trip_and_names_what_is_wrong():
    config = RidgeConfig(n_components=(5,), scalings=("raw",))
    assert RidgeConfig.from_dict(config.to_dict()) == config
    assert RidgeConfig.from_dict({"alphas": [1]}).alphas == (1,)
    assert RidgeConfig.preset("fast") == RidgeConfig()
    assert RidgeConfig.preset("baseline").n_residuals == 4096
    for options, error, message in (
        ({"alpha": 1}, ValueError, r"'alpha'.*Did you mean 'alphas'"),
        ({"scalings": ["row"]}, ValueError, r"'row'.*raw"),
        ({"n_components": [0]}, ValueError, "n_components"),
        ({"alphas": []}, ValueError, "alphas"),
        ({"alphas": ["1"]}, TypeError, "alphas"),
    ):
        with pytest.raises(error, match=message):
            RidgeConfig.from_dict(options)
    with pytest.raises(ValueError, match="paper"):
        RidgeConfig.preset("paper")


def test_is_found_by_name():
    assert isinstance(method("ridge"), Ridge)


def test_large_cohorts_are_projected_in_parts_to_the_same_features(cohort, monkeypatch):
    from hisdiff._training import _spots as module

    projection = module.Projection.fit(cohort, "raw", 200.0, 4)
    whole = projection.features(cohort[0], cohort[0].spots)
    monkeypatch.setattr(module, "_CHUNK", 50)
    np.testing.assert_allclose(projection.features(cohort[0], cohort[0].spots), whole, rtol=1e-6)
    monkeypatch.setattr(module, "_MAX_ROWS", 100)
    assert module.Projection.fit(cohort, "raw", 200.0, 4).axes.shape == (D, 4)
