"""Kill processes while they write stores and models, run the same call again, and compare with a run that was let alone.

    python tests/benchmarks/kill.py [--kills 200] [--json FILE]

A child process of its own does each call. It is killed when it is about to rename, to open a file for writing, to make a
folder or to remove something, at each of these points in turn, or at a random moment. Then the store has to open and be
read whole, the same call has to finish, and what it leaves has to be the same, byte by byte and file by file, as after a
run that was not killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_POINTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlsym")


@dataclass(frozen=True)
class Call:
    """Something that writes into a folder, after what was there before."""

    name: str
    before: Callable[[Path], None]
    run: Callable[[Path], None]


def calls(home: Path) -> list[Call]:
    """Return what is killed; ``home`` has what all of them start from, made by :func:`prepare`."""
    import hisdiff as hd

    def read(folder: Path):
        import spatialdata as sd

        return sd.read_zarr(folder / "section.zarr")

    def grid(folder: Path, side_um: float = 100) -> None:
        hd.pp.grid(read(folder), side_um, key_added="grid")

    def fine(folder: Path, rng: int = 0) -> None:
        hd.tl.predict(read(folder), home / "model", resolution_um=50, n_draws=2, rng=rng)

    def at(folder: Path, rng: int = 0) -> None:
        hd.tl.predict(read(folder), home / "model", at="spots", n_draws=2, rng=rng)

    def spots(folder: Path, table: str) -> None:
        sdata = read(folder)
        hd.tl.predict(sdata, home / "model", table=table, n_draws=2)
        hd.io.save(sdata)

    def fit(folder: Path, rng: int = 0) -> None:
        with hd.settings.override(cache_dir=folder / "cache"):
            hd.tl.fit(read(folder), method="ridge", save=folder / "model", rng=rng)

    def save(folder: Path, name: str = "model") -> None:
        hd.models.load(home / name).save(folder / "saved")

    def nothing(folder: Path) -> None:
        pass

    return [
        Call("grid", nothing, grid),
        Call("grid, replaced", lambda f: grid(f, 50), grid),
        Call("predict, fine", nothing, fine),
        Call("predict, fine, replaced", lambda f: fine(f, 1), fine),
        Call("predict, shapes", nothing, at),
        Call("predict, shapes, replaced", lambda f: at(f, 1), at),
        Call("predict, layers in place of a panel table", lambda f: spots(f, "panel"), lambda f: spots(f, "layers")),
        Call("predict, a panel table in place of layers", lambda f: spots(f, "layers"), lambda f: spots(f, "panel")),
        Call("fit", nothing, fit),
        Call("fit, replaced", lambda f: fit(f, 1), fit),
        Call("save", nothing, save),
        Call("save, replaced", lambda f: save(f, "other"), save),
    ]


def prepare(home: Path) -> None:
    """Make a small section with a store, and two models."""
    import hisdiff as hd

    sdata = hd.datasets.toy(size_um=400)
    del sdata.labels["toy_truth"], sdata.tables["truth"]
    sdata.shapes["spots"] = sdata.shapes[next(iter(sdata.shapes))].copy()
    hd.pp.select_genes(sdata, n_hvg=10, n_top=10)
    hd.pp.embed(sdata)
    sdata.write(home / "section.zarr")
    for rng, name in enumerate(("model", "other")):
        hd.tl.fit(sdata, method="ridge", save=home / name, rng=rng)
    calls(home)[0].run(home)
    (home / "modules.json").write_text(json.dumps([name for name in sys.modules if name != "__main__"]))
    shutil.rmtree(home / "section.zarr")
    sdata.write(home / "section.zarr")


def load(names: Path) -> None:
    """Import what children would each import anew."""
    for name in json.loads(names.read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    logging.getLogger("ome_zarr").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def in_child(work: Callable[[], None], *, kill_at: int = 0, kill_after: float = 0.0) -> tuple[int, int]:
    """Do something in a process of its own; return its status (-9: killed) and how many points it came by."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            n = _watch(kill_at)
            work()
            os.write(writing, str(n[0]).encode())
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    if kill_after:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told = os.read(reading, 20)
    os.close(reading)
    return status, int(told or 0)


