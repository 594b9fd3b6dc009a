import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from linear_sections import GENES, linear_section, log2
from scipy.sparse import csr_matrix

from hisdiff._stats._accuracy import pearson
from hisdiff._stats._counting import count_mean, count_rate
from hisdiff._stats._proper import coverage
from hisdiff._training._size_gauge import SizeGauge
from hisdiff.methods._registry import get as method
from hisdiff.methods.hisdiff import FactorConfig, FittedHisDiff, HisDiff
from hisdiff.methods.hisdiff.factor._model import Summary

TINY = FactorConfig(
    n_components=6, gammas=(0.6,), penalties=(1.0, 10.0), n_factors=3, n_condition=2, n_members=2, width=16, depth=1,
    max_steps=20, validate_every=10, batch_size=64, n_steps=3,
)  # fmt: skip


section = partial(linear_section, hidden=0.7)


@pytest.fixture(scope="module")
def cohort():
    return [section("A", 1), section("B", 2), section("C", 3)]


@pytest.fixture(scope="module")
def fitted(cohort) -> FittedHisDiff:
    return HisDiff().fit(cohort, TINY, device="cpu")


def predict(fitted, test, **options):
    return fitted.predict(test, test.spots, **{"n_draws": 4, "device": "cpu", **options})


def test_it_is_the_method_of_that_name():
    assert isinstance(method("hisdiff"), HisDiff)


def test_recovers_what_the_embedding_decides_and_knows_it_beforehand(fitted):
    test = section("T", 7)
    found = pearson(log2(test), predict(fitted, test).mean)
    assert found[:6].min() > 0.6
    assert abs(found[6]) < 0.25
    np.testing.assert_allclose(fitted.calibration.cv_pcc[:6], found[:6], atol=0.12)
    assert np.isnan(fitted.calibration.cv_pcc[7])


def test_draws_keep_the_variance_and_the_correlations_that_the_mean_loses(fitted):
    test = section("T", 7)
    prediction = predict(fitted, test, keep_draws=4)
    measured, drawn = log2(test)[:, :6], prediction.draws[:, :, :6]
    np.testing.assert_allclose(drawn.var(axis=1).mean(axis=0), measured.var(axis=0), rtol=0.4)
    upper = np.triu_indices(6, 1)
    off = lambda values: np.abs(np.corrcoef(values.T)[upper] - np.corrcoef(measured.T)[upper]).mean()  # noqa: E731
    assert np.mean([off(d) for d in drawn]) < 0.7 * off(prediction.mean[:, :6])


def test_interval_covers_nine_in_ten_of_a_new_section(fitted):
    test = section("T", 7)
    prediction = predict(fitted, test, n_draws=16)
    covered = coverage(log2(test), prediction.mean, prediction.std, fitted.calibration.interval_factor)
    assert 0.84 < covered[:7].mean() < 0.96


