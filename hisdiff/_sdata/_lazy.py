"""Parts of arrays that may be sparse, or stay in a file until they are needed; where a file is damaged, which one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import dask.array as da

# What decoders of chunks raise.
DAMAGED = (ValueError, RuntimeError, OSError)
# Values that are read at once.
_BLOCK_VALUES = 2e7
# Least rows of a block, so that a wide table is not read row by row.
_MIN_ROWS = 256


def read_columns(
    matrix: Any, columns: Sequence[int] | np.ndarray, rows: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Return some columns of X or of a layer, dense ``(rows, columns)``.

    Parameters
    ----------
    matrix
        An array or sparse matrix, or what stands for one in a file: of dask, or of h5py, or sparse.
    columns
        In any order.
    rows
        All of them unless told.
    """
    columns = np.asarray(columns, dtype=np.int64)
    wanted = np.unique(columns)  # files are read in order
    values = in_memory(matrix[:, wanted], "A matrix of a table")
    values = values.toarray() if sparse.issparse(values) else values
    return values[rows][:, np.searchsorted(wanted, columns)]


def in_memory(values: Any, what: str = "An array", **how: Any) -> Any:
    """Return an array or a scipy matrix for what may stand for one.

    Parameters
    ----------
    what
        What it is, for the error.
    how
        Passed to ``compute`` of dask.

    Raises
    ------
    OSError
        If a file behind it cannot be read; a damaged chunk of a zarr store is named.
    """
    if hasattr(values, "compute"):
        try:
            values = values.compute(**how)
        except DAMAGED as error:
            chunk = _damaged_chunk(values)
            why = f"{type(error).__name__}: {error}"
            told = f"is its file or store damaged? ({why})" if chunk is None else f"{chunk} is damaged ({why})."
            raise OSError(f"{what} cannot be read: {told}") from error
    return values if sparse.issparse(values) else np.asarray(values)


def damaged_file(store: Path) -> str | None:
    """Return the first file of the tables of a store that cannot be decoded; None where all can."""
    for note in sorted(store.glob("tables/**/zarr.json")):
        try:
            node = zarr.open(note.parent, mode="r")
        except DAMAGED:
            return str(note)
        if isinstance(node, zarr.Array) and (found := _first_damaged(node, tuple(map(slice, node.shape)))):
            return found
    return None


def _damaged_chunk(values: da.Array) -> str | None:
    """Return the first file of a zarr array that a dask array reads and that cannot be decoded."""
    graph = values.__dask_graph__()
    graph = dict(graph.cull(values.__dask_keys__()) if hasattr(graph, "cull") else graph)
    arrays = {key: task for key, task in graph.items() if isinstance(task, zarr.Array)}
    for task in graph.values():
        for key in getattr(task, "dependencies", frozenset()) & arrays.keys():
            boxes = [getattr(part, "value", part) for part in getattr(task, "args", ())]
            box = next((box for box in boxes if isinstance(box, tuple)), tuple(map(slice, arrays[key].shape)))
            if found := _first_damaged(arrays[key], box):
                return found
    return None


def _first_damaged(array: zarr.Array, box: tuple[slice, ...]) -> str | None:
    for chunk, name in _chunks(array, box):
        try:
            array[chunk]
        except DAMAGED:
            return name
    return None


def _chunks(array: zarr.Array, box: tuple[slice, ...]) -> Iterator[tuple[tuple[slice, ...], str]]:
    """Yield the place and the file of each stored chunk of a zarr array that a box touches."""
    sides = array.shards or array.chunks
    spans = [range(*part.indices(size)) for part, size in zip(box, array.shape)]
    numbers = [range(span[0] // side, span[-1] // side + 1) for span, side in zip(spans, sides) if len(span)]
    for at in itertools.product(*numbers):
        place = array.store_path / array.metadata.encode_chunk_key(at)
        root = getattr(place.store, "root", None) or getattr(place.store, "path", None)  # local, or through fsspec
        yield (
            tuple(slice(k * side, (k + 1) * side) for k, side in zip(at, sides)),
            str(place) if root is None else str(Path(root) / place.path),
        )


def row_blocks(n_rows: int, n_columns: int) -> list[slice]:
    """Return blocks of rows that are read at once."""
    height = max(_MIN_ROWS, int(_BLOCK_VALUES / max(n_columns, 1)))
    return [slice(start, min(start + height, n_rows)) for start in range(0, n_rows, height)]


def weighted_sums(
    matrix: Any,
    weights: sparse.csc_matrix,
    what: str,
    watch: Callable[[list[slice]], Iterable[slice]] = iter,  # type: ignore[assignment]
) -> np.ndarray | sparse.csr_matrix:
    """Return ``weights @ matrix``, reading the matrix block by block; float64, sparse where the matrix is.

    Parameters
    ----------
    weights
        csc ``(m, n)``; rows of the matrix without any weight are not looked at.
    what
        What the matrix is, for the error where it holds NaN.
    watch
        Wraps the blocks, to show progress.
    """
    dense = np.zeros((weights.shape[0], matrix.shape[1]))
    total: Any = dense
    for rows in watch(row_blocks(*matrix.shape)):
        part = weights[:, rows].tocsr()
        touched = np.flatnonzero(np.diff(part.indptr))
        if not len(touched):
            continue
        values = in_memory(matrix[rows], what)
        used = np.unique(part.indices)
        known = values[used].data if sparse.issparse(values) else values[used]
        if not np.isfinite(known).all():
            raise ValueError(f"There are NaN or infinite values in {what}.")
        if sparse.issparse(values):
            total = part @ values.astype(np.float64) + (0 if total is dense else total)
        else:
            dense[touched] += part[touched] @ values
    return sparse.csr_matrix(total) if sparse.issparse(total) else total
