"""Parts of a matrix that may be sparse, or stay in a file until it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
    values = in_memory(matrix[:, wanted])
    values = values.toarray() if sparse.issparse(values) else values
    return values[rows][:, np.searchsorted(wanted, columns)]


def in_memory(values: Any) -> Any:
    """Return an array or a scipy matrix for what may stand for one."""
    if hasattr(values, "compute"):
        values = values.compute()
    return values if sparse.issparse(values) else np.asarray(values)


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
        values = in_memory(matrix[rows])
        used = np.unique(part.indices)
        known = values[used].data if sparse.issparse(values) else values[used]
        if not np.isfinite(known).all():
            raise ValueError(f"There are NaN or infinite values in {what}.")
        if sparse.issparse(values):
            total = part @ values.astype(np.float64) + (0 if total is dense else total)
        else:
            dense[touched] += part[touched] @ values
    return sparse.csr_matrix(total) if sparse.issparse(total) else total