def test_same_seed_same_prediction_and_another_seed_another(fitted):
    test = section("T", 7)
    before = torch.random.get_rng_state()
    one, two, other = (predict(fitted, test, seed=s, keep_draws=1).draws for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0.1
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_draw_does_not_depend_on_how_many_are_made(fitted):
    test = section("T", 7)
    few, many = (predict(fitted, test, n_draws=n, keep_draws=2).draws for n in (2, 7))
    np.testing.assert_allclose(few, many, atol=1e-4)


def test_chunks_of_locations_do_not_show(fitted, monkeypatch):
    from hisdiff._prediction import _cohort_model as _fast

    test = section("T", 7)
    whole = predict(fitted, test)
    monkeypatch.setattr(_fast, "_CHUNK", 7)
    np.testing.assert_allclose(predict(fitted, test).mean, whole.mean, atol=1e-4)


def test_mean_is_that_of_the_draws_with_less_noise(fitted):
    test = section("T", 7)
    many = predict(fitted, test, n_draws=100, keep_draws=100)
    few = predict(fitted, test, n_draws=4, keep_draws=4)
    truth = many.draws.mean(axis=0)
    assert np.abs(many.mean - truth).mean() < 0.1
    assert np.square(few.mean - truth).mean() < 0.5 * np.square(few.draws.mean(axis=0) - truth).mean()


def test_counts_are_averaged_as_counts(fitted):
    test = section("T", 7)
    log, counts = (predict(fitted, test, n_draws=60, keep_draws=60, units=u) for u in ("log2", "counts"))
    np.testing.assert_allclose(counts.draws, np.exp2(log.draws) - 1, rtol=1e-4, atol=1e-3)
    wanted = counts.draws.mean(axis=0)
    assert np.corrcoef(counts.mean.ravel(), wanted.ravel())[0, 1] > 0.97
    np.testing.assert_allclose(counts.mean[:, :7].mean(axis=0), wanted[:, :7].mean(axis=0), rtol=0.15)
    assert (counts.mean >= 0).all()
    assert (log.draws >= 0).all()


def test_library_size_is_the_sections_own_where_it_has_counts_else_the_cohorts(fitted):
    shallow = section("S", 5, level=1.0)
    total = lambda p: np.median((np.exp2(p.draws[0]) - 1).sum(axis=1))  # noqa: E731
    own = predict(fitted, shallow, keep_draws=1)
    assert np.log2(total(own)) == pytest.approx(shallow.log2_size, abs=0.5)
    without = replace(shallow, counts=None, library_size=None)
    assert np.log2(total(predict(fitted, without, keep_draws=1))) == pytest.approx(fitted.generator.log2_size, abs=0.3)
    asked = predict(fitted, without, keep_draws=1, library_size=32.0)
    assert np.log2(total(asked)) == pytest.approx(5.0, abs=0.4)


def test_saved_and_restored_predicts_the_same(fitted):
    arrays, settings = fitted.state()
    back = FittedHisDiff.from_state(arrays, json.loads(json.dumps(settings)), fitted.genes)
    test = section("T", 7)
    one, two = predict(fitted, test, keep_draws=1), predict(back, test, keep_draws=1)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.draws, two.draws)


