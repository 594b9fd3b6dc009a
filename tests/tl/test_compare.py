from __future__ import annotations

import threading

import numpy as np
import pytest
import spatialdata as sd
from snapshot import snapshot

import hisdiff as hd
from hisdiff._sdata._layers import layer_names
from hisdiff._stats._metrics import within_groups
from hisdiff.tl._comparison import PSEUDO_SPOT, RANDOM_SPOTS
from hisdiff.tl._watch import Watch

STAGE = ("stage", {"max_steps": 10, "train_fraction": 1.0})
XFUSE = ("xfuse", {"image_mpp": 8, "levels": 2, "channels": 2, "patch_px": 32, "max_steps": 10, "n_metagenes": 2})


@pytest.fixture(scope="module")
def merged_table(make_section, tmp_path_factory):
    """Two sections whose spots were merged, refined by three methods with two seeds each."""
    sections = [make_section(f"s{i}", seed=i, side=8) for i in (1, 2)]
    before = [snapshot(sdata) for sdata in sections]
    with hd.settings.override(progress=False, cache_dir=tmp_path_factory.mktemp("cache")):
        table = hd.tl.compare([], sections, {"tesla": "tesla", "S": STAGE, "X": XFUSE}, coarsen=2, n_seeds=2, n_draws=2)
    assert [snapshot(sdata) for sdata in sections] == before
    return table


def test_an_unseen_section_is_judged_as_evaluate_judges_it(colored_sections) -> None:
    train, test = colored_sections[:2], colored_sections[2]
    before = [snapshot(sdata) for sdata in colored_sections]
    table = hd.tl.compare(train, test, ["ridge"], n_seeds=1, n_draws=4, rng=3)
    assert [snapshot(sdata) for sdata in colored_sections] == before
    assert list(table["method"]) == ["ridge", RANDOM_SPOTS]
    assert table.attrs["train"] == ["s0", "s1"]
    assert table.attrs["test"] == ["s2"]
    own, control = table.iloc[0], table.iloc[1]
    assert own["pcc_all"] > 0.3 > control["pcc_all"]
    assert own["energy_score"] < control["energy_score"]
    assert own[["fit_s", "predict_s", "peak_gb"]].min() > 0

    model = hd.tl.fit(train, method="ridge", rng=3)
    hd.tl.predict(test, model, n_draws=4, keep_draws=4, rng=3)
    summary = hd.tl.evaluate(test, layer="ridge").attrs["summary"]
    for name in ("pcc_all", "pcc_50", "mse", "mae", "energy_score", "coverage_90"):
        assert own[name] == pytest.approx(summary["mean"][name], rel=1e-5)
    for end, view in (("", "draw"), ("_norm", "draw_norm")):
        for name in ("rvd", "coexpression_mae", "coexpression_r", "moran_mae"):
            assert own[name + end] == pytest.approx(summary[view][name], rel=1e-4)


def test_spots_inside_pseudo_spots_are_predicted_by_every_kind_of_method(merged_table) -> None:
    rows = merged_table.groupby("method")
    assert set(rows.groups) == {"tesla", "S", "X", PSEUDO_SPOT}
    assert (rows.size() == 4).all()
    assert (merged_table["n_spots"] == 64).all()
    assert np.isfinite(merged_table.drop(columns=["fit_s", "predict_s", "peak_gb", "coverage_90"]).iloc[:, 3:]).all(
        axis=None
    )
    assert rows["has_draws"].all().to_dict() == {"tesla": False, "S": False, "X": True, PSEUDO_SPOT: False}
    # Shares of one count are the same in all of its spots.
    assert (rows.get_group(PSEUDO_SPOT)["pcc_within"].abs() < 1e-6).all()
    assert rows.get_group(PSEUDO_SPOT)["pcc_all"].min() > 0.2


def test_seeds_decide_where_anything_is_drawn_and_nowhere_else(merged_table) -> None:
    spread = merged_table.groupby(["method", "section"])["pcc_all"].agg(np.ptp)
    assert (spread[["tesla", PSEUDO_SPOT]] == 0).all()
    assert (spread[["S", "X"]] > 0).all()
    # Single values get the noise of counting, which is drawn.
    assert (merged_table.groupby(["method", "section"])["draw_pcc_all"].agg(np.ptp) > 0).all()


