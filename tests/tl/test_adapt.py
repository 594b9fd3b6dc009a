"""A new section of which a few spots are measured, on synthetic tissue."""

import logging

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._shallow_copy import shallow_copy
from hisdiff._stats._accuracy import mse
from hisdiff.tl._fit_job import other_data


@pytest.fixture(scope="module")
def cohort():
    return hd.datasets.toy(seed=1, n_sections=2, size_um=800)


@pytest.fixture(scope="module")
def model(cohort):
    return hd.tl.fit(cohort, method="ridge")


@pytest.fixture(scope="module")
def embedded():
    """A section in which some genes are more and others less than in the cohort, which no test changes."""
    sdata = hd.datasets.toy(seed=9, size_um=800)
    table = sdata.tables["table"]
    counts = table.X.toarray()
    counts[:, ::3] *= 4
    table.X = type(table.X)(counts)
    hd.pp.embed(sdata)
    return sdata


@pytest.fixture
def new(embedded):
    sdata = shallow_copy(embedded)
    sdata.tables["table"] = embedded.tables["table"].copy()
    sdata.shapes["toy"] = embedded.shapes["toy"].copy()
    return sdata


def log2(sdata, genes):
    return np.log2(1 + sdata.tables["table"][:, genes].X.toarray())


def test_a_few_spots_bring_the_levels_of_a_new_section(model, new, tmp_path):
    table = new.tables["table"]
    given = np.zeros(table.n_obs, dtype=bool)
    given[::6] = True
    table.obs["measured"] = given
    hd.tl.predict(new, model, key_added="before")
    adapted = hd.tl.adapt(model, new, spots="measured")
    assert model.n_adapted == 0
    assert adapted.n_adapted == given.sum()
    assert adapted.id != model.id
    hd.tl.predict(new, adapted, key_added="after")
    measured = log2(new, model.genes)[~given]
    before, after = (np.asarray(table[:, model.genes].layers[name])[~given] for name in ("before", "after"))
    assert mse(measured, after).mean() < 0.9 * mse(measured, before).mean()
    record = table.uns["hisdiff"]["predictions"]["after"]
    assert record["adapted"] == given.sum()
    assert record["library_size_from"] == ["adapted"]
    assert table.obs["after_uncertainty"].mean() < table.obs["before_uncertainty"].mean()
    again = hd.models.load(adapted.save(tmp_path / "m"))
    hd.tl.predict(new, again, key_added="again")
    np.testing.assert_allclose(table.layers["again"], table.layers["after"], atol=1e-5)
    twice = hd.tl.adapt(adapted, new, spots=given)
    assert twice.n_adapted == given.sum()  # a spot that is given twice weighs once


def test_spots_that_were_given_are_left_out_of_metrics(model, new, caplog):
    table = new.tables["table"]
    given = np.arange(table.n_obs) % 5 == 0
    hd.tl.predict(new, hd.tl.adapt(model, new, spots=given))
    np.testing.assert_array_equal(table.obs["ridge_given"], given)
    result = hd.tl.evaluate(new)
    assert (result.attrs["n_spots"], result.attrs["n_given"]) == ((~given).sum(), given.sum())
    assert not result.attrs["uses_section_counts"]
    assert "from the section's own counts" not in caplog.text
    hd.tl.predict(new, hd.tl.adapt(model, new))
    assert hd.tl.evaluate(new).attrs["uses_section_counts"]
    assert "from the section's own counts" in caplog.text
    neighbor = hd.datasets.toy(seed=10, size_um=800)  # spots at the same places, other counts
    hd.tl.predict(neighbor, hd.tl.adapt(model, new, spots=given))
    assert not neighbor.tables["table"].obs["ridge_given"].any()
    assert not neighbor.tables["table"].uns["hisdiff"]["predictions"]["ridge"]["uses_section_counts"]
    hd.tl.predict(new, model)
    assert "ridge_given" not in table.obs


def test_counts_of_other_spots_are_not_looked_at(model, new):
    table = new.tables["table"]
    given = np.zeros(table.n_obs, dtype=bool)
    given[:8] = True
    hd.tl.predict(new, hd.tl.adapt(model, new, spots=given), key_added="one")
    counts = table.X.toarray()
    counts[8:] = 3 * counts[8:] + 1
    table.X = type(table.X)(counts)
    hd.tl.predict(new, hd.tl.adapt(model, new, spots=given), key_added="two")
    np.testing.assert_array_equal(table.layers["one"], table.layers["two"])


def test_a_named_spot_without_counts_was_measured_and_unnamed_ones_were_not(model, new):
    table = new.tables["table"]
    counts = table.X.toarray()
    counts[:3] = 0
    table.X = type(table.X)(counts)
    named = np.arange(table.n_obs) < 8
    adapted = hd.tl.adapt(model, new, spots=named)
    assert adapted.n_adapted == 8
    fewer = hd.tl.adapt(model, new, spots=named & (counts.sum(axis=1) > 0))
    assert np.log2(adapted.fitted.cohort_model.given_library_size) < np.log2(
        fewer.fitted.cohort_model.given_library_size
    )
    hd.tl.predict(new, adapted)
    np.testing.assert_array_equal(table.obs["ridge_given"], named)
    assert hd.tl.adapt(model, new).n_adapted == table.n_obs - 3
    with pytest.raises(ValueError, match="none of them with counts"):
        hd.tl.adapt(model, new, spots=np.arange(table.n_obs) < 3)


