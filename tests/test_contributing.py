"""What docs/contributing.md says works when followed to the letter."""

import numpy as np
import pytest
from pages import run

import hisdiff as hd

PAGE = "contributing.md"


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})


def test_add_a_method():
    names = run(PAGE, "Add a method")
    table = names["test"].tables["table"]
    modelled = table.var["nearest_modelled"].to_numpy()
    assert np.isfinite(table.layers["nearest"][:, modelled]).all()
    assert "nearest_50um" in names["test"].tables
    again = hd.models.load(names["train"].attrs["hisdiff"]["model"]["path"])
    hd.tl.predict(names["test"], again, key_added="again")
    np.testing.assert_array_equal(table.layers["again"][:, modelled], table.layers["nearest"][:, modelled])


def test_add_an_encoder():
    names = run(PAGE, "Add an encoder")
    assert names["sdata"].tables["table"].uns["hisdiff"]["embedding"]["encoder"] == "mean-colour"
    assert "hisdiff" in names["sdata"].tables["table"].layers


def test_add_a_denoiser(monkeypatch):
    from hisdiff._nn._denoisers import DENOISERS

    monkeypatch.setitem(DENOISERS, "residual", None)  # taken out again after the test
    names = run(PAGE, "Add a denoiser")
    table = names["test"].tables["table"]
    assert np.isfinite(table.layers["hisdiff"][:, table.var["hisdiff_modelled"]]).all()
    assert names["model"].config["denoiser"] == "residual"
