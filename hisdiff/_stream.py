"""Run work tile by tile into arrays that need not fit into memory, and go on where a run was stopped.

A tile's work is a pure function of the plan. Arrays lie in a folder of their own, so that a run that was killed leaves
nothing that looks like a result; whoever called moves the finished arrays into place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff._files import check_room, write_text
from hisdiff._log import logger
from hisdiff._log import progress as progress_bar
from hisdiff._workers import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hisdiff._json import Plain

Region = tuple[slice, ...]
"""Where a tile's part of an array goes."""

_PLAN, _FINISHED, _ARRAYS = "plan.json", "finished.txt", "arrays"


@dataclass(frozen=True, slots=True)
class Output:
    """An array that tiles fill.

    Attributes
    ----------
    shape, dtype
        Of the whole array.
    chunks
        Of the array on disk. A tile that fills whole chunks is written fastest.
    fill
        Value where no tile writes.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str = "float32"
    fill: float = 0.0

    @property
    def nbytes(self) -> int:
        """Size in memory, and uncompressed on disk."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def run(
    folder: str | os.PathLike[str] | None,
    plan: Mapping[str, Any],
    outputs: Mapping[str, Output],
    regions: Sequence[Mapping[str, Region]],
    work: Callable[[int], Mapping[str, np.ndarray]],
    *,
    desc: str = "tiles",
    progress: bool | None = None,
    unit: str = "tiles",
    each: Callable[..., Iterator[tuple[int, Mapping[str, np.ndarray]]]] = spread,
) -> Plain:
    """Fill arrays tile by tile.

    Parameters
    ----------
    folder
        Where the arrays are written, on the disk of the final place and by one process at a time; a folder that an earlier run with the
        same plan left there is continued, one of another plan is replaced. None fills arrays in memory.
    plan
        What decides the values, as JSON can hold it: model, seed, resolution, image. Outputs and regions count with it.
    outputs
        The arrays by name.
    regions
        For each tile, where its part of each array goes; tiles do not overlap. Arrays that a tile does not name keep
        what they hold.
    work
        Returns the parts of tile ``k``, by name; a pure function, which is sent to the workers of an active client where there
        is one (:func:`hisdiff._workers.spread`).
    desc, progress, unit
        Text of the progress bar, whether to show it (None: the package's setting), and what a tile is called.
    each
        Called with ``work``, the tiles to do and ``desc``; yields positions among these and what ``work`` made, as they are done.

    Returns
    -------
    The arrays by name: lazy dask arrays that read from ``folder``, or numpy arrays.

    Raises
    ------
    FileExistsError
        If ``folder`` exists and no earlier run made it.
    OSError
        If the disk is full, or has no room for the result; the tiles that are finished stay, and the next run goes on
        from them.
    """
    if folder is None:
        arrays = {name: np.full(o.shape, o.fill, dtype=o.dtype) for name, o in outputs.items()}
        with progress_bar(None, desc=desc, total=len(regions), enabled=progress, unit=unit) as bar:
            for k, parts in each(work, range(len(regions)), desc):
                _fill(arrays, regions[k], parts, k)
                bar.update()
        return arrays

    import dask.array as da

    place = Path(folder)
    need = sum(output.nbytes for output in outputs.values())
    try:
        stored = _open(place, _digest(plan, outputs, regions), outputs)
        finished = _read_finished(place)
        if not finished:
            check_room(place, need, "The result")
    except FileExistsError:
        raise
    except OSError as err:
        discard(place)
        raise _full(err, place, need, "Preparing the arrays", 0) from err
    if finished:
        logger.info("%s: resuming from %d of %d finished in %s", desc, len(finished), len(regions), place)
    with progress_bar(None, desc=desc, total=len(regions), initial=len(finished), enabled=progress, unit=unit) as bar:
        todo = [k for k in range(len(regions)) if k not in finished]
        for number, parts in each(work, todo, desc):
            k = todo[number]
            try:
                _fill(stored, regions[k], parts, k)
                _record(place, k)
            except OSError as err:
                what = f"Writing tile {k + 1} of {len(regions)}"
                raise _full(err, place, need, what, len(finished)) from err
            finished.add(k)
            bar.update()
    return {name: da.from_zarr(array) for name, array in stored.items()}


