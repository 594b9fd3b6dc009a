"""The one place of a prediction at spots: layers of their table, or a table of the panel, whichever was written last.

What reads results looks into both, so that an earlier prediction of the same name must not stay in the other one. In memory it goes with
the call that wrote the new one. In a store it goes in the change in which the new one gets there, so that a store holds one of
them at every moment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._provenance import notes, panel_of, records
from hisdiff._sdata._write import drop_prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData
    from spatialdata import SpatialData


def supersede(sdata: SpatialData, into: str, stem: str) -> None:
    """Remove predictions of a name for the spots of a table from all other tables of an object; ``into`` has the new one.

    A table of the panel that holds nothing else is removed as a whole.
    """
    source = _source(into, sdata.tables[into])
    for key, table in list(sdata.tables.items()):
        if key == into or _source(key, table) != source:
            continue
        if key != source and set(records(table, _keys.PREDICTIONS)) == {stem}:
            del sdata.tables[key]
            notes(sdata).pop(key, None)
            later = "" if sdata.path is None else "; hd.io.save(sdata) removes it from the store as well"
            logger.info("table %r, of an earlier prediction, was removed%s", key, later)
        elif drop_prediction(table, stem):
            logger.info("layers %r of an earlier prediction were removed from table %r", stem, key)


def superseded_parts(sdata: SpatialData, into: str, stem: str, source: str) -> list[str]:
    """Return what an object's store holds of a prediction for the spots of ``source`` outside the table ``into``, as paths."""
    if sdata.path is None:
        return []
    found = []
    for key, ours in _stored_tables(Path(sdata.path)):
        made = ours.get(_keys.PREDICTIONS, {})
        if key == into or ours.get(_keys.PANEL_OF, key) != source or stem not in made:
            continue
        if key != source and len(made) == 1:
            found.append(f"tables/{key}")
            continue
        own = re.compile(rf"{re.escape(stem)}(_std|_draw\d+)?")
        layers = [name for name in ours.get(_keys.WRITTEN, {}).get("layers", ()) if own.fullmatch(name)]
        found.append(f"tables/{key}/uns/{_keys.STEM}/{_keys.PREDICTIONS}/{stem}")
        found += [f"tables/{key}/layers/{name}" for name in layers]
    return found


def superseded_tables(sdata: SpatialData, stored: Mapping[str, AnnData]) -> list[str]:
    """Return the panel tables of a store whose predictions the object holds elsewhere by now, by what is ``stored``."""
    found = []
    for key, table in stored.items():
        source = panel_of(table)
        if source is None or key in sdata.tables:
            continue
        homes = [other for name, other in sdata.tables.items() if _source(name, other) == source]
        now = {stem for home in homes for stem in records(home, _keys.PREDICTIONS)}
        if now.issuperset(records(table, _keys.PREDICTIONS)):
            found.append(key)
    return found


def _source(key: str, table: AnnData) -> str:
    """Return the table of all genes of the same spots."""
    return panel_of(table) or key


def _stored_tables(store: Path) -> Iterator[tuple[str, Any]]:
    """Yield the tables of a store that hisdiff wrote to, with its own part of ``uns``."""
    import zarr
    from anndata.io import read_elem

    for folder in sorted((store / "tables").glob("[!.]*")):
        ours = folder / "uns" / _keys.STEM
        if ours.is_dir():
            yield folder.name, read_elem(zarr.open_group(ours, mode="r"))
