from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from snapshot import snapshot

import hisdiff as hd
from hisdiff.tl import _comparison


@pytest.fixture
def cohort(colored_sections):
    """Three sections of two patients."""
    for sdata, patient in zip(colored_sections, "aab"):
        sdata.tables["table"].obs["patient"] = patient
    return colored_sections


@pytest.fixture
def predictions(monkeypatch) -> list:
    """What methods predicted, in order."""
    made, predict = [], _comparison.predicted_by

    def recording(*args, **kwargs):
        made.append(predict(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(_comparison, "predicted_by", recording)
    return made


def test_every_section_is_left_out_once_and_objects_stay_as_they_are(cohort) -> None:
    before = [snapshot(sdata) for sdata in cohort]
    table = hd.tl.cross_validate(cohort, ["ridge"], n_draws=4, n_seeds=2)
    assert [snapshot(sdata) for sdata in cohort] == before
    ridge = table[table["method"] == "ridge"]
    assert ridge[["fold", "section", "seed"]].to_numpy().tolist() == [
        [f"s{i}"] * 2 + [j] for i in range(3) for j in range(2)
    ]
    assert ridge["pcc_all"].min() > 0.3 > table.loc[table["method"] == "random spots", "pcc_all"].max()
    assert (ridge["module_crps"] < table.loc[table["method"] == "random spots", "module_crps"].to_numpy()).all()
    assert table.attrs["folds"] == {"s0": ["s0"], "s1": ["s1"], "s2": ["s2"]}
    assert hd.pl.comparison(table).axes[0].get_title(loc="left") == "Correlation, all genes"

    alone = hd.tl.compare(cohort[1:], cohort[0], ["ridge"], n_draws=4, n_seeds=1, library_size="cohort")
    assert set(table.columns) - set(alone.columns) == {"fold"}
    assert ridge["n_genes"].iloc[0] == 12


def test_nothing_of_a_left_out_section_reaches_a_method_but_its_image(cohort, predictions) -> None:
    """Its counts shuffled and tripled, a layer with the answer, genes selected on it: the prediction is the same."""
    hd.tl.cross_validate(cohort, ["ridge"], n_draws=2)
    table = cohort[2].tables["table"]
    table.X = table.X[np.random.default_rng(0).permutation(len(table))] * 3
    table.layers["ridge"] = table.X.copy()
    for sdata in cohort:
        sdata.tables["table"].var["hisdiff_selected"] = np.arange(12) < 3
    hd.tl.cross_validate(cohort, ["ridge"], n_draws=2)
    np.testing.assert_array_equal(predictions[2].mean, predictions[5].mean)
    assert len(predictions[5].genes) == 12


def test_the_library_size_of_the_section_is_used_only_where_it_is_asked_for(cohort, predictions) -> None:
    for size in ("cohort", "section"):
        hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, library_size=size)
    cohort[2].tables["table"].X = cohort[2].tables["table"].X * 3
    hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, library_size="section")
    *_, of_cohort, own, tripled = (predictions[i].mean.mean() for i in (2, 5, 8))
    assert own == pytest.approx(of_cohort, abs=0.3)
    assert tripled > own + 1


def test_patients_are_left_out_whole(cohort) -> None:
    table = hd.tl.cross_validate(cohort, ["ridge"], by="patient", n_draws=2)
    assert table.attrs["folds"] == {"a": ["s0", "s1"], "b": ["s2"]}
    ridge = table[table["method"] == "ridge"].set_index("fold")
    assert ridge["section"].to_dict() == {"a": "s0, s1", "b": "s2"}
    assert ridge["n_spots"].to_dict() == {"a": 128, "b": 64}


def test_fits_leave_patients_out_where_a_fold_leaves_several(cohort, make_section, color_encoder, monkeypatch) -> None:
    other = make_section("s3", seed=7, side=8)
    hd.pp.embed(other, color_encoder)
    other.tables["table"].obs["patient"] = "c"
    run, seen = _comparison.FitJob.run, []

    def recording(job, bounds, *args, **kwargs):
        seen.append("".join(bound.section.patient or "-" for bound in bounds))
        return run(job, bounds, *args, **kwargs)

    monkeypatch.setattr(_comparison.FitJob, "run", recording)
    hd.tl.cross_validate([*cohort, other], ["ridge"], by="patient", n_draws=2)
    hd.tl.cross_validate(cohort, ["ridge"], patient_key="patient", n_draws=2)
    assert seen == ["bc", "aac", "aab", "ab", "ab", "--"]


def test_sections_of_one_object_are_left_out_like_those_of_several(cohort, make_section, color_encoder) -> None:
    made = [make_section(f"s{i}", seed=i, side=8) for i in range(3)]
    joint = sd.concatenate(made, concatenate_tables=True)
    hd.pp.embed(joint, color_encoder)
    before = snapshot(joint)
    apart, together = (hd.tl.cross_validate(data, ["ridge"], n_draws=2) for data in (cohort, joint))
    assert snapshot(joint) == before
    np.testing.assert_allclose(together["pcc_all"], apart["pcc_all"], atol=1e-4)
    assert together["fold"].to_list() == apart["fold"].to_list()


def test_what_is_done_is_kept_and_not_done_again(cohort, tmp_path, monkeypatch) -> None:
    folder, fit, fits = tmp_path / "folds", _comparison.FitJob.run, []

    def interrupted(*args, **kwargs):
        fits.append(1)
        if len(fits) == 3:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(_comparison.FitJob, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, save=folder)
    table = hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, save=folder)
    assert len(fits) == 4
    again = hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, save=folder)
    assert len(fits) == 4
    pd.testing.assert_frame_equal(again, table)
    cohort[0].tables["table"].X = cohort[0].tables["table"].X * 2
    hd.tl.cross_validate(cohort, ["ridge"], n_draws=2, save=folder)
    assert len(fits) == 7


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (None, {"by": "patient_id"}, KeyError, r"'s0' has no column obs\['patient_id'\].*'patient'"),
        ("a", {"by": "patient"}, ValueError, r"All 3 sections have 'a' in obs\['patient'\]"),
        (list("ab") * 32, {"by": "patient"}, ValueError, r"2 values in section 's0', \['a', 'b'\]"),
        (None, {"methods": ["tesla"]}, ValueError, "refines the counts"),
        (None, {"library_size": 3000}, ValueError, "library_size is one of"),
        (None, {"genes": ["A00", "nope"]}, KeyError, "nope"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(cohort, change, arguments, error, message) -> None:
    if change is not None:
        for sdata in cohort:
            sdata.tables["table"].obs["patient"] = change
    before = [snapshot(sdata) for sdata in cohort]
    with pytest.raises(error, match=message):
        hd.tl.cross_validate(cohort, **{"methods": ["ridge"], **arguments})
    assert [snapshot(sdata) for sdata in cohort] == before


def test_one_section_and_sections_that_share_spots_are_refused(cohort, make_section, tmp_path) -> None:
    with pytest.raises(ValueError, match="There is one section, 's0'"):
        hd.tl.cross_validate(cohort[0], ["ridge"])
    part = make_section("part", side=8)
    part.tables["table"] = part.tables["table"][:9].copy()
    with pytest.raises(ValueError, match="'s0' is in the training: it shares spots with 'part'"):
        hd.tl.cross_validate([*cohort, part], ["ridge"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not a folder"):
        hd.tl.cross_validate(cohort, ["ridge"], save=tmp_path / "file")
