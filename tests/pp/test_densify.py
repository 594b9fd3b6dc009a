from __future__ import annotations

import numpy as np
import pytest
from snapshot import snapshot

import hisdiff as hd
from hisdiff._sdata._read import open_sections


def test_a_square_array_is_filled_half_way_inside_the_tissue(make_section) -> None:
    sdata = make_section(side=5)
    hd.pp.densify(sdata)
    made = sdata.shapes["s1_dense"]
    spots = open_sections(sdata)[0].section.spots
    assert made.index[:25].equals(sdata.tables["table"].obs_names)
    assert made["generated"].to_list() == [False] * 25 + [True] * (len(made) - 25)
    assert (made["radius"] == 25).all()  # 1 um per pixel
    xy = np.column_stack([made.geometry.x, made.geometry.y])
    np.testing.assert_allclose(xy[:25], spots.xy_um)
    steps = (xy - spots.xy_um[0]) / 50  # of half a pitch
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    assert len(np.unique(np.round(steps), axis=0)) == len(made)
    assert 25 + 2 * 20 + 16 <= len(made) <= 25 + 75


def test_a_hexagonal_array_grows_to_three_times_its_spots() -> None:
    sdata = hd.datasets.toy(size_um=900)
    hd.pp.densify(sdata)
    made = sdata.shapes["toy_dense"]
    assert 2.2 < len(made) / sdata.tables["table"].n_obs < 3.2


def test_random_points_follow_the_seed_and_replace_those_of_an_earlier_call(make_section) -> None:
    sdata = make_section()
    found = []
    for seed in (0, 0, 1):
        hd.pp.densify(sdata, "random", density=3, rng=seed)
        found.append(sdata.shapes["s1_dense"].geometry.x.to_numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert len(found[2]) != len(found[0]) or not np.array_equal(found[2], found[0])


def test_stage_predicts_new_points_and_new_levels_between_stacked_sections(make_section) -> None:
    stack = [make_section(f"s{i}", seed=i) for i in (1, 2)]
    for height, sdata in zip((0.0, 10.0), stack):
        sdata.tables["table"].obs["z_um"] = height
    hd.pp.select_genes(stack, genes=list(stack[0].tables["table"].var_names))
    model = hd.tl.fit(stack, method="stage", config={"max_steps": 30})
    assert [known.z_um for known in model.fitted.frame.sections] == [0, 10]
    lower = stack[0]
    hd.pp.densify(lower)
    for height in (0, 5, 10):
        hd.pp.densify(lower, "none", z_um=height)
        hd.tl.predict(lower, model, at=f"s1_{height}um")
    hd.tl.predict(lower, model, at="s1_dense")
    assert np.isfinite(lower.tables["stage_s1_dense"].X).all()
    own, middle, upper = (lower.tables[f"stage_s1_{height}um"].X for height in (0, 5, 10))
    np.testing.assert_allclose(lower.tables["stage_s1_dense"].X[:36], own, rtol=1e-5)
    assert not np.allclose(own, middle)
    assert np.abs(middle - own).mean() < np.abs(upper - own).mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pattern": "hex"}, "pattern is one of"),
        ({"pattern": "random", "density": 1}, "density"),
        ({"z_um": float("nan")}, "z_um"),
        ({"key_added": "s1"}, "did not write"),
    ],
)
def test_wrong_arguments_are_refused(make_section, arguments, message) -> None:
    sdata = make_section()
    before = snapshot(sdata)
    with pytest.raises(ValueError, match=message):
        hd.pp.densify(sdata, **arguments)
    assert snapshot(sdata) == before


def test_sections_without_an_array_or_with_levels_mixed_are_refused(make_section) -> None:
    sdata = make_section()
    del sdata.tables["table"].obs["array_row"]
    with pytest.raises(ValueError, match="pattern='random'"):
        hd.pp.densify(sdata)
    hd.pp.densify(sdata, "none", z_um=5)
    sdata.shapes["s1_5um"]["z_um"] = np.arange(36.0)
    model = hd.tl.fit(sdata, method="stage", config={"max_steps": 2})
    with pytest.raises(ValueError, match="several heights"):
        hd.tl.predict(sdata, model, at="s1_5um")
