"""Changes of a zarr store that are made whole: written down first, finished by the next call where a process ends within.

All that is not yet, or no more, part of the store lies in one hidden folder inside it. What is to be done is written
there in one rename, after everything that it takes; from then on it will be done. The root's metadata, which has the
notes on what hisdiff wrote, changes first and without its consolidated part, so that readers find what is there at
every moment; then elements change places, and what they supersede is taken away; then the metadata is consolidated again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff import _keys
from hisdiff._files import locked, put_in_place, token, write_text
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hisdiff._json import Plain

FOLDER = ".hisdiff"
"""The hidden folder inside a store."""
NEW = "new.zarr"
"""Where in a change's own folder the elements are written that it puts in place."""
_CHANGE, _LOCK, _JOURNAL, _REPLACED, _META = "change-", "lock", "journal.json", "replaced", "zarr.json"
_OURS = {NEW, _JOURNAL, _REPLACED}


@dataclass(frozen=True)
class Change:
    """What is done to a store.

    Attributes
    ----------
    moves
        Elements, ``"labels/name"``, that are put in place, and the inode of the folder that is to stand there.
    notes
        Notes on elements, by name.
    record
        What else hisdiff keeps in the attributes of the root.
    consolidated
        Whether the store has consolidated metadata.
    removals
        Tables, or what is in one, ``"tables/name/layers/layer"``, that are taken away once all else stands in its place, and the
        inodes of their folders.
    """

    moves: Mapping[str, int]
    notes: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Any]
    consolidated: bool
    removals: Mapping[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def changing(store: Path) -> Iterator[Path]:
    """Hold a store, finish or remove what dead processes left, and give the folder of a new change.

    The folder is removed at the end unless :func:`commit` was called and failed: then the next call finishes.
    """
    with locked(store / FOLDER / _LOCK, f"The store {store}"):
        _settle(store)
        folder = store / FOLDER / f"{_CHANGE}{token()}"
        folder.mkdir()
        try:
            yield folder
        finally:
            if not (folder / _JOURNAL).exists():
                shutil.rmtree(folder, ignore_errors=True)


def settle(store: Path) -> None:
    """Finish or remove what dead processes left in a store; where there is nothing of hisdiff it is not touched."""
    if (store / FOLDER).is_dir():
        with locked(store / FOLDER / _LOCK, f"The store {store}"):
            _settle(store)


def _settle(store: Path) -> None:
    for folder in sorted((store / FOLDER).glob(f"{_CHANGE}*")):
        if not folder.is_dir() or not {path.name for path in folder.iterdir() if path.name[0] != "."} <= _OURS:
            continue  # somebody else's
        if (folder / _JOURNAL).is_file():
            logger.info("completing a write that an ended process left in %s", store)
            _apply(store, folder, Change(**json.loads((folder / _JOURNAL).read_text())))
        shutil.rmtree(folder)


def commit(
    store: Path,
    folder: Path,
    paths: list[str],
    notes: Mapping[str, Mapping[str, Any]],
    record: Mapping[str, Any],
    removed: Sequence[str] = (),
) -> None:
    """Put elements that were written to ``folder / NEW`` in place, with the notes on them, and take others away; see :class:`Change`."""
    moves = {path: (folder / NEW / path).stat().st_ino for path in paths}
    removals = {path: (store / path).stat().st_ino for path in removed if (store / path).exists()}
    before = read_root(store)
    change = Change(moves, notes, record, "consolidated_metadata" in before, removals)
    write_text(folder / _JOURNAL, json.dumps(asdict(change)))
    try:
        _apply(store, folder, change)
    except OSError:
        begun = any(_stands(store / path, inode) for path, inode in moves.items())
        if not begun and all(
            _stands(store / path, inode) for path, inode in removals.items()
        ):  # it is not to be done later
            _write_root(store, before, folder)
            (folder / _JOURNAL).unlink()
        raise
    (folder / _JOURNAL).unlink()


def _apply(store: Path, folder: Path, change: Change) -> None:
    """Do a change, or the rest of it."""
    root = read_root(store)
    root.pop("consolidated_metadata", None)
    ours = root.setdefault("attributes", {}).setdefault(_keys.STEM, {})
    ours.update(change.record)
    ours.setdefault(_keys.WRITTEN, {}).update(change.notes)
    for path in change.removals:
        if path.count("/") == 1:
            ours[_keys.WRITTEN].pop(path.partition("/")[2], None)
    _write_root(store, root, folder)
    for path, inode in change.moves.items():
        target = store / path
        _make_kind(target.parent, folder)
        if not _stands(target, inode):
            put_in_place(folder / NEW / path, target, folder / _REPLACED / path)
        if target.parent.name == "labels":  # the format wants them listed
            _list_label(target, folder)
    for path, inode in change.removals.items():
        if _stands(store / path, inode):
            (folder / _REPLACED / path).parent.mkdir(parents=True, exist_ok=True)
            (store / path).rename(folder / _REPLACED / path)
    if change.consolidated:
        _write_root(store, {**root, "consolidated_metadata": consolidated(store)}, folder)


def _stands(target: Path, inode: int) -> bool:
    return target.exists() and target.stat().st_ino == inode


def read_root(store: Path) -> Plain:
    """Return the metadata of a store's root; a store of an old format is a ``ValueError``."""
    try:
        return json.loads((store / _META).read_text(encoding="utf8"))
    except FileNotFoundError as err:
        raise ValueError(
            f"The store {store} is not in zarr format 3; write it anew with sdata.write('NEW.zarr'), and read that."
        ) from err
    except json.JSONDecodeError as err:
        raise ValueError(f"{store / _META} is not valid JSON ({err}): the store is damaged.") from err


def stored_notes(store: Path) -> dict[str, Plain]:
    """Return the notes that a store has on elements, whichever process wrote them."""
    return read_root(store).get("attributes", {}).get(_keys.STEM, {}).get(_keys.WRITTEN, {})


def _write_root(store: Path, root: Mapping[str, Any], scratch: Path) -> None:
    write_text(store / _META, json.dumps(root, indent=2), scratch)


def _make_kind(folder: Path, scratch: Path) -> None:
    """Make the group of a kind of elements, by one rename."""
    if (folder / _META).is_file():
        return
    fresh = scratch / NEW / f".{folder.name}"
    fresh.mkdir(exist_ok=True)
    group = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    write_text(fresh / _META, json.dumps(group, indent=2), scratch)
    if folder.is_dir():
        (fresh / _META).rename(folder / _META)
    else:
        fresh.rename(folder)


def _list_label(target: Path, scratch: Path) -> None:
    group = json.loads((target.parent / _META).read_text(encoding="utf8"))
    ome = group.setdefault("attributes", {}).setdefault("ome", {})
    names = sorted({*ome.get("labels", []), target.name})
    if names != ome.get("labels"):
        ome["labels"] = names
        write_text(target.parent / _META, json.dumps(group, indent=2), scratch)


def consolidated(store: Path) -> Plain:
    """Return the metadata of everything in a store, as zarr consolidates it."""
    found = {}
    for place, folders, files in os.walk(store):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        if _META not in files:
            folders.clear()  # no part of the hierarchy
            continue
        if Path(place) == store:
            continue
        meta = json.loads((Path(place) / _META).read_text(encoding="utf8"))
        if meta.get("node_type") == "array":
            folders.clear()
        else:
            meta["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
        found[Path(place).relative_to(store).as_posix()] = meta
    return {"kind": "inline", "must_understand": False, "metadata": found}