def test_sections_of_one_object_are_tasks_of_their_own(make_section) -> None:
    both = sd.concatenate([make_section(name, seed=i) for i, name in enumerate("ab")], concatenate_tables=True)
    table = hd.tl.compare([], both, ["tesla"], coarsen=3, n_seeds=1)
    assert table["section"].to_list() == ["a", "b", "a", "b"]
    assert (table["n_spots"] == 36).all()


def test_genes_selected_on_one_section_are_those_of_all_methods_and_sections(make_section, caplog) -> None:
    train, test = make_section("s1"), make_section("s2", seed=1)
    hd.pp.select_genes(train, genes=["A00", "B01", "A02", "B03", "A04"])
    test.tables["table"] = test.tables["table"][:, 1:].copy()
    table = hd.tl.compare(train, test, ["tesla"], coarsen=2, n_seeds=1)
    assert table.attrs["n_genes"] == 4
    assert (table["n_genes"] == 4).all()
    assert "no genes are selected" not in caplog.text
    assert "hisdiff_selected" not in test.tables["table"].var


def test_a_section_in_the_training_is_refused_whole_or_cropped(make_section) -> None:
    train, test = make_section("s1"), make_section("s2", seed=1)
    with pytest.raises(ValueError, match="among the training sections"):
        hd.tl.compare([train, test], test, ["stage"], coarsen=2)
    part = make_section("part")
    part.tables["table"] = part.tables["table"][:9].copy()
    for coarsen in (None, 2):
        with pytest.raises(ValueError, match="'part' is in the training: it shares spots with 's1'"):
            hd.tl.compare([train], [part], ["xfuse"], coarsen=coarsen)


@pytest.mark.parametrize(
    ("methods", "arguments", "error", "message"),
    [
        (["tesla"], {}, ValueError, "'tesla' refines the counts.*coarsen=2"),
        (["stage"], {}, ValueError, "'stage' refines"),
        (["rigde"], {}, ValueError, "Did you mean 'ridge'"),
        (["ridge", "ridge"], {}, ValueError, "named twice"),
        ([], {}, ValueError, "methods is empty"),
        ({"random spots": "ridge"}, {}, ValueError, "that of a control"),
        ({"a": ("xfuse", {"leves": 2})}, {}, ValueError, "'leves'.*'levels'"),
        (["ridge"], {"n_seeds": 0}, ValueError, "n_seeds"),
        (["ridge"], {"coarsen": 1}, ValueError, "at least 2"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(make_section, methods, arguments, error, message) -> None:
    train, test = make_section("s1"), make_section("s2", seed=1)
    before = snapshot(train), snapshot(test)
    with pytest.raises(error, match=message):
        hd.tl.compare(train, test, methods, **arguments)
    assert (snapshot(train), snapshot(test)) == before


def test_a_section_without_counts_cannot_be_judged(make_section) -> None:
    bare = sd.SpatialData(images={"he": make_section().images["s1_image"]})
    with pytest.raises(ValueError, match="no counts"):
        hd.tl.compare(make_section(), bare, ["xfuse"])


def test_an_ensemble_keeps_no_more_draws_than_it_has_members(make_section) -> None:
    sdata = make_section()
    model = hd.tl.fit(sdata, method="tesla", config={"step_um": 50})
    hd.tl.predict(sdata, model, resolution_um=50, n_draws=3, keep_draws=3)
    assert [name for name in layer_names(sdata.tables["tesla_50um"]) if "draw" in name] == ["draw0"]


def test_groups_lose_their_means() -> None:
    values = np.array([[1.0], [3], [10], [20]])
    np.testing.assert_array_equal(within_groups(values, np.array([7, 7, 2, 2])), [[-1], [1], [-5], [5]])


def test_the_peak_is_that_of_the_block_even_where_memory_is_given_back(monkeypatch) -> None:
    look, looked = Watch._look, threading.Event()
    monkeypatch.setattr(Watch, "_look", lambda self: (look(self), looked.set()))
    with Watch() as empty:
        pass
    with Watch() as watch:
        block = np.ones(40_000_000)
        looked.clear()
        assert looked.wait(60)
        del block
    assert watch.peak_gb > empty.peak_gb + 0.1
    assert watch.seconds > 0
