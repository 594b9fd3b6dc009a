"""Methods of one's own: by name, as an object, and what is refused."""

import pytest
from pages import run

import hisdiff as hd


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})


@pytest.fixture
def nearest():
    """The method of docs/contributing.md, registered."""
    return run("contributing.md", "Add a method", slice(1))["Nearest"]


def test_methods_of_the_package_are_listed_and_found():
    assert {"hisdiff", "ridge", "istar", "xfuse", "tesla", "stage"} <= set(hd.methods.list())
    for name in hd.methods.list():
        assert isinstance(hd.methods.get(name), hd.methods.Method)
        assert hd.methods.get(name).name == name


def test_an_object_is_as_good_as_a_name(nearest, monkeypatch):
    monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})
    sdata = hd.datasets.toy(size_um=400)
    model = hd.tl.fit(sdata, method=nearest())
    assert model.method == "nearest"
    hd.tl.predict(sdata)
    assert "nearest" in sdata.tables["table"].layers
    assert hd.tl.fit(sdata, method="nearest").id == model.id


def test_a_model_of_an_unknown_method_says_how_to_make_it_known(nearest, monkeypatch, tmp_path):
    hd.tl.fit(hd.datasets.toy(size_um=400), method="nearest", save=tmp_path / "m")
    monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})
    with pytest.raises(ValueError, match=r"'nearest'.*hd\.methods\.register"):
        hd.models.load(tmp_path / "m")


def test_a_name_is_given_once_and_a_cell_may_run_twice(nearest):
    again = run("contributing.md", "Add a method", slice(1))["Nearest"]
    assert type(hd.methods.get("nearest")) is again
    other = type("Other", (nearest,), {})
    with pytest.raises(ValueError, match="'nearest'"):
        hd.methods.register(other)
    with pytest.raises(ValueError, match="one of this package"):
        hd.methods.register(type("Mine", (nearest,), {"name": "ridge"}))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"name": "a/b"}, TypeError, "a/b"),
        ({"fit": None, "needs": frozenset({"pixels"})}, ValueError, "pixels"),
        ({"fitted_type": object}, TypeError, "predict"),
    ],
)
def test_what_is_no_method_is_refused(nearest, change, error, match):
    with pytest.raises(error, match=match):
        hd.methods.register(type("Mine", (nearest,), {"name": "mine", **change}))


@pytest.mark.parametrize("thing", [3, None, object(), dict])
def test_what_is_not_even_close_is_refused_before_any_work(thing):
    with pytest.raises(TypeError, match="method is a name or an object"):
        hd.tl.fit(hd.datasets.toy(size_um=400), method=thing)
