"""Raw counts of a table, checked to be counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hisdiff._check import listing, present
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import holds_predictions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

    from hisdiff._sdata._locate import Place

# Counts that a float table holds may be off by rounding in storage only.
_WHOLE = 1e-4


def truth_counts(table: AnnData, truth: str | None) -> sparse.csr_matrix:
    """Return the counts that a prediction in the same table is judged by."""
    if truth is None and holds_predictions(table):
        raise ValueError(
            "The table is one of predictions, with nothing measured in X; say where the counts are with truth=, which takes a "
            "layer or a table with the same obs_names."
        )
    return read_counts(table, truth, what="the table", argument="truth=")


def read_counts(table: AnnData, layer: str | None, *, what: str, argument: str | None = "layer=") -> sparse.csr_matrix:
    """Return raw counts as csr float32, after checking that they are counts.

    Parameters
    ----------
    what
        The table, for messages.
    argument
        How the caller's user names the layer; None where that cannot be done.
    """
    if layer is not None:
        present(layer, layer_names(table), f"layer of {what}")
    values = table.X if layer is None else table.layers[layer]
    where = f"{what}, {'X' if layer is None else f'layer {layer!r}'}"
    if values is None:
        raise ValueError(f"There are no counts in {where}{_elsewhere(argument, layer_names(table))}.")
    if hasattr(values, "to_memory"):
        values = values.to_memory()
    counts = sparse.csr_matrix(values)
    try:
        check_counts(counts.data, where, layer_names(table), argument)
    except ValueError as error:
        if layer is not None or table.raw is None:
            raise
        raise ValueError(f"{error} adata.raw may hold them: take adata.raw.to_adata() instead.") from None
    return counts.astype(np.float32)


def _elsewhere(argument: str | None, layers: Iterable[str]) -> str:
    """Return how counts that are in a layer are reached."""
    if argument is None:
        return f"; if they are in a layer, put them into X (layers: {listing(layers)})"
    return f"; if they are in a layer, name it with {argument} (layers: {listing(layers)})"


def check_counts(data: np.ndarray, where: str, layers: Iterable[str], argument: str | None = "layer=") -> None:
    """Raise where values are not raw counts: numbers that are finite, not negative, and whole."""
    if data.dtype.kind == "b" or not np.issubdtype(data.dtype, np.number):
        raise TypeError(f"Counts are numbers, but {where} has dtype {data.dtype}.")
    if not np.isfinite(data).all():
        raise ValueError(f"There are NaN or infinite values in {where}; raw counts are needed.")
    if len(data) and data.min() < 0:
        raise ValueError(f"There are negative values in {where} (lowest {data.min():g}); raw counts are needed.")
    if np.abs(data - np.round(data)).max(initial=0) > _WHOLE:
        example = data[np.argmax(np.abs(data - np.round(data)))]
        raise ValueError(
            f"There are values that are not whole numbers in {where}, such as {example:g}; raw counts are "
            f"needed{_elsewhere(argument, layers)}."
        )


def check_unique(genes: np.ndarray, place: Place) -> None:
    names, times = np.unique(genes, return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"Table {place.table_key!r} has {int((times > 1).sum())} gene names more than once, such as {listing(names[times > 1], 4)}; "
            f"make them unique with adata.var_names_make_unique()."
        )