@pytest.mark.parametrize(
    ("spots", "message"),
    [
        (lambda table: np.zeros(table.n_obs, dtype=bool), "No spot"),
        (lambda table: np.ones(3, dtype=bool), "one value for each"),
        (lambda table: [], "No spot of 'toy' is given"),
        (lambda table: np.linspace(0, 1, table.n_obs), "boolean|True or False"),
        (lambda table: "nothing", "nothing"),
        (lambda table: pd.Series(True, index=table.obs_names[1:]), r"index of spots= names .* none for \['toy_"),
        (lambda table: "region", r"obs\['region'\] of 'toy' has to be boolean.*such as \['toy'\]"),
        (lambda table: "in_part", r"missing at 1 of"),
        (lambda table: [table.obs_names[0], "nowhere"], "no spot of .* called 'nowhere'"),
    ],
)
def test_spots_that_cannot_be_given_are_named(model, new, spots, message):
    table = new.tables["table"]
    table.obs["in_part"] = np.array([None, *[True] * (table.n_obs - 1)], dtype=object)
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        hd.tl.adapt(model, new, spots=spots(table))


def test_names_of_spots_are_the_mask_of_these_spots_in_any_order(model, new):
    names = hd.tl.suggest_spots(new, model, 4, inplace=False)
    every = new.tables["table"].obs_names
    mask = pd.Series(every.isin(names), index=every)
    given = (names, mask.to_numpy(), mask, mask[::-1], mask.reset_index(drop=True))
    assert len({hd.tl.adapt(model, new, spots=spots).id for spots in given}) == 1


def test_spots_of_two_sections_are_all_known_and_another_depth_is_told(model, new, caplog):
    given = np.arange(new.tables["table"].n_obs) < 20
    adapted = hd.tl.adapt(model, new, spots=given)
    neighbor = shallow_copy(new)  # spots at the same places, other counts
    table = neighbor.tables["table"] = new.tables["table"][:, ::-1].copy()
    table.X = type(table.X)(np.random.default_rng(0).binomial(table.X.toarray().astype(int), 0.8).astype(float))
    both = hd.tl.adapt(adapted, neighbor, spots=given)
    assert "library size of" not in caplog.text
    for sdata in (new, neighbor):
        hd.tl.predict(sdata, both)
        np.testing.assert_array_equal(sdata.tables["table"].obs["ridge_given"], given)
    table.X = type(table.X)(np.random.default_rng(0).binomial(table.X.toarray().astype(int), 0.2).astype(float))
    hd.tl.adapt(adapted, neighbor, spots=given)
    assert "adapt the model that was fitted" in caplog.text


def test_one_section_of_several_is_chosen_by_its_shapes(model):
    parts = {key: hd.datasets.toy(seed=seed, size_um=500) for key, seed in (("a", 9), ("b", 10))}
    for part in parts.values():
        del part.tables["truth"], part.labels["toy_truth"]
    joined = sd.concatenate(parts, concatenate_tables=True)
    of_a = (joined.tables["table"].obs["region"] == "toy-a").to_numpy()
    for call in (hd.tl.adapt, lambda model, sdata: hd.tl.suggest_spots(sdata, model, 2)):
        with pytest.raises(ValueError, match=r"2 sections, \['toy-a', 'toy-b'\]; choose one with shapes_key="):
            call(model, joined)
    assert hd.tl.adapt(model, joined, spots=of_a, shapes_key="toy-a").n_adapted == of_a.sum()
    with pytest.raises(ValueError, match=f"{of_a.sum()} of {len(of_a)} are named, all of them of other sections"):
        hd.tl.adapt(model, joined, spots=of_a, shapes_key="toy-b")


def test_suggested_spots_are_not_among_those_that_the_model_was_given(model, new):
    table = new.tables["table"]
    given = np.arange(table.n_obs) >= 10
    adapted = hd.tl.adapt(model, new, spots=given)
    names = hd.tl.suggest_spots(new, adapted, 10, inplace=False)
    assert sorted(names) == sorted(table.obs_names[~given])
    with pytest.raises(ValueError, match=f"n=11 .*{table.n_obs}, of which the model was given {table.n_obs - 10}"):
        hd.tl.suggest_spots(new, adapted, 11)
    neighbor = hd.datasets.toy(seed=10, size_um=800)  # spots at the same places, another image
    assert len(hd.tl.suggest_spots(neighbor, adapted, 30, inplace=False)) == 30


