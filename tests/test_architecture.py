"""The layout of the package: imports go down the levels or left, the root is light, the public API is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hisdiff
from hisdiff import _docs

ROOT = Path(hisdiff.__file__).parent
# Level of each part of the package; inside a level the order of the second number holds.
LEVELS = {
    "_keys": (0, 0), "_runtime": (0, 1), "_log": (0, 0), "_settings": (0, 0), "_check": (0, 0), "_arguments": (0, 1), "_device": (0, 0), "_docs": (0, 0), "_files": (0, 0), "_cores": (0, 0), "_sent_work": (0, 1), "_workers": (0, 1), "_json": (0, 0), "_libc": (0, 0), "_compiled": (0, 0), "_kept": (0, 0),
    "_section": (1, 0), "_geometry": (1, 0), "_stats": (1, 0),
    "encoders": (2, 0), "_sdata": (2, 1), "_stream": (2, 1),
    "_nn": (3, 0), "_diffusion": (3, 0), "_training": (3, 1), "_prediction": (3, 2),
    "methods": (4, 0),
    "io": (5, 0), "datasets": (5, 1), "pp": (5, 2), "models": (5, 3), "tl": (5, 4), "pl": (5, 5),
    "_cli": (6, 0), "__main__": (7, 0), "__init__": (7, 0),
}  # fmt: skip
# Side by side: none of these imports another.
APART = {("pl", "tl"), ("_nn", "_diffusion"), ("_diffusion", "_nn")}
NAMESPACES = ["io", "datasets", "pp", "tl", "pl", "models", "encoders", "methods"]
# Where torch may be loaded with the module.
TORCH = ("methods", "encoders", "_nn", "_diffusion", "_training", "_prediction")


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return what a module imports, anywhere in it and for types alone as well."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_imports_go_down_the_levels_or_left() -> None:
    for path in modules():
        part = part_of(path)
        if part in ("__init__", "__main__"):
            continue
        for name in imports(path):
            if not name.startswith("hisdiff."):
                continue
            other = name.split(".")[1]
            if other in LEVELS and other != part:
                assert LEVELS[other] <= LEVELS[part], f"{path} imports {other}, which is above it"
                assert (part, other) not in APART, f"{path}: {part} and {other} stand beside each other"


def test_no_imports_go_in_circles() -> None:
    """Nor do those for types alone: two modules that need each other are one, or share a third."""
    names = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in modules()
    }

    def needed(name: str) -> set[str]:
        found = {other if other in names else other.rpartition(".")[0] for other in imports(names[name])}
        return (found & set(names)) - {name, "hisdiff"}

    waiting = {name: needed(name) for name in names if name != "hisdiff"}
    while ready := {name for name, others in waiting.items() if not others & set(waiting)}:
        waiting = {name: others for name, others in waiting.items() if name not in ready}
    assert not waiting, f"these go in circles, or need some that do: {sorted(waiting)}"


def test_methods_do_not_import_each_other() -> None:
    for path in (ROOT / "methods").glob("*/**/*.py"):
        own = path.relative_to(ROOT / "methods").parts[0]
        others = [name.split(".")[2] for name in imports(path) if name.startswith("hisdiff.methods.")]
        assert {other for other in others if not other.startswith("_")} <= {own}, f"{path} imports another method"


def test_torch_is_imported_at_module_level_only_where_networks_live() -> None:
    for path in modules():
        parts = path.relative_to(ROOT).parts
        if parts[0] in TORCH and parts[1:] != ("__init__.py",):
            continue
        tree = ast.parse(path.read_text(encoding="utf8"))
        top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = [a.name for n in top if isinstance(n, ast.Import) for a in n.names] + [
            n.module or "" for n in top if isinstance(n, ast.ImportFrom)
        ]
        assert not [n for n in names if n.split(".")[0] in {"torch", "timm"}], path


def test_layers_are_listed_by_one_helper() -> None:
    """From anndata 0.13 on iterating over layers yields None as well: elsewhere they are only looked up, set and deleted."""

    def listed(path: Path) -> list[int]:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf8"))))
        looked_up = [node.value for node in nodes if isinstance(node, ast.Subscript)]
        looked_up += [right for node in nodes if isinstance(node, ast.Compare) for right in node.comparators]
        layers = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "layers"]
        return [node.lineno for node in layers if node not in looked_up and ast.unparse(node) != "timm.layers"]

    found = {str(path.relative_to(ROOT)): listed(path) for path in modules() if path.name != "_layers.py"}
    assert not {path: lines for path, lines in found.items() if lines}


def test_one_module_each_knows_transformations_annotations_and_what_hisdiff_wrote() -> None:
    homes = {
        r"\bget_transformation\(|linalg\.inv\(": (
            "_sdata/_affine.py",
            "io/",
            "encoders/_texture_filters.py",
            "methods/xfuse/",
        ),
        r"spatialdata_attrs|ATTRS_KEY|\"instance_id\"": ("_sdata/_annotation.py", "_keys.py", "io/"),
        r"\bctypes\b": ("_libc.py",),
        r"that hisdiff did not write, \{": ("_sdata/_provenance.py",),
        r"\.uns\.get\(_keys\.STEM, \{\}\)\.get\(_keys\.MADE_BY": ("_sdata/_provenance.py",),
    }
    for path in modules():
        place, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf8")
        for pattern, allowed in homes.items():
            assert place.startswith(allowed) or not re.search(pattern, text), f"{place} has {pattern!r}"


def test_nothing_is_pickled() -> None:
    for path in modules():
        pickles = {name for name in imports(path) if name.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill"}}
        assert not pickles - {"pickle.UnpicklingError"}, path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "np.load"}:
                safe = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}[ast.unparse(node.func)]
                assert safe in [ast.unparse(keyword) for keyword in node.keywords], f"{path}: {ast.unparse(node)}"


# Modules that read or write JSON, records in ``uns`` or notes of stores, by folder: there names lead to plain values.
JSON_BORDER = {
    "": ["_section.py", "_stream.py"],
    "_cli": ["_commands.py", "_inputs.py", "_reproduce.py", "_resume.py"],
    "_sdata": ["_annotation.py", "_features.py", "_grid.py", "_journal.py", "_panel.py", "_provenance.py", "_store.py"],
    "_training": ["_config.py", "_loop.py", "_spread.py"],
    "encoders": ["_conch.py", "_timm.py"],
    "io": ["_build.py", "_hest.py", "_spaceranger.py"],
    "methods": ["_base.py"],
    "methods/xfuse": ["config.py"],
    "models": ["_model.py"],
    "pl": ["_canvas.py", "_matrices.py"],
    "tl": [
        "_coexpression.py",
        "_coexpression_agreement.py",
        "_edge_core.py",
        "_enrich.py",
        "_evaluate.py",
        "_predict_fine.py",
        "_predict_job.py",
        "_predict_write.py",
        "_regions.py",
        "_tls.py",
        "_transfer.py",
    ],
}


def test_mappings_of_anything_stand_at_the_border_to_json_alone() -> None:
    """Elsewhere a record is a dataclass or a TypedDict, so that a misspelt name is found before it runs.

    Plots hand keyword arguments to matplotlib.
    """
    border = {str(Path(folder) / name) for folder, names in JSON_BORDER.items() for name in names} | {"_json.py"}
    for path in modules():
        place, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf8")
        assert "dict[str, Any]" not in text or place == "_json.py" or place.startswith("pl/"), place
        assert not re.search(r"\bPlain\b", text) or place in border, f"{place} is not listed as a border to JSON"


def test_files_are_short() -> None:
    lengths = {str(path): path.read_text(encoding="utf8").count("\n") for path in modules()}
    assert not {path: n for path, n in lengths.items() if n > 400}


def test_slot_names_have_one_home() -> None:
    """Names of slots are constants and functions of ``_keys``; no other module writes one out, but in prose and examples."""

    def listed(path: Path) -> list[str]:
        tree = ast.parse(path.read_text(encoding="utf8"))
        names = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        return [name for name in names if re.fullmatch(r"hisdiff_\w+", name)]

    found = {str(path.relative_to(ROOT)): listed(path) for path in modules() if path.name != "_keys.py"}
    assert not {path: names for path, names in found.items() if names}


def test_importing_hisdiff_loads_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import hisdiff; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == {"hisdiff"}


WITHOUT_SPATIALDATA = """
import importlib, importlib.abc, pkgutil, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"spatialdata", "anndata", "scanpy", "squidpy", "zarr", "dask", "xarray", "geopandas", "skimage"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
for part in "_section _geometry _stats _nn _diffusion _training _prediction methods".split():
    module = importlib.import_module(f"hisdiff.{part}")
    for inside in pkgutil.walk_packages(getattr(module, "__path__", []), f"{module.__name__}."):
        importlib.import_module(inside.name)
