"""Examples of the public functions run as they stand, and docstrings have the parts that a reader looks for."""

import doctest
import importlib
import inspect

import pytest

NAMESPACES = ["io", "datasets", "pp", "tl", "pl", "models", "encoders", "methods"]


def public():
    for namespace in NAMESPACES:
        module = importlib.import_module(f"hisdiff.{namespace}")
        for name in module.__all__:
            thing = getattr(module, name)
            if not inspect.ismodule(thing):
                yield f"{namespace}.{name}", thing


THINGS = [pytest.param(thing, id=name) for name, thing in public()]


def test_public_functions_have_an_example_and_say_what_they_return():
    for name, function in public():
        if not inspect.isfunction(function):
            continue
        sections = inspect.getdoc(function).split("\n")
        assert "Examples" in sections, name
        assert "Returns" in sections or "Yields" in sections or sections[0].startswith("Return "), name
        if "Parameters" in sections:
            assert sections.index("Parameters") < sections.index("Returns") < sections.index("Examples"), name


@pytest.mark.slow
@pytest.mark.parametrize("thing", THINGS)
def test_example_runs_as_it_stands(thing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hisdiff.methods._registry._REGISTERED", {})
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(thing, globs={}):
        runner.run(test)
    assert runner.failures == 0, capsys.readouterr().out
