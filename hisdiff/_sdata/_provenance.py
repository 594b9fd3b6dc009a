"""What hisdiff itself wrote, and may therefore replace: elements, tables, and slots of tables.

A table carries its mark in ``uns``, and so do the slots that were added to a table of the user's. Shapes carry a column.
An element of pixels has no room for a mark that survives a round trip through zarr, so notes on elements lie in
``sdata.attrs``. All of it is read only to tell what may be replaced, and what a stored grid was made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._check import storable
from hisdiff._sdata._journal import stored_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain

UNKNOWN = "unknown"
"""In a record, for what is not known: stores have no None."""


def records(table: AnnData, kind: str) -> Plain:
    """Return the records of one kind in ``uns["hisdiff"]``, an empty mapping where there are none."""
    return table.uns.get(_keys.STEM, {}).get(kind, {})


def set_record(table: AnnData, kind: str, key: str | None, record: Mapping[str, Any]) -> None:
    """Write a record of plain values into ``uns["hisdiff"][kind]`` (``[key]``)."""
    home = table.uns.setdefault(_keys.STEM, {})
    if key is None:
        home[kind] = dict(record)
    else:
        home.setdefault(kind, {})[key] = dict(record)


def in_sample_of(record: Mapping[str, Any]) -> bool | None:
    """Return whether a prediction is one of spots that its model was trained on; None where that is not known."""
    value = record.get("in_sample", UNKNOWN)
    return None if isinstance(value, str) else bool(value)


def checked_name(key_added: Any, usual: str) -> str:
    """Return the name of a result, after checking that it can be written and reached; None for the usual one."""
    if key_added is None:
        return usual
    if not isinstance(key_added, str):
        raise TypeError(f"key_added={key_added!r} is not a valid name: names are strings.")
    return storable(key_added, "key_added")


def mark_made_here(table: AnnData) -> None:
    """Record in a table that hisdiff wrote it, so that it may be replaced and is no default input."""
    table.uns.setdefault(_keys.STEM, {})[_keys.MADE_BY] = _keys.STEM


def made_here(table: AnnData) -> bool:
    """Whether hisdiff wrote a table."""
    return table.uns.get(_keys.STEM, {}).get(_keys.MADE_BY) == _keys.STEM


def mark_panel_of(table: AnnData, source: str) -> None:
    """Record in a table that hisdiff wrote it, of the panel's genes of another one, whose counts it holds in ``X``."""
    mark_made_here(table)
    table.uns[_keys.STEM][_keys.PANEL_OF] = source


def panel_of(table: AnnData) -> str | None:
    """Return the name of the table that a panel table was made of; None for any other table."""
    return table.uns.get(_keys.STEM, {}).get(_keys.PANEL_OF) if made_here(table) else None


def holds_predictions(table: AnnData) -> bool:
    """Whether ``X`` is what hisdiff predicted, or nothing, not what was measured."""
    return made_here(table) and panel_of(table) is None


def mark_slots(table: AnnData, slot: str, names: Iterable[str]) -> None:
    """Record that hisdiff wrote entries of a slot of a table: ``obs``, ``layers``, ..., or ``hisdiff``, its own home in ``uns``."""
    home = table.uns.setdefault(_keys.STEM, {}).setdefault(_keys.WRITTEN, {})
    home[slot] = sorted({*home.get(slot, ()), *names})


def check_slots_free(table: AnnData, slot: str, names: Iterable[str]) -> None:
    """Raise where a slot of a table holds something of these names that hisdiff did not write."""
    there = table.uns.get(_keys.STEM, {}) if slot == _keys.STEM else getattr(table, slot)
    ours = set(records(table, _keys.WRITTEN).get(slot, ()))
    taken = [name for name in names if name in there and name not in ours]
    if taken:
        place = f"uns[{_keys.STEM!r}]" if slot == _keys.STEM else slot
        raise _refusal(taken[0], f"in {place}" + (f" ({len(taken)} such names in all)" if len(taken) > 1 else ""))


def written(sdata: SpatialData, key: str) -> Plain | None:
    """Return the note on an element that hisdiff made, or None where it made none of that name."""
    return notes(sdata).get(key)


def notes(sdata: SpatialData) -> dict[str, Plain]:
    """Return the notes on all elements that hisdiff made."""
    return sdata.attrs.get(_keys.STEM, {}).get(_keys.WRITTEN, {})


def mark_written(sdata: SpatialData, key: str, note: Mapping[str, Any]) -> None:
    """Note that hisdiff made an element."""
    home = sdata.attrs.setdefault(_keys.STEM, {}).setdefault(_keys.WRITTEN, {})
    home[key] = plain_note(note)


def plain_note(note: Mapping[str, Any]) -> Plain:
    """Return a note as JSON holds it."""
    plain = lambda value: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value  # noqa: E731
    return {name: plain(value) for name, value in note.items()}


def check_free(sdata: SpatialData, key: str) -> None:
    """Raise where something of that name exists, in the object or in its store, that hisdiff did not make."""
    if key in sdata:
        if not _is_ours(sdata, key):
            raise _refusal(key, "among the elements")
        return
    if sdata.path is None:
        return
    store = Path(sdata.path)
    stored = {path.partition("/")[2]: path.partition("/")[0] for path in sdata.elements_paths_on_disk()}
    if key not in stored:
        return
    # Another process may have made it since the object was read.
    if stored[key] == "tables":
        ours = _is_our_table(store / "tables" / key)
    else:
        ours = written(sdata, key) is not None or key in stored_notes(store)
    if not ours:
        raise _refusal(key, "in the object's store, which was not read with it")


def _is_our_table(path: Path) -> bool:
    """Whether a stored table has the mark of :func:`mark_made_here`."""
    import zarr

    mark = path / "uns" / _keys.STEM / _keys.MADE_BY
    return mark.is_dir() and bool(zarr.open_array(mark, mode="r")[()] == _keys.STEM)


def _is_ours(sdata: SpatialData, key: str) -> bool:
    if key in sdata.tables:
        return made_here(sdata.tables[key])
    if written(sdata, key) is not None:
        return True
    shapes = sdata.shapes.get(key)
    return shapes is not None and _keys.MADE_BY in shapes.columns and bool((shapes[_keys.MADE_BY] == _keys.STEM).all())


def _refusal(name: str, where: str) -> ValueError:
    return ValueError(
        f"There is a {name!r} that hisdiff did not write, {where}; it is left alone. Choose another name with key_added=."
    )