def test_steps_of_the_sampler_can_be_chosen(fitted):
    made = HisDiff().fit([section("A", 1)], replace(TINY, patience=None), device="cpu")
    for i, parameter in enumerate(made.generator.flow.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    test = section("T", 7)
    one, two = (predict(made, test, n_steps=n, keep_draws=1).draws for n in (1, 8))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize("n", [5, 6, 9])
def test_tiny_single_sections_fit(n):
    whole = section("A", 1, side=3)
    rows = np.arange(n)
    tiny = replace(whole, counts=whole.counts[rows], spots=whole.spots.take(rows)).with_panel(GENES)
    made = HisDiff().fit([tiny], TINY, device="cpu")
    assert np.isfinite(predict(made, tiny).mean).all()


@pytest.mark.parametrize("side", [5, 6, 7, 8])
def test_a_model_of_one_small_section_stays_in_range_on_another_that_looks_otherwise(side):
    # Up to 49 spots share all of their 49 anchors, some more nearly all: their mean differs between sections only.
    made = HisDiff().fit([section("A", 1, side=side)], TINY, device="cpu")
    test = section("T", 7, side=9, stain=0.5)
    mean = predict(made, test).mean
    assert np.abs(mean - log2(test).mean(axis=0)).max() < 8


def test_spots_without_counts_are_left_out_of_training_and_predicted():
    whole = section("A", 1)
    counts = whole.counts.toarray()
    counts[:10] = 0
    empty = replace(whole, counts=csr_matrix(counts)).with_panel(GENES)
    prediction = predict(HisDiff().fit([empty, section("B", 2)], TINY, device="cpu"), empty)
    assert prediction.mean.shape == counts.shape
    assert prediction.mean[:10, :6].mean() > 2


def test_sections_of_different_library_size_give_one_model():
    deep, shallow = section("A", 1), section("B", 2, level=1.5)
    made = HisDiff().fit([deep, shallow, section("C", 3)], TINY, device="cpu")
    found = pearson(log2(section("T", 7)), predict(made, section("T", 7)).mean)
    assert found[:6].min() > 0.5


def test_validation_sections_decide_and_are_what_is_known(cohort):
    watched = section("V", 8)
    made = HisDiff().fit(cohort[:2], TINY, validation=[watched], device="cpu")
    found = pearson(log2(watched), predict(made, watched, n_draws=16).mean)
    np.testing.assert_allclose(made.calibration.cv_pcc[:6], found[:6], atol=0.03)


def test_history_has_a_score_of_held_out_tissue_from_the_start(fitted):
    scores = [row["val_score"] for row in fitted.history]
    assert fitted.history[0]["step"] == 0
    assert np.isfinite(scores).all()
    assert len(scores) > 1


def test_of_many_spots_some_decide_when_to_stop_and_all_say_what_is_known(cohort, fitted, monkeypatch):
    monkeypatch.setattr("hisdiff.methods.hisdiff.factor._watched._MAX_ROWS", 100)
    monkeypatch.setattr("hisdiff.methods.hisdiff.factor._flow._LOOK_ROWS", 100)
    fewer = HisDiff().fit(cohort, TINY, device="cpu")
    assert fewer.history[0]["val_score"] == fitted.history[0]["val_score"] == 1  # normal scores
    assert fewer.history[1]["val_score"] != fitted.history[1]["val_score"]
    assert fewer.history[1]["val_score"] == pytest.approx(fitted.history[1]["val_score"], rel=0.2)
    np.testing.assert_array_equal(fewer.calibration.cv_pcc, fitted.calibration.cv_pcc)


def test_interrupted_fit_resumes_to_the_same_model(cohort, fitted, tmp_path, monkeypatch):
    import hisdiff._training._loop as training

    advance, calls = training._Run.advance, []

    def interrupted(run):
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(training._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HisDiff().fit(cohort, TINY, device="cpu", checkpoint=tmp_path / "c")
    monkeypatch.setattr(training._Run, "advance", advance)
    resumed = HisDiff().fit(cohort, TINY, device="cpu", checkpoint=tmp_path / "c", resume=True)
    for (name, one), two in zip(fitted.state()[0].items(), resumed.state()[0].values()):
        np.testing.assert_array_equal(one, two, err_msg=name)


def test_gauge_reads_the_library_size_of_means_and_brings_them_to_its_own():
    rng = np.random.default_rng(0)
    means = [rng.normal(4, 1, size=(50, 30)).clip(0) for _ in range(3)]
    log2_size = 9.0
    gauge = SizeGauge.fit(means, log2_size)
    assert np.mean([gauge.read(mean) for mean in means]) == pytest.approx(log2_size)
    moved = count_mean(means[0], -1.5)
    np.testing.assert_allclose(gauge.align(moved, moved), gauge.align(means[0], means[0]), atol=0.1)
    assert gauge.read(np.zeros((4, 30))) == log2_size
    assert count_rate(gauge.align(means[0][:5], means[0])).shape == (5, 30)


def test_summary_is_standard_on_training_and_bounded_elsewhere():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 9))
    summary = Summary.fit(means, np.ones(9), 5)
    values = summary(means)
    assert values.shape == (300, 2)  # there are no more than two directions
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.02)
    assert np.abs(summary(1e6 * means)).max() <= 4


@pytest.mark.real
@pytest.mark.slow
def test_no_worse_than_ridge_on_a_left_out_section(real_data):
    import hisdiff as hd

    *training, test = (hd.io.her2st(real_data / "her2st", name) for name in ("C2", "C4"))
    figures = {}
    # Few steps of the flow, which take the most time and change the least here; nothing below the spots is looked at.
    short = {"max_steps": 10, "validate_every": 10, "fine": False}
    for name, config in (("hisdiff", short), ("ridge", "baseline")):
        hd.tl.predict(test, hd.tl.fit(training, method=name, config=config), keep_draws=16)
        figures[name] = hd.tl.evaluate(test, layer=name).attrs["summary"]["mean"]
    assert figures["hisdiff"]["pcc_all"] > figures["ridge"]["pcc_all"] - 0.005
    assert figures["hisdiff"]["energy_score"] < figures["ridge"]["energy_score"]
