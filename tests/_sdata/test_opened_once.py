"""A call of a public function reads every section, image and transformation once."""

from __future__ import annotations

from collections import Counter

import pytest

import hisdiff as hd
from hisdiff._sdata import _affine, _at, _locate, _read
from hisdiff.pp import _embed

QUICK = {"method": "ridge", "config": "baseline"}


@pytest.fixture
def look_ups(monkeypatch):
    """Count how often each section is read, and each element asked for its full resolution and its transformations."""
    counts, alive = Counter(), []

    def count(module, name, key_of):
        original = getattr(module, name)

        def counted(first, *args, **kwargs):
            alive.append(first)  # so that no other object gets its id
            counts[name, key_of(first)] += 1
            return original(first, *args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(_read, "read_section", lambda place: place.name)
    count(_read, "read_counts", id)
    count(_at, "_read", lambda place: place.name)
    count(_locate, "finest", id)
    count(_affine, "get_transformation", id)
    return counts


@pytest.fixture(autouse=True)
def encoder(monkeypatch, color_encoder):
    """Colours, which cost nothing, where an embedding is made on the way."""
    monkeypatch.setattr(_embed, "DEFAULT_ENCODER", color_encoder)
    return color_encoder


def calls(sdata, model):
    """Return calls of public functions on a section that nothing was done with before."""
    return {
        "embed": lambda: hd.pp.embed(sdata, _embed.DEFAULT_ENCODER),
        "grid": lambda: hd.pp.grid(sdata, 50),
        "fit": lambda: hd.tl.fit(sdata, **QUICK),
        "predict": lambda: hd.tl.predict(sdata, model),
        "predict, not in place": lambda: hd.tl.predict(sdata, model, inplace=False),
        "predict finer": lambda: hd.tl.predict(sdata, model, resolution_um=50),
        "predict at an element": lambda: hd.tl.predict(sdata, model, at=next(iter(sdata.shapes))),
        "embedding map": lambda: hd.pl.embedding_map(sdata),
        "evaluate": lambda: hd.tl.evaluate(sdata, layer="ridge"),
    }


@pytest.mark.parametrize("afresh", [True, False], ids=["missing parts are made", "all is there"])
def test_everything_is_looked_up_once_in_a_call(make_section, look_ups, afresh) -> None:
    model = hd.tl.fit(make_section("other", side=4), **QUICK)
    sdata = make_section("s1", side=4)
    hd.tl.fit(sdata, **QUICK)
    hd.tl.predict(sdata, model)
    for name in calls(sdata, model):
        new = afresh and name not in ("embedding map", "evaluate")
        call = calls(make_section("s1", side=4) if new else sdata, model)[name]
        look_ups.clear()
        call()
        often = {key: n for key, n in look_ups.items() if n > 1}
        assert not often, f"{name}: {often}"
        assert look_ups or name == "evaluate"


def test_a_lattice_and_an_outline_that_are_made_on_the_way_are_not_searched_for(make_section, look_ups) -> None:
    model = hd.tl.fit(make_section("other", side=4), **QUICK)
    only = make_section("s1", side=4)
    del only.tables["table"], only.shapes["s1"]
    look_ups.clear()
    hd.tl.predict(only, model)
    assert max(look_ups.values()) == 1
    assert "ridge" in only.tables["lattice"].layers


def test_a_comparison_opens_every_section_once_whatever_number_of_fits(make_section, look_ups) -> None:
    sections = [make_section(f"s{i}", seed=i, side=6) for i in range(3)]
    quick = {"n_draws": 2, "n_seeds": 2}
    hd.tl.cross_validate(sections, ["ridge"], **quick)
    assert max(look_ups.values()) == 1
    look_ups.clear()
    hd.tl.compare(sections[:2], sections[2], ["ridge"], **quick)
    assert max(look_ups.values()) == 1
    look_ups.clear()
    hd.tl.compare([], sections[0], ["tesla"], coarsen=3, **quick)
    assert look_ups["read_section", "s0"] == 2  # with its own spots, and with those that were merged