def test_one_spot_is_enough_and_half_of_the_genes_too(model, new):
    table = new.tables["table"]
    one = np.arange(table.n_obs) == 5
    assert hd.tl.adapt(model, new, spots=one).n_adapted == 1
    kept = np.setdiff1d(table.var_names, model.genes[::3])
    new.tables["table"] = table[:, kept].copy()
    adapted = hd.tl.adapt(model, new)
    hd.tl.predict(new, adapted)
    known = new.tables["table"].var["ridge_modelled"].to_numpy()
    assert np.isfinite(new.tables["table"].layers["ridge"][:, known]).all()


def test_methods_without_it_and_the_cohort_itself_are_told(model, cohort, new, caplog):
    with caplog.at_level(logging.WARNING, logger="hisdiff"):
        hd.tl.adapt(model, cohort[0])
    assert "own training spots" in caplog.text
    fixed = hd.tl.fit(cohort, method="ridge", config="baseline")
    with pytest.raises(ValueError, match="cannot be adapted"):
        hd.tl.adapt(fixed, new)


def test_an_embedding_that_is_not_finite_is_named_before_any_work(model, new):
    new.tables["table"].obsm["hisdiff_embedding"][3] = np.nan
    for call in (lambda: hd.tl.adapt(model, new), lambda: hd.tl.predict(new, model)):
        with pytest.raises(ValueError, match="NaN or infinite values at 1 of"):
            call()


def test_suggested_spots_are_in_order_and_leave_less_open_than_the_first_ones(model, new):
    table = new.tables["table"]
    hd.tl.suggest_spots(new, model, 6)
    order = table.obs["hisdiff_suggested"].to_numpy()
    assert sorted(order[order > 0]) == list(range(1, 7))
    first = np.arange(table.n_obs) < 6
    left = []
    for spots in (order > 0, first):
        hd.tl.predict(new, hd.tl.adapt(model, new, spots=spots))
        left.append(table.obs["ridge_uncertainty"].mean())
    assert left[0] < left[1]
    with pytest.raises(ValueError, match="are asked for"):
        hd.tl.suggest_spots(new, model, table.n_obs + 1)


def test_patients_are_left_out_together_and_a_column_of_one_is_refused(cohort, tmp_path):
    for sdata, name in zip(cohort, ("p1", "p2")):
        sdata.tables["table"].obs["patient"] = name
    fitted = hd.tl.fit(cohort, method="ridge", patient_key="patient", save=tmp_path / "model")
    assert fitted.calibration.cv_pcc_norm.shape == fitted.genes.shape
    known, opened = hd.models.load(tmp_path / "model"), open_sections(cohort, needs=("counts",))
    assert known.id == fitted.id
    assert known.cohort.patients == (0, 1)
    assert not other_data(known, opened, ["one", "two"])
    assert other_data(known, opened) == ["2 patients were left out in turn, now sections"]
    for sdata in cohort:
        sdata.tables["table"].obs["patient"] = "p1"
    with pytest.raises(ValueError, match="names one patient, 'p1'"):
        hd.tl.fit(cohort, method="ridge", patient_key="patient")
    cohort[1].tables["table"].obs["patient"] = None
    with pytest.raises(ValueError, match=r"obs\['patient'\] of section 'toy2' is missing at"):
        hd.tl.fit(cohort, method="ridge", patient_key="patient")
    del cohort[1].tables["table"].obs["patient"]
    for call in (hd.tl.fit, hd.tl.cross_validate):
        with pytest.raises(KeyError, match=r"Section 'toy2' has no column obs\['patient'\].*leave patient_key out"):
            call(cohort, patient_key="patient")


def test_a_section_with_few_spots_is_told_to_be_one_for_adapt(cohort, new, caplog):
    new.tables["table"] = new.tables["table"][:4].copy()
    with caplog.at_level(logging.WARNING, logger="hisdiff"):
        hd.tl.fit([*cohort, new], method="ridge")
    assert "hd.tl.adapt" in caplog.text


def test_spots_at_one_place_another_width_and_too_few_genes_are_refused(model, new):
    table = new.tables["table"]
    spots = np.arange(table.n_obs) < 3
    stored = table.obsm["hisdiff_embedding"]
    table.obsm["hisdiff_embedding"] = stored[:, :-5]
    for call in (lambda: hd.tl.adapt(model, new, spots=spots), lambda: hd.tl.predict(new, model)):
        with pytest.raises(ValueError, match=f"{stored.shape[1] - 5}"):
            call()
    table.obsm["hisdiff_embedding"] = stored
    shapes = new.shapes["toy"]
    shapes.loc[shapes.index[:3], "geometry"] = shapes.geometry.iloc[0]
    with pytest.raises(ValueError, match="All 3 spots that are given of 'toy' lie at one place"):
        hd.tl.adapt(model, new, spots=spots)
    assert table.obsm["hisdiff_embedding"] is stored  # before any work
    few = new.tables["table"][:, np.setdiff1d(table.var_names, model.genes[: 2 * len(model.genes) // 3])].copy()
    new.tables["table"] = few
    with pytest.raises(ValueError, match=r"Only \d+ of the model's 120 genes"):
        hd.tl.adapt(model, new)
