"""A few columns of a matrix that may be sparse, or stay in a file until it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence


def read_columns(
    matrix: Any, columns: Sequence[int] | np.ndarray, rows: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Return some columns of X or of a layer, dense ``(rows, columns)``.

    Parameters
    ----------
    matrix
        An array or sparse matrix, or what stands for one in a file: of dask, of h5py or zarr, or sparse.
    columns
        In any order.
    rows
        All of them unless told.
    """
    columns = np.asarray(columns, dtype=np.int64)
    wanted = np.unique(columns)  # files are read in order
    values = matrix[:, wanted]
    if hasattr(values, "compute"):
        values = values.compute()
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return values[rows][:, np.searchsorted(wanted, columns)]