def _watch(kill_at: int) -> list[int]:
    """Count the points at which this process changes files, and kill it at one of them."""
    n = [0]

    def hook(event: str, args: tuple) -> None:
        if event in _POINTS or (event == "open" and isinstance(args[2], int) and args[2] & _WRITES):
            if event == "open" and str(args[0]).startswith(("/dev", "/proc")):
                return
            n[0] += 1
            if n[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return n


def tree(folder: Path) -> dict[str, str]:
    """Return a digest of every file in a folder, by its path; empty folders count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else f"folder {path.stat().st_mode:o}"
        )
    return found


def read_whole(store: Path) -> None:
    """Open a store and read all that is in it."""
    import spatialdata as sd

    sdata = sd.read_zarr(store)
    for _, _, element in sdata.gen_elements():
        for part in (element.X, *element.layers.values()) if hasattr(element, "obs") else (element,):
            if hasattr(part, "compute"):
                part.compute()
            elif hasattr(part, "children"):
                [np.asarray(value) for level in part.children.values() for value in level.data_vars.values()]


def try_call(call: Call, home: Path, kills: int, rng: np.random.Generator) -> list[str]:
    """Kill one call at so many points; return what went wrong."""
    wrong: list[str] = []
    start, expected = home / "start", home / "expected"
    for folder in (start, expected):
        shutil.rmtree(folder, ignore_errors=True)
    start.mkdir()
    shutil.copytree(home / "section.zarr", start / "section.zarr")
    if in_child(lambda: call.before(start))[0]:
        return [f"{call.name}: what comes before fails"]
    shutil.copytree(start, expected)
    began = time.monotonic()
    status, n_points = in_child(lambda: call.run(expected))
    took = time.monotonic() - began
    if status:
        return [f"{call.name}: fails without being killed"]
    reference = tree(expected)
    chosen = np.unique(np.linspace(1, n_points, max(1, kills - kills // 4)).astype(int)).tolist()
    moments = rng.uniform(0, took, kills - len(chosen)).tolist()
    folder = home / "work"
    for at, after in [*((point, 0.0) for point in chosen), *((0, moment) for moment in moments)]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder)
        in_child(lambda: call.run(folder), kill_at=at, kill_after=after)
        where = f"{call.name}, killed at " + (f"point {at} of {n_points}" if at else f"{after:.2f} s")
        if in_child(lambda: read_whole(folder / "section.zarr"))[0]:
            wrong.append(f"{where}: the store does not open")
        if in_child(lambda: call.run(folder))[0]:
            wrong.append(f"{where}: the same call fails")
        elif (found := tree(folder)) != reference:
            names = sorted({name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name)})
            wrong.append(f"{where}: {len(names)} files differ, such as {names[:3]}")
    return wrong


def main(kills: int = 200, seed: int = 0, only: str = "") -> dict[str, list[str]]:
    """Kill every call, together ``kills`` times; return what went wrong, by call."""
    home = Path(tempfile.mkdtemp(prefix="hisdiff-kill-"))
    rng = np.random.default_rng(seed)
    try:
        import hisdiff as hd

        hd.settings.progress, hd.settings.verbosity = False, "warning"
        if in_child(lambda: prepare(home))[0]:
            raise RuntimeError("The section cannot be made.")
        load(home / "modules.json")
        todo = [call for call in calls(home) if call.name.startswith(only)]
        return {call.name: try_call(call, home, -(-kills // len(todo)), rng) for call in todo}
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = main(options.kills, options.seed, options.only)
    for name, wrong in found.items():
        print(f"{name}: {len(wrong)} of {-(-options.kills // len(found))} kills did harm")
        print(*(f"    {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    sys.exit(any(found.values()))