"""


def test_methods_and_what_they_stand_on_need_no_spatialdata() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_SPATIALDATA], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_every_public_name_exists_and_is_documented() -> None:
    for name in NAMESPACES:
        module = importlib.import_module(f"hisdiff.{name}")
        assert inspect.getdoc(module), name
        for public in module.__all__:
            thing = getattr(module, public)
            assert inspect.getdoc(thing), f"hd.{name}.{public} has no docstring"


def public_functions() -> list[tuple[str, object]]:
    found = []
    for name in ["io", "datasets", "pp", "tl", "pl", "models"]:
        module = importlib.import_module(f"hisdiff.{name}")
        found += [(f"{name}.{n}", getattr(module, n)) for n in module.__all__ if inspect.isfunction(getattr(module, n))]
    return found


def test_signatures_follow_the_conventions() -> None:
    for name, function in public_functions():
        parameters = inspect.signature(function).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert len(positional) <= 3, f"{name} takes more than three positional arguments"
        optional = [p.name for p in positional if p.default is not p.empty]
        assert len(optional) <= 1 or name in ("io.from_anndata", "pl.uncertainty_map"), (
            f"{name} takes {optional} by position: options are keywords"
        )
        assert all(p.annotation is not p.empty for p in parameters), f"{name} has an argument without a type"
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty, name
        usual = {"seed_everything", "random_state", "verbose", "save_path", "copy"}
        assert not {p.name for p in parameters} & usual, name


def parameters_of(function: object) -> list[str]:
    """Return the names that the numpydoc section *Parameters* of a docstring describes."""
    lines = (inspect.getdoc(function) or "").split("\n")
    if "Parameters" not in lines:
        return []
    body = lines[lines.index("Parameters") + 2 :]
    end = next((i for i, line in enumerate(body[1:]) if re.fullmatch("-+", line)), len(body))
    heads = [line for line in body[:end] if re.fullmatch(r"[\w*]+(, [\w*]+)*", line)]
    return [name.strip("*") for head in heads for name in head.split(", ")]


def test_docstrings_describe_every_argument() -> None:
    wrong = {}
    for name, function in public_functions():
        arguments, described = list(inspect.signature(function).parameters), parameters_of(function)
        if sorted(arguments) != sorted(described):
            wrong[name] = set(arguments) ^ set(described)
    assert not wrong


def test_shared_descriptions_are_filled_in_and_all_used() -> None:
    used = set()
    for path in modules():
        used |= set(re.findall(r"^ *%\((\w+)\)s$", path.read_text(encoding="utf8"), re.MULTILINE))
    assert used == set(_docs.PARAMETERS)
    unfilled = [name for name, function in public_functions() if "%(" in (inspect.getdoc(function) or "")]
    assert not unfilled


def test_the_root_lists_its_namespaces_and_rejects_others() -> None:
    assert set(hisdiff.__all__) <= set(dir(hisdiff))
    with pytest.raises(AttributeError, match="no attribute 'tools'"):
        _ = hisdiff.tools


def test_ci_tests_the_installed_wheel_and_not_the_checkout() -> None:
    if "HISDIFF_TEST_INSTALLED" not in os.environ:
        pytest.skip("any copy of the package may be tested outside CI")
    assert Path(__file__).parents[1] not in ROOT.parents
    assert (ROOT / "py.typed").is_file()


def test_arguments_of_every_public_function_are_checked_at_the_door() -> None:
    for space in NAMESPACES:
        module = getattr(hisdiff, space)
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function) and inspect.signature(function).parameters and space != "methods":
                assert hasattr(function, "__wrapped__"), f"{space}.{name} has no @checked"
