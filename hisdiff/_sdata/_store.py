"""Put new elements into an object, and into its zarr store at once where it has one.

A change of a store is made whole, or finished by the next call (``_journal``).
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import spatialdata
import zarr
from spatialdata import SpatialData

from hisdiff import _keys
from hisdiff._files import locked
from hisdiff._log import logger
from hisdiff._sdata import _journal
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import mark_written, plain_note, written
from hisdiff._stream import discard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anndata import AnnData

    from hisdiff._json import Plain

LARGEST_IN_MEMORY = 2 * 1024**3
LARGEST_READ_AT_ONCE = 256 * 1024**2
"""Tables above this stay lazy after they were streamed to a store."""
_TABLES, _RUN = "tables", "run-"


def unsaved(data: Any) -> str:
    """Return what the log adds on a change of a table, of an object that has a store: it is in memory only."""
    return "" if getattr(data, "path", None) is None else "; in memory, hd.io.save(sdata) stores it"


@contextlib.contextmanager
def working_folder(sdata: SpatialData, key: str) -> Iterator[Path | None]:
    """Give the folder in an object's store in which an element is made, piece by piece; None for an object without store.

    Nobody else makes an element of that name meanwhile. The folder is removed at the end; where the call fails, or its
    process ends, what is finished stays for the next call.

    Raises
    ------
    BlockingIOError
        If another process is making it.
    OSError
        If the store cannot be written.
    """
    if sdata.path is None:
        yield None
        return
    store = Path(sdata.path).resolve()
    _journal.settle(store)
    home = store / _journal.FOLDER
    with locked(home / f"{_RUN}{key}.lock", f"Element {key!r} of {store}", wait_s=0):
        yield home / f"{_RUN}{key}"
        discard(home / f"{_RUN}{key}")


def check_room(sdata: SpatialData, nbytes: int, what: str) -> None:
    """Raise where a result is too large for an object that is in memory."""
    if sdata.path is None and nbytes > LARGEST_IN_MEMORY:
        raise ValueError(
            f"{what} takes {nbytes / 1024**3:.1f} GB, above the {LARGEST_IN_MEMORY / 1024**3:.0f} GB that are kept in memory. Write the object "
            f"first, sdata.write('FILE.zarr'), and read it again with spatialdata.read_zarr: results are then streamed to its store."
        )


def put(
    sdata: SpatialData,
    elements: Mapping[str, Any],
    notes: Mapping[str, Mapping[str, Any]],
    removed: Sequence[str] = (),
) -> None:
    """Put elements into an object, in place of those that hisdiff made under the same names before.

    Parameters
    ----------
    elements
        By name; tables after the elements that they annotate. Lazy ones are written to the store piece by piece and
        read lazily from there.
    notes
        What :func:`~hisdiff._sdata._provenance.mark_written` keeps of them; of others that hisdiff made them.
    removed
        What goes from the store in the same change: tables, or what is in one, as paths.

    Raises
    ------
    OSError
        If the disk is full, the store cannot be written, or another process does not let go of it; it is as it was.
    """
    notes = {key: plain_note(notes.get(key, {})) for key in elements}
    if sdata.path is not None:
        elements = _put_into_store(sdata, elements, notes, removed)
    for key, element in elements.items():
        _set(sdata, key, element)
        mark_written(sdata, key, notes[key])


def put_back(sdata: SpatialData, keys: Sequence[str], removed: Sequence[str] = ()) -> None:
    """Put elements and tables of an object, whoever made them, into its store, in place of those of the same names.

    ``removed`` as for :func:`put`.

    Raises
    ------
    OSError
        As for :func:`put`.
    """
    notes = {key: note for key in keys if (note := written(sdata, key)) is not None}
    for key, element in _put_into_store(sdata, {key: sdata[key] for key in keys}, notes, removed).items():
        if element is not sdata[key]:
            _set(sdata, key, element)


def _put_into_store(
    sdata: SpatialData,
    elements: Mapping[str, Any],
    notes: Mapping[str, Mapping[str, Any]],
    removed: Sequence[str],
) -> Plain:
    """Write elements into an object's store, and return them as they are read from there."""
    store = Path(sdata.path).resolve()
    record = {name: value for name, value in sdata.attrs.get(_keys.STEM, {}).items() if name != _keys.WRITTEN}
    with _journal.changing(store) as folder:
        try:
            with warnings.catch_warnings():
                # A table may annotate an element that is in the store already.
                warnings.filterwarnings("ignore", ".*annotat.*not present in the SpatialData object", UserWarning)
                made = SpatialData.init_from_elements(dict(elements))
                made.write(folder / _journal.NEW, consolidate_metadata=False)
            paths = [
                path for key in elements for path in made.elements_paths_in_memory() if path.partition("/")[2] == key
            ]
            _journal.commit(store, folder, paths, notes, record, removed)
        except OSError as err:
            free = shutil.disk_usage(store).free
            raise OSError(
                err.errno,
                f"Writing {list(elements)} to {store} failed ({err.strerror or err}): {free / 1e9:.2f} GB are free there.",
            ) from err
        kinds = sorted({path.partition("/")[0] for path in paths} - {_TABLES})
        stored = spatialdata.read_zarr(store, selection=kinds) if kinds else None
        found = {}
        for path in paths:
            kind, _, key = path.partition("/")
            if stored is None or kind == _TABLES:
                found[key] = _from_store(elements[key], store / path)
            else:
                found[key] = stored[key]
    logger.debug("placed %s in %s", list(elements), store)
    return found


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
