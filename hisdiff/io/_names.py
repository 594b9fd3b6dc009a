"""Names that SpatialData takes: cleaned before anything else sees them, the original kept in ``sdata.attrs``."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from spatialdata import sanitize_name
from spatialdata.models import TableModel

from hisdiff._keys import INSTANCE_KEY, REGION_KEY

if TYPE_CHECKING:
    from collections.abc import Collection

    from anndata import AnnData

LONGEST = 100
"""Characters of a name: file systems take 255 bytes, and hisdiff adds to names."""
TAKEN = ("table", "tissue", "nuclei", "lattice", "truth")
"""Names of other elements: those that hisdiff itself writes beside a section."""
RESERVED = (REGION_KEY, INSTANCE_KEY)
"""Columns of ``obs`` that connect a table with its shapes."""
SLOTS = ("obsm", "varm", "obsp", "varp", "layers", "uns")


def element_name(name: str) -> str:
    """Return ``name`` with what SpatialData does not take in a name replaced by underscores."""
    composed = unicodedata.normalize("NFC", str(name))  # macOS gives accents as characters of their own
    clean = sanitize_name(composed).lstrip("_.")[:LONGEST] or "section"
    return f"{clean}_section" if clean.lower() in TAKEN else clean


def clean_table(adata: AnnData) -> dict[str, str]:
    """Rename columns and keys of a table that SpatialData does not take, in place.

    Returns
    -------
    The original of each name that was changed, by ``"slot/new name"``.
    """
    originals: dict[str, str] = {}
    attrs = adata.uns.pop(TableModel.ATTRS_KEY, None)  # of an earlier life
    for slot in ("obs", "var"):
        frame = getattr(adata, slot)
        if slot == "obs" and attrs is not None:
            frame = frame.drop(columns=[key for key in RESERVED if key in frame])
        names = _clean(list(frame.columns), column=True, reserved=RESERVED if slot == "obs" else ())
        if len(frame.columns) < len(getattr(adata, slot).columns) or names != list(frame.columns):
            originals |= _changed(slot, frame.columns, names)
            setattr(adata, slot, frame.set_axis(names, axis="columns"))
        index = getattr(adata, slot).index
        if index.name is not None and (index.name in names or _valid(index.name, column=True) != index.name):
            index.name = None  # it would be stored under that name, beside the columns
    for slot in SLOTS:
        values = getattr(adata, slot)
        keys = [key for key in values if key is not None]  # anndata 0.13 lists X among the layers
        names = _clean(keys)
        if names != keys:
            originals |= _changed(slot, keys, names)
            taken = {key: values[key] for key in keys}
            for key in keys:
                del values[key]
            for key, name in zip(keys, names):
                values[name] = taken[key]
    return originals


def _changed(slot: str, before: Any, after: list[str]) -> dict[str, str]:
    return {f"{slot}/{name}": str(old) for old, name in zip(before, after) if old != name}


def _clean(names: list[Any], *, column: bool = False, reserved: Collection[str] = ()) -> list[str]:
    """Return names that SpatialData takes, all different when case is ignored; those that are fine stay as they are."""
    valid = [_valid(name, column) for name in names]
    # What is fine already goes first, so that no other name takes its place.
    taken = {new.lower() for name, new in zip(names, valid) if name == new}
    seen = set(reserved)
    cleaned = []
    for name, new in zip(names, valid):
        free, number = new, 0
        while free.lower() in seen or (name != new and free.lower() in taken):
            number += 1
            free = f"{new}_{number}"
        seen.add(free.lower())
        cleaned.append(free)
    return cleaned


def _valid(name: Any, column: bool) -> str:
    return sanitize_name(unicodedata.normalize("NFC", str(name)), is_dataframe_column=column)[:LONGEST]
