"""Malformed calls of every public function: one clear error from hisdiff, nothing changed, nothing that cannot be stored.

    HISDIFF_MALFORMED=1500 pytest tests/test_malformed.py

tries more of them than the suite does.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import os
import random
import signal
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from snapshot import snapshot
from spatialdata import SpatialData

import hisdiff as hd
from hisdiff._arguments import Kind, kinds_of

N_CALLS = int(os.environ.get("HISDIFF_MALFORMED", "300"))
LONGEST_S = 300  # a report takes ten seconds of a processor that others may use as well
SPACES = ("io", "datasets", "pp", "tl", "pl", "models", "encoders")
PACKAGE = str(Path(hd.__file__).parent)

NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1e300,
    -1e-9,
    10**30,
    "5",
    True,
    None,
    [1],
    1j,
    150.5,
    np.nan,
    b"1",
    {},
]
STRINGS = [
    5,
    b"raw",
    "",
    " ",
    "a/b",
    "..",
    "x\0y",
    ["s1"],
    math.nan,
    object(),
    "nothing of that name",
    True,
    ("a", "b"),
    "é" * 300,
]
SEQUENCES = ["TUM", 5, [1, 2], [None], {"a": 1}, [["A"]], [""], math.nan, object(), [], "", ["nothing of that name"]]
PATHS = [
    5,
    b"raw",
    "",
    "x\0y",
    ["a"],
    math.nan,
    "/dev/null",
    "FIFO",
    "FOLDER",
    "TEXT",
    "/nowhere/at/all",
    True,
    "é" * 5000,
]
FLAGS = ["yes", 1, 0, [], math.nan, "False", None]
RNGS = [-1, 1.5, "seed", True, math.nan, [1], 2**200, None]
DEVICES = ["cuda:99", "gpu", 5, "", "mps:7", math.nan, ["cpu"], b"cpu"]
MAPPINGS = [5, "x", [], {1: 2}, {"a": 5}, {"a": [None]}, {}, {"a": math.nan}, [("a", "b")], {"": []}, {"nope": "x"}]
OBJECTS = [
    None,
    5,
    "section.zarr",
    [],
    [None],
    {},
    object(),
    np.zeros((3, 3)),
    pd.DataFrame(),
    b"",
    [5, 5],
    SpatialData(),
]


def values_for(name: str, kinds: tuple[Kind, ...]) -> list[Any]:
    """Return what may be wrong for an argument."""
    known = {kind.name for kind in kinds}
    if name in ("data", "sdata", "train", "test", "validation", "control", "adata", "table"):
        return OBJECTS
    if name in ("rng", "seed"):
        return RNGS
    if name == "device":
        return DEVICES
    if name == "config":
        return [*MAPPINGS, *OPTIONS]
    if name == "model":
        return [*PATHS, *OBJECTS]
    found: list[Any] = []
    for wanted, values in (
        ({"int", "float"}, NUMBERS),
        ({"Path"}, PATHS),
        ({"str", "Literal"}, STRINGS),
        ({"Sequence", "Iterable", "tuple"}, SEQUENCES),
        ({"Mapping", "dict"}, MAPPINGS),
        ({"bool"}, FLAGS),
    ):
        if known & wanted:
            found += values
    return found or [5, math.nan, b"raw", [None], object()]


OPTIONS = [
    {name: value}
    for name in ("n_blocks", "alphas", "n_components", "scalings", "nope")
    for value in (math.nan, -1, "x", [], None, 1e9)
]


def prepared(make_section, home: Path) -> SpatialData:
    """Return a section with all that functions ask for, and a model that was fitted on it."""
    sdata = make_section(side=5)
    hd.pp.select_genes(sdata)
    hd.pp.embed(sdata)
    hd.tl.fit(sdata, method="ridge", save=home / "model")
    hd.tl.predict(sdata, n_draws=2)
    hd.tl.predict(sdata, resolution_um=100, n_draws=2)
    table = sdata.tables["ridge_100um"]
    hd.tl.cluster_cells(table, 2, min_bins=1)
    hd.tl.cell_types(table, {"a": ["A00"], "b": ["B01"]})
    hd.tl.coexpression(sdata, layer="ridge", modules=None)
    hd.tl.marker_regions(sdata, ["A00"], table_key="ridge_100um", working_px=30)
    hd.tl.enrich(sdata, {"s": ["A00", "A02"]}, layer="ridge", by=None, method="ssgsea", min_size=1)
    return sdata


def arguments_of(space: str, name: str, sdata: SpatialData, home: Path) -> dict[str, Any] | None:
    """Return arguments that a function can be called with."""
    table = sdata.tables["table"]
    sets = {"s": ["A00", "A02"]}
    known: dict[str, dict[str, Any]] = {
        "io.from_anndata": {"adata": table, "image": np.zeros((200, 200, 3), np.uint8), "mpp": 1.0},
        "io.adopt": {"sdata": sdata},
        "datasets.toy": {"size_um": 300.0},
        "pp.grid": {"data": sdata, "resolution_um": 100.0},
        "tl.compare": {"train": sdata, "test": sdata, "coarsen": 2, "methods": ("ridge",), "n_seeds": 1, "n_draws": 2},
        "tl.fit": {"data": sdata, "method": "ridge", "save": home / "again"},
        "tl.predict": {"data": sdata, "model": home / "model", "n_draws": 2},
        "tl.evaluate": {"data": sdata, "layer": "ridge"},
        "tl.rebin": {"sdata": sdata, "from_": "ridge_100um", "to": 200.0},
        "tl.region_contrast": {"sdata": sdata, "by": "hisdiff_region", "a": "x", "model": home / "model"},
        "tl.marker_regions": {"sdata": sdata, "markers": ["A00"], "table_key": "ridge_100um", "working_px": 30},
        "tl.tls_score": {
            "sdata": sdata,
            "programmes": {"a": ["A00"]},
            "table_key": "ridge_100um",
            "n_required": 1,
            "working_px": 30,
        },
        "tl.edge_core": {"sdata": sdata, "table_key": "ridge_100um"},
        "tl.cluster_cells": {"data": sdata, "n_clusters": 2, "min_bins": 1},
        "tl.marker_scores": {"data": sdata, "markers": {"a": ["A00"]}},
        "tl.cell_types": {"data": sdata, "markers": {"a": ["A00"], "b": ["B01"]}},
        "tl.coexpression": {"data": sdata, "layer": "ridge", "modules": None},
        "tl.coexpression_agreement": {"data": sdata, "layers": "ridge"},
        "tl.pathway_agreement": {"data": sdata, "gene_sets": sets, "layers": "ridge", "min_size": 1},
        "tl.enrich": {"data": sdata, "gene_sets": sets, "layer": "ridge", "method": "ssgsea", "min_size": 1},
        "pl.gene_map": {"sdata": sdata, "genes": "A00", "layers": "ridge"},
        "pl.uncertainty_map": {"sdata": sdata, "genes": "A00", "layer": "ridge"},
        "pl.gene_pair": {"sdata": sdata, "x": "A00", "y": "B01", "layers": "ridge"},
        "pl.pathway_map": {"data": sdata, "pathways": "s"},
        "pl.training": {"model": hd.models.load(home / "model")},
        "pl.comparison": {"table": pd.DataFrame()},
        "pl.evaluation": {"data": sdata, "layer": "ridge"},
        "pl.gsea": {"data": sdata, "term": "s"},
        "models.load": {"path_or_hub_id": home / "model"},
        "models.load_reference_checkpoint": {"path": home / "none.pt", "genes": ["A00"]},
        "encoders.get": {"encoder": "texture"},
        "datasets.hest": {"ids": "her2st", "path": home / "hest"},
    }
    if f"{space}.{name}" in known:
        return known[f"{space}.{name}"]
    parameters = list(inspect.signature(getattr(getattr(hd, space), name)).parameters.values())
    if not parameters:
        return None
    required = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if space == "io":
        return {name: str(home / "none") for name in required}
    given = {"sdata": sdata, "data": sdata}
    return {name: given.get(name, "x") for name in required}


def all_calls() -> list[tuple[str, str, str, int]]:
    """Return every function, argument and number of a value that may be wrong for it."""
    found = []
    for space in SPACES:
        for name in getattr(hd, space).__all__:
            function = getattr(getattr(hd, space), name)
            if not inspect.isfunction(function):
                continue
            for parameter in inspect.signature(function).parameters.values():
                if parameter.kind is not parameter.VAR_KEYWORD and (space, parameter.name) != ("datasets", "ids"):
                    n = len(values_for(parameter.name, kinds_of(str(parameter.annotation))))
                    found += [(space, name, parameter.name, k) for k in range(n)]
    return found


@contextlib.contextmanager
def at_most(seconds: int):
    def stop(number: int, frame: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(call: Any, sdata: SpatialData, home: Path) -> str | None:
    """Return what is wrong with how a call ends, or None."""
    try:
        with at_most(LONGEST_S):
            call()
    except (ValueError, KeyError, TypeError, OSError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        if not where.filename.startswith(PACKAGE):
            return f"{type(error).__name__} from {where.filename}:{where.lineno}: {str(error)[:100]}"
        return None if len(str(error)) > 10 else f"the message says nothing: {error}"
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:100]}"
    try:
        SpatialData.init_from_elements(dict(sdata.tables), attrs=sdata.attrs).write(
            home / "stored.zarr", overwrite=True
        )
    except Exception as error:  # noqa: BLE001
        return f"accepted, and cannot be written: {type(error).__name__}: {str(error)[:160]}"
    return "accepted"


@pytest.mark.filterwarnings("ignore")
def test_malformed_calls_are_refused_by_name_and_change_nothing(make_section, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)  # a path may be any text, and then something is written there
    os.mkfifo(tmp_path / "FIFO")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "TEXT").write_text("no such format\n")
    pristine = prepared(make_section, tmp_path)
    calls = random.Random(0).sample(all_calls(), N_CALLS)
    sdata = copy.deepcopy(pristine)
    before = snapshot(sdata)
    wrong, n_accepted = [], 0
    for space, name, argument, number in calls:
        function = getattr(getattr(hd, space), name)
        given = arguments_of(space, name, sdata, tmp_path)
        value = values_for(argument, kinds_of(str(inspect.signature(function).parameters[argument].annotation)))[number]
        if isinstance(value, str) and value in ("FIFO", "FOLDER", "TEXT"):
            value = str(tmp_path / value)
        with hd.settings.override(cache_dir=tmp_path / "cache"):
            ended = verdict(lambda f=function, a={**given, argument: value}: f(**a), sdata, tmp_path)
        plt.close("all")
        n_accepted += ended == "accepted"
        changed = snapshot(sdata) != before
        if ended not in (None, "accepted") or (changed and ended is None):
            wrong.append(f"{space}.{name}({argument}={value!r:.60}): {ended or 'refused, and the object changed'}")
        if changed:
            sdata = copy.deepcopy(pristine)
            before = snapshot(sdata)
    if os.environ.get("HISDIFF_MALFORMED_LOG"):
        Path(os.environ["HISDIFF_MALFORMED_LOG"]).write_text("\n".join(wrong))
    assert not wrong, f"{len(wrong)} of {len(calls)}:\n" + "\n".join(wrong)