def discard(folder: str | os.PathLike[str]) -> None:
    """Remove the folder of a run, finished or not; a folder that no run made is left alone."""
    place = Path(folder)
    if (place / _PLAN).is_file():
        _empty(place)
        (place / _PLAN).unlink()
        with contextlib.suppress(OSError):  # somebody keeps something there
            place.rmdir()


def _digest(plan: Mapping[str, Any], outputs: Mapping[str, Output], regions: Sequence[Mapping[str, Region]]) -> str:
    what = {
        "plan": plan,
        "outputs": {name: asdict(output) for name, output in outputs.items()},
        "regions": [{name: [[s.start, s.stop] for s in parts] for name, parts in tile.items()} for tile in regions],
    }
    text = json.dumps(what, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a numpy scalar or array as JSON can hold it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"A plan holds plain values, not {type(value).__name__} {value!r}.")


def _open(place: Path, digest: str, outputs: Mapping[str, Output]) -> Plain:
    """Return the arrays on disk: those of an earlier run with the same plan, or new ones."""
    known = (place / _PLAN).is_file()
    if place.exists() and not known and any(not path.name.startswith(".") for path in place.iterdir()):
        raise FileExistsError(f"{place} exists and holds no unfinished run; it is left alone. Move it out of the way.")
    if not known or json.loads((place / _PLAN).read_text())["digest"] != digest:
        if known:
            logger.info("an unfinished run of another plan in %s is replaced", place)
            _empty(place)
        place.mkdir(parents=True, exist_ok=True)
        for left in place.glob(f".{_PLAN}.*"):  # by a process that was killed while it wrote the plan
            left.unlink()
        write_text(place / _PLAN, json.dumps({"digest": digest}))
    return {name: _array(place / _ARRAYS / name, output) for name, output in outputs.items()}


def _array(path: Path, output: Output) -> Any:
    import zarr

    if (path / "zarr.json").is_file():
        return zarr.open_array(path, mode="r+")
    return zarr.create_array(
        path, shape=output.shape, chunks=output.chunks, dtype=output.dtype, fill_value=output.fill, overwrite=True
    )


def _empty(place: Path) -> None:
    """Remove the files of a run, the list of finished tiles first, so that it never lists a missing one."""
    (place / _FINISHED).unlink(missing_ok=True)
    shutil.rmtree(place / _ARRAYS, ignore_errors=True)


def _read_finished(place: Path) -> set[int]:
    """Return the tiles that are on disk; a last line cut off by the end of a process does not count."""
    file = place / _FINISHED
    if not file.exists():
        return set()
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return {int(line) for line in whole.split()}


def _record(place: Path, k: int) -> None:
    with (place / _FINISHED).open("a") as file:
        file.write(f"{k}\n")
        file.flush()
        os.fsync(file.fileno())


def _fill(arrays: Mapping[str, Any], region: Mapping[str, Region], parts: Mapping[str, np.ndarray], k: int) -> None:
    if set(parts) != set(region):
        raise ValueError(f"Tile {k} should give {sorted(region)} and gave {sorted(parts)}.")
    for name, part in parts.items():
        where = region[name]
        array = arrays[name]
        shape = tuple(len(range(*s.indices(n))) for s, n in zip(where, array.shape)) + array.shape[len(where) :]
        if part.shape != shape:
            raise ValueError(f"Tile {k} should give {name!r} of shape {shape} and gave {part.shape}.")
        array[where] = np.asarray(part, dtype=array.dtype)


def _full(err: OSError, place: Path, need: int, what: str, finished: int) -> OSError:
    home = next(parent for parent in (place, *place.parents) if parent.exists())
    free = shutil.disk_usage(home).free
    kept = (
        f" The {finished} finished tile(s) are kept: with more room, the same call goes on from them."
        if finished
        else ""
    )
    return OSError(
        err.errno,
        f"{what} in {place} failed ({err.strerror or err}): {free / 1e9:.2f} GB are free there, and the whole result takes up to "
        f"{need / 1e9:.2f} GB before compression.{kept} Nothing was written to the object; the folder can be deleted.",
    )
