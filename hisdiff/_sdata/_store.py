"""Put new elements into an object, and into its zarr store at once where it has one.

Elements are written whole beside the store and then renamed into it, so that a process that ends meanwhile leaves
either the element or nothing.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import spatialdata
import zarr
from spatialdata import SpatialData

from hisdiff._log import logger
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._written import mark_written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

LARGEST_IN_MEMORY = 2 * 1024**3
LARGEST_READ_AT_ONCE = 256 * 1024**2
"""Tables above this stay lazy after they were streamed to a store."""
_TABLES = "tables"


def working_folder(sdata: SpatialData, key: str) -> Path | None:
    """Return the folder beside an object's store in which an element of it is made; None for an object without store."""
    if sdata.path is None:
        return None
    store = Path(sdata.path).resolve()
    return store.with_name(f".{store.name}.{key}.unfinished")


def check_room(sdata: SpatialData, nbytes: int, what: str) -> None:
    """Raise where a result is too large for an object that is in memory."""
    if sdata.path is None and nbytes > LARGEST_IN_MEMORY:
        raise ValueError(
            f"{what} takes {nbytes / 1024**3:.1f} GB, above the {LARGEST_IN_MEMORY / 1024**3:.0f} GB that are kept in memory. Write the object "
            f"first, sdata.write('FILE.zarr'), and read it again with spatialdata.read_zarr: results are then streamed to its store."
        )


def put(sdata: SpatialData, elements: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Put elements into an object, in place of those that hisdiff made under the same names before.

    Parameters
    ----------
    elements
        By name; tables after the elements that they annotate. Lazy ones are written to the store piece by piece and
        read lazily from there.
    notes
        What :func:`~hisdiff._sdata._written.mark_written` keeps of each.

    Raises
    ------
    OSError
        If the disk is full; the store is as it was.
    """
    if sdata.path is None:
        for key, element in elements.items():
            _set(sdata, key, element)
        for key, note in notes.items():
            mark_written(sdata, key, note)
        return
    store = Path(sdata.path)
    beside = store.resolve().with_name(f".{store.name}.placing")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            # A table may annotate an element that is in the store already.
            warnings.filterwarnings("ignore", ".*annotat.*not present in the SpatialData object", UserWarning)
            made = SpatialData.init_from_elements(dict(elements))
            made.write(beside)
        paths = [path for key in elements for path in made.elements_paths_in_memory() if path.partition("/")[2] == key]
        for path in paths:
            _move(beside / path, store / path, beside / "replaced" / path)
    except OSError as err:
        free = shutil.disk_usage(store.parent).free
        raise OSError(
            err.errno,
            f"Writing {list(elements)} beside {store} failed ({err.strerror or err}): {free / 1e9:.2f} GB are free there.",
        ) from err
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for key, note in notes.items():
        mark_written(sdata, key, note)
    if sdata.has_consolidated_metadata():
        sdata.write_consolidated_metadata()
    sdata.write_attrs()
    kinds = sorted({path.partition("/")[0] for path in paths} - {_TABLES})
    stored = spatialdata.read_zarr(store, selection=kinds) if kinds else None
    for path in paths:
        kind, _, key = path.partition("/")
        element = elements[key]
        _set(sdata, key, _from_store(element, store / path) if kind == _TABLES or stored is None else stored[key])
    logger.debug("placed %s in %s", list(elements), store)


def _from_store(table: AnnData, path: Path) -> AnnData:
    """Return a table whose lazy arrays read from the store; small ones are read at once, so that all tools take them."""
    matrices = {"X": table.X, **{f"layers/{name}": table.layers[name] for name in layer_names(table)}}
    if not any(isinstance(matrix, da.Array) for matrix in matrices.values()):
        return table
    small = sum(matrix.nbytes for matrix in matrices.values()) <= LARGEST_READ_AT_ONCE
    for name in matrices:
        array = da.from_zarr(zarr.open_array(path / name, mode="r"))
        values = array.compute() if small else array
        if name == "X":
            table.X = values
        else:
            table.layers[name.removeprefix("layers/")] = values
    return table


def _set(sdata: SpatialData, key: str, element: Any) -> None:
    if key in sdata:
        del sdata[key]  # setting over it would warn
    sdata[key] = element


def _move(made: Path, target: Path, old: Path) -> None:
    """Rename a written element into a store; what hisdiff wrote there before goes out of the way."""
    group = zarr.open_group(target.parent, mode="a")  # the first of its kind needs the folder and its metadata
    if target.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        target.rename(old)
    made.rename(target)
    if target.parent.name == "labels":  # the format wants them listed
        ome: dict[str, Any] = dict(cast("Mapping[str, Any]", group.attrs.get("ome", {})))
        group.attrs["ome"] = {**ome, "labels": sorted({*ome.get("labels", []), target.name})}
