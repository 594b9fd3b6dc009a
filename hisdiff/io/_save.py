"""Write what was changed in an object back to the store that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import spatialdata as sd
from scipy import sparse

from hisdiff._arguments import checked
from hisdiff._check import listing
from hisdiff._log import announce, logger
from hisdiff._sdata import _journal
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._locate import check_sdata
from hisdiff._sdata._store import put_back
from hisdiff._sdata._superseded import superseded_tables
from hisdiff.io._build import without_noise

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

_SLOTS = ("obsm", "varm", "obsp", "varp")
# What is compressed and written in a second.
_BYTES_PER_S = 1e8


@checked
def save(sdata: SpatialData) -> None:
    """Write the tables of an object that were changed since it was read, and elements that are new, to its zarr store.

    Layers, embeddings and records that hisdiff adds to a table, and outlines of tissue, are kept in memory until saved; finer
    predictions and grids are written to the store directly. SpatialData itself does not replace stored elements. All changes
    take effect in one step: an interrupted call leaves the old or the new state.

    Parameters
    ----------
    sdata
        An object that was read from a store or written to one.

    Returns
    -------
    None. Written elements are logged; unchanged elements are not written.

    Raises
    ------
    ValueError
        If the object has no store, or that is of another format than zarr 3.
    OSError
        If the disk is full, the store cannot be written, or another process holds it; it is as it was.

    Examples
    --------
    >>> import hisdiff as hd, spatialdata, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> hd.datasets.toy(size_um=400).write(f"{folder}/toy.zarr")
    >>> sdata = spatialdata.read_zarr(f"{folder}/toy.zarr")
    >>> hd.pp.embed(sdata)
    >>> hd.io.save(sdata)
    >>> "hisdiff_embedding" in spatialdata.read_zarr(f"{folder}/toy.zarr").tables["table"].obsm
    True
    """
    check_sdata(sdata)
    if sdata.path is None:
        raise ValueError("The object has no store yet; write it with sdata.write('NAME.zarr').")
    store = Path(sdata.path)
    if not store.is_dir():
        raise ValueError(
            f"The store {store} that the object was read from is gone; write it anew with sdata.write('NAME.zarr')."
        )
    _journal.settle(store)
    with without_noise():  # the elements that tables annotate are not read
        stored = sd.read_zarr(store, selection=("tables",)).tables
    there = {path.partition("/")[2] for path in sdata.elements_paths_on_disk()}
    keys = [key for _, key, _ in sdata.gen_spatial_elements() if key not in there]
    keys += [key for key, table in sdata.tables.items() if key not in stored or not _same(table, stored[key])]
    gone = superseded_tables(sdata, stored)
    if not keys and not gone:
        logger.info("%s is up to date", store)
        return
    announce(
        f"writing {listing(keys)} to {store}",
        sum(_nbytes(sdata.tables[key]) for key in keys if key in sdata.tables) / _BYTES_PER_S,
    )
    put_back(sdata, keys, [f"tables/{key}" for key in gone])
    logger.info("wrote %s to %s", ", ".join(map(repr, keys)), store)
    if gone:
        logger.info("removed table %s, of an earlier prediction, from %s", ", ".join(map(repr, gone)), store)


def _nbytes(table: AnnData) -> int:
    """Return about how many bytes a table takes, by its matrices."""
    matrices = [table.X, *(table.layers[name] for name in layer_names(table))]
    return sum(
        2 * matrix.data.nbytes if sparse.issparse(matrix) else 4 * int(np.prod(matrix.shape))
        for matrix in matrices
        if matrix is not None
    )


def _same(one: AnnData, other: AnnData) -> bool:
    """Whether two tables hold the same."""
    if not (one.obs.equals(other.obs) and one.var.equals(other.var) and _equal(one.X, other.X)):
        return False
    if set(layer_names(one)) != set(layer_names(other)) or not _equal(dict(one.uns), dict(other.uns)):
        return False
    return all(_equal(one.layers[name], other.layers[name]) for name in layer_names(one)) and all(
        _equal(dict(getattr(one, slot)), dict(getattr(other, slot))) for slot in _SLOTS
    )


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of a table are the same once they are stored."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        both = isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other)
        return both and all(_equal(one[key], other[key]) for key in one)
    if sparse.issparse(one) and sparse.issparse(other):
        return one.shape == other.shape and one.dtype == other.dtype and (one != other).nnz == 0
    if isinstance(one, (pd.DataFrame, pd.Series)):
        return isinstance(other, type(one)) and bool(one.equals(other))  # type: ignore[arg-type]
    if sparse.issparse(one) or sparse.issparse(other):
        return False
    try:
        one, other = np.asarray(one), np.asarray(other)
    except ValueError:
        return False
    if one.shape != other.shape:
        return False
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return np.array_equal(one, other, equal_nan=True)
    return bool(np.array_equal(one, other))
