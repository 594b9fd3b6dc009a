"""The pages name every public function, and what writes into an object stands in the list of outputs."""

import importlib
import inspect
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
NAMESPACES = ["io", "datasets", "pp", "tl", "pl", "models", "encoders", "methods"]


def names(namespace):
    module = importlib.import_module(f"hisdiff.{namespace}")
    return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_has_a_page(namespace):
    page = (DOCS / "api" / f"{namespace}.md").read_text(encoding="utf8").split()
    missing = [name for name in names(namespace) if f"{namespace}.{name}" not in page]
    assert not missing, f"add them to docs/api/{namespace}.md: {missing}"


@pytest.mark.parametrize("namespace", ["pp", "tl"])
def test_every_function_that_writes_or_returns_stands_among_the_outputs(namespace):
    page = (DOCS / "outputs.md").read_text(encoding="utf8")
    missing = [name for name in names(namespace) if f"`{namespace}.{name}" not in page]
    assert not missing, f"add them to docs/outputs.md: {missing}"


def test_every_method_has_a_page():
    from hisdiff.methods._registry import BUILTIN

    assert not [name for name in BUILTIN if not (DOCS / "methods" / f"{name}.md").is_file()]
