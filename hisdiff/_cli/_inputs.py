"""Inputs of a command: zarr stores, and slides, of which stores are made."""

from __future__ import annotations

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hisdiff._files import token
from hisdiff._keys import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

    from hisdiff._json import Plain

FAILURES = (ValueError, KeyError, TypeError, OSError)
"""Errors that are about an input or an option; anything else is a fault of the program and keeps its traceback."""


def open_input(path: Path, *, out: Path | None = None, mpp: float | None = None) -> SpatialData:
    """Open a store, or a slide.

    Parameters
    ----------
    path
        A folder ``NAME.zarr``, or an image that ``hd.io.image`` reads.
    out
        Folder of the stores of slides. A slide whose store is there is not read again.
    mpp
        Micrometres per pixel of slides; None for what the file says.
    """
    import spatialdata as sd

    from hisdiff import io
    from hisdiff._sdata._lazy import damaged_file
    from hisdiff.io._build import without_noise

    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    store = path
    if path.suffix != ".zarr":
        if out is None:
            raise ValueError(
                f"{path} is not a zarr store (NAME.zarr); embed and predict make one of a slide, in the folder that --out names."
            )
        store = out / f"{path.name.partition('.')[0]}.zarr"
        if not store.exists():
            out.mkdir(parents=True, exist_ok=True)
            fresh = out / f".{token()}.zarr"
            try:
                with without_noise():
                    io.image(path, mpp).write(fresh)
                fresh.rename(store)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    if not any((store / note).exists() for note in ("zarr.json", ".zgroup")):
        raise ValueError(f"{store} is not a zarr store: it has no zarr.json.")
    with without_noise():
        try:
            return sd.read_zarr(store)
        except (*FAILURES, RuntimeError) as error:  # decoders have errors of their own
            damaged = damaged_file(store)
            if damaged is None:
                raise
            raise ValueError(f"{damaged} is damaged ({type(error).__name__}: {error}).") from error


def run_on_each(
    command: str,
    paths: Sequence[Path],
    step: Callable[[SpatialData], Plain | None],
    *,
    out: Path | None,
    mpp: float | None,
    as_json: bool,
) -> None:
    """Do one thing to each input and save it; an input that fails does not stop the others.

    Parameters
    ----------
    command
        Name of the command, for the report.
    step
        Changes an object and returns what to report of it, or None if there was nothing left to do.
    """
    from hisdiff import io

    def on(path: Path) -> Plain:
        sdata = open_input(path, out=out, mpp=mpp)
        facts = step(sdata)
        if facts is not None:
            io.save(sdata)
        return {"store": str(sdata.path), "status": "unchanged" if facts is None else "done", **(facts or {})}

    finish(command, [attempt(path, partial(on, path)) for path in paths], as_json=as_json)


def attempt(inputs: Path | Sequence[Path], do: Callable[[], Plain]) -> Plain:
    """Do one thing with one input or several; return what is reported of it: the facts that ``do`` returns, or how it failed."""
    start = time.perf_counter()
    names = str(inputs) if isinstance(inputs, Path) else [str(path) for path in inputs]
    try:
        facts: Plain = {"status": "done"} | do()
    except FAILURES as error:
        facts = {"status": "failed", "error": message_of(error)}
        typer.echo(f"hisdiff: {names if isinstance(names, str) else ', '.join(names)}: {facts['error']}", err=True)
    return {"input": names} | facts | {"seconds": round(time.perf_counter() - start, 3)}


def finish(command: str, results: Sequence[Plain], *, as_json: bool) -> None:
    """Print the report, and end with status 1 where an input failed."""
    if as_json:
        typer.echo(json.dumps({"command": command, "version": VERSION, "results": list(results)}))
    if any(result["status"] == "failed" for result in results):
        raise typer.Exit(1)


def message_of(error: BaseException) -> str:
    """Return the text of an error; that of a KeyError comes without quotation marks."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
