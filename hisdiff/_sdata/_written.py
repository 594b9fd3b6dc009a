"""What hisdiff has made in an object, so that a second run replaces its own results and nothing else.

An element of pixels has no room for a note of its own that survives a round trip through zarr, so notes lie in
``sdata.attrs``. They are read only to tell what may be replaced, and what a stored grid was made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._sdata._journal import stored_notes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData


def written(sdata: SpatialData, key: str) -> dict[str, Any] | None:
    """Return the note on an element that hisdiff made, or None where it made none of that name."""
    return notes(sdata).get(key)


def notes(sdata: SpatialData) -> dict[str, dict[str, Any]]:
    """Return the notes on all elements that hisdiff made."""
    return sdata.attrs.get(_keys.STEM, {}).get(_keys.WRITTEN, {})


def mark_written(sdata: SpatialData, key: str, note: Mapping[str, Any]) -> None:
    """Note that hisdiff made an element."""
    home = sdata.attrs.setdefault(_keys.STEM, {}).setdefault(_keys.WRITTEN, {})
    home[key] = plain_note(note)


def plain_note(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return a note as JSON holds it."""
    plain = lambda value: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value  # noqa: E731
    return {name: plain(value) for name, value in note.items()}


def check_free(sdata: SpatialData, key: str) -> None:
    """Raise where something of that name exists, in the object or in its store, that hisdiff did not make."""
    if written(sdata, key) is not None:
        return
    stored = [] if sdata.path is None else [path.partition("/")[2] for path in sdata.elements_paths_on_disk()]
    if key not in sdata and key in stored and key in stored_notes(Path(sdata.path)):
        return  # made by another process since the object was read
    if key in sdata or key in stored:
        where = "element" if key in sdata else "element in the object's store"
        raise ValueError(
            f"There is an {where} {key!r} that hisdiff did not write; it is left alone. Choose another name with key_added=."
        )
