"""Values, name and unit of the layers that a gene map shows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from hisdiff import _keys
from hisdiff._check import listing, present
from hisdiff._sdata._expression import X, draw_layers, is_logged, only_prediction, own_prediction
from hisdiff._sdata._genes import how_to_add, symbols_of
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._lazy import read_columns
from hisdiff._sdata._provenance import holds_predictions, panel_of, records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from hisdiff._sdata._locate import Place

LOG_COUNTS = "log2(1 + count)"
MOST_ROWS = 2_000
"""Rows that tell which genes vary most."""


@dataclass(frozen=True)
class LayerInfo:
    """How a layer is shown.

    Attributes
    ----------
    name
        Layer name, None for X.
    label
        What a reader calls it.
    unit
        Label of the colour bar; panels of one unit share their norm.
    take_log
        Whether values are counts that are shown as log2(1 + count).
    stem
        Prediction that the layer belongs to, or None.
    is_spread
        Whether it is the standard deviation over draws.
    """

    name: str | None
    label: str
    unit: str
    take_log: bool = False
    stem: str | None = None
    is_spread: bool = False


def default_layers(table: AnnData, what: str, *, draw: bool = False) -> list[str | None]:
    """Return measured counts and the prediction, as far as they exist; of the prediction a draw, where it has one and that is asked for."""
    made = [key for key in records(table, _keys.PREDICTIONS) if key in table.layers]
    found: list[str | None] = [None] if is_measured(table) or own_prediction(table) else []
    found += [_keys.STEM] if _keys.STEM in made else made
    if draw:
        shown = [stem if stem is not None or is_measured(table) else own_prediction(table) for stem in found]
        found = [next(iter(draw_layers(table, stem)), name) if stem else name for stem, name in zip(shown, found)]
    if not found:
        raise ValueError(
            f"Table {what!r} has neither counts nor a prediction to show; predict with hd.tl.predict(sdata)."
        )
    return found


def best_genes(table: AnnData, n: int, stem: str | None = None) -> list[str]:
    """Return the genes that a prediction, None for the only one, is expected to get best; where that is not known, those that vary most."""
    stem = stem or only_prediction(table) or own_prediction(table)
    for name in () if stem is None else (_keys.cv_pcc_norm(stem), _keys.cv_pcc(stem)):
        if name in table.var and np.isfinite(table.var[name].to_numpy(dtype=float)).any():
            best = table.var[name].astype(float).sort_values(ascending=False).dropna()
            return [str(gene) for gene in best.index[:n]]
    matrix = table.X if stem is None or stem not in table.layers else table.layers[stem]
    rows = matrix[:MOST_ROWS]
    values = np.asarray(rows.toarray() if sparse.issparse(rows) else rows, dtype=float)
    if is_measured(table) and matrix is table.X:
        values = np.log2(1 + np.maximum(values, 0))
    spread = np.nan_to_num(values.std(axis=0), nan=-1.0)
    return [str(table.var_names[i]) for i in np.argsort(-spread, kind="stable")[:n] if spread[i] >= 0]


def mean_and_spread(table: AnnData, stem: str | None) -> tuple[str | None, str]:
    """Return the layers with the mean of a prediction and its spread over draws; None for the only prediction."""
    own = own_prediction(table)
    if own is not None and stem in (None, own):
        return None, _keys.FINE_STD
    stem = stem or only_prediction(table) or _keys.STEM
    return stem, _keys.std(stem)


def describe(table: AnnData, layer: str | None, what: str) -> LayerInfo:
    """Return how a layer is shown, or raise where it does not exist, naming the call that makes it."""
    name = None if layer in (None, X) else layer
    if name is not None and name not in table.layers:
        raise KeyError(
            f"There is no layer {name!r} in table {what!r}; available: {listing(layer_names(table))}. "
            f"A prediction is made with hd.tl.predict(sdata), which names its layers after the method."
        )
    part = _part(table, name)
    if part is not None and name is None and is_logged(table):
        return LayerInfo(None, "predicted", "X after log1p", stem=part[0])
    if part is not None:
        record = records(table, _keys.PREDICTIONS)[part[0]]
        return _of_prediction(name, *part, record["units"], record.get("method", part[0]))
    if name is not None:
        counts = _is_counts(table.layers[name])
        return LayerInfo(name, name, LOG_COUNTS if counts else name, take_log=counts)
    if not is_measured(table):
        raise ValueError(f"Table {what!r} has nothing measured in X; its layers are {listing(layer_names(table))}.")
    truth = what == _keys.TRUTH_TABLE
    counts = truth or _is_counts(table.X)
    return LayerInfo(None, "truth" if truth else "measured", LOG_COUNTS if counts else X, take_log=counts)


def _part(table: AnnData, name: str | None) -> tuple[str, str] | None:
    """Return the prediction that a layer belongs to and what it holds of it: ``mean``, ``std``, or which draw."""
    own = own_prediction(table)
    stems = records(table, _keys.PREDICTIONS) if own is None else [own]
    for stem in stems:
        mean, std, prefix = (stem, _keys.std(stem), f"{stem}_") if own is None else (None, _keys.FINE_STD, "")
        if name in (mean, std):
            return stem, "mean" if name == mean else "std"
        if name is not None and re.fullmatch(rf"{re.escape(prefix)}draw\d+", name):
            return stem, name.removeprefix(prefix)
    return None


def _of_prediction(name: str | None, stem: str, part: str, units: str, method: str) -> LayerInfo:
    in_counts = units == _keys.COUNTS
    by, of = (
        ("", "") if stem == _keys.STEM else (f" by {stem}", f" of {stem}") if stem == method else (f" ({stem})",) * 2
    )
    if part == "std":
        unit = f"sd, {'count' if in_counts else LOG_COUNTS}"
        return LayerInfo(name, f"uncertainty{of}", unit, stem=stem, is_spread=True)
    label = f"predicted{by}" if part == "mean" else f"{part}{of}"
    return LayerInfo(name, label, LOG_COUNTS, in_counts, stem)


def shown_name(table: AnnData, name: str, column: int) -> str:
    """Return what a reader calls a gene: as it was asked for, with its symbol where that was an Ensembl id."""
    symbol = str(symbols_of(table)[column])
    return name if symbol in (name, table.var_names[column]) else f"{symbol} ({name})"


def unknown(table: AnnData, name: str, what: str) -> KeyError:
    """Return the error for a name that is neither a gene nor a column of ``obs``."""
    try:
        present(name, [*table.var_names, *table.obs], "gene or column of obs")
    except KeyError as error:
        message = str(error.args[0]).replace("; available", f" in table {what!r}; available", 1)
        if own_prediction(table) is not None or panel_of(table) is not None:
            message += f" The table has the {table.n_vars} genes of the model's panel; {how_to_add(name)}."
        return KeyError(message)
    raise AssertionError(name)


def values_of(place: Place, columns: Mapping[str, int], info: LayerInfo) -> dict[str, np.ndarray]:
    """Return the shown values of genes at the locations of a section, float64 ``(n,)`` each; nothing else is read."""
    table = place.sdata.tables[place.table_key]
    matrix = table.X if info.name is None else table.layers[info.name]
    values = read_columns(matrix, list(columns.values()), place.rows).astype(float)
    for gene, column in zip(columns, values.T):
        if len(column) and not np.isfinite(column).any():
            reason = _why_empty(table, info, gene, columns[gene])
            raise ValueError(f"Gene {gene!r} has no values in {info.name or X!r} of {place.name!r}: {reason}.")
    return dict(zip(columns, (np.log2(1 + values) if info.take_log else values).T))


def _why_empty(table: AnnData, info: LayerInfo, gene: str, column: int) -> str:
    if info.stem is None:
        return "all are NaN"
    flag, record = _keys.modelled(info.stem), records(table, _keys.PREDICTIONS)[info.stem]
    modelled = flag not in table.var or bool(table.var[flag].iloc[column])
    if modelled and info.is_spread and record.get("n_draws") == 1:
        return f"{info.stem!r} holds one value per location, of a method without draws or of a single draw, which has no spread"
    if flag in table.var and not modelled:
        return f"it is not in the model's panel (var[{flag!r}]); {how_to_add(gene)}"
    return "all are NaN"


def is_measured(table: AnnData) -> bool:
    """Whether X holds something that was measured, or a sum of it; else, in a table that hisdiff made, it is a prediction or empty."""
    home = table.uns.get(_keys.STEM, {})
    ours = holds_predictions(table) and (_keys.AGGREGATED not in home or own_prediction(table) is not None)
    return table.X is not None and table.n_vars > 0 and not ours


def _is_counts(matrix: Any) -> bool:
    """Whether values are counts; a thousand rows tell them from other scales."""
    rows = matrix[:1000]
    rows = rows.to_memory() if hasattr(rows, "to_memory") else rows
    values = rows.data if sparse.issparse(rows) else np.asarray(rows)
    return bool(np.all((values >= 0) & (values == np.round(values))))
