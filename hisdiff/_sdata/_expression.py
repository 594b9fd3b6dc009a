"""Expression of a layer on log2(1 + count), read in blocks of genes, with every location scaled to one total."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from hisdiff import _keys
from hisdiff._check import listing, names_of, present
from hisdiff._log import logger
from hisdiff._sdata._counts import check_counts
from hisdiff._sdata._genes import columns_of, how_to_add
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._lazy import in_memory
from hisdiff._sdata._provenance import holds_predictions, records
from hisdiff._sdata._results import X, result_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData


MAX_BYTES = 4 * 1024**3
# Values of a block of genes that is turned into log2(1 + count) at once.
_BLOCK_VALUES = 2**24
# Number of rows by which counts are distinguished from other scales.
_LOOK = 1000


@dataclass(frozen=True)
class Expression:
    """One layer of a table at some locations and genes.

    Attributes
    ----------
    layer
        Its name, ``"X"`` for X.
    genes
        ``(G,)`` names.
    rows
        ``(n,)`` rows of the table.
    matrix
        ``(n, P)`` dense or csc, as stored, over the whole panel and the genes that were named.
    columns
        ``(G,)`` columns of ``matrix``.
    take_log
        Whether ``matrix`` holds counts.
    scale
        ``(n, 1)`` factor of the counts of each location, or None.
    """

    layer: str
    genes: np.ndarray
    rows: np.ndarray
    matrix: Any
    columns: np.ndarray
    take_log: bool
    scale: np.ndarray | None = None

    def block(self, genes: slice) -> np.ndarray:
        """Return log2(1 + count) of a block of genes, float32 ``(n, width)``."""
        values = _dense(self.matrix, self.columns[genes])
        if self.scale is None:
            return np.log2(1 + values) if self.take_log else values
        counts = values if self.take_log else np.exp2(np.maximum(values, 0)) - 1
        return np.log2(1 + counts * self.scale)

    def values(self) -> np.ndarray:
        """Return all values, float32 ``(n, G)``."""
        return self.block(slice(None))


def table_of(
    data: Any,
    table_key: str | None,
    what: str,
    layers: str | None | Sequence[str | None] = None,
    *,
    holds: Callable[[AnnData], bool] | None = None,
) -> AnnData:
    """Return the table of a SpatialData, or the AnnData itself; ``layers`` and ``holds`` as for ``result_table``."""
    if not hasattr(data, "tables"):
        if not hasattr(data, "var_names"):
            raise TypeError(f"data is a SpatialData or an AnnData, not {type(data).__name__}.")
        if table_key is not None:
            raise ValueError(f"table_key={table_key!r} chooses a table of a SpatialData, but data is an AnnData.")
        return data
    key = result_table(data, table_key, layers, holds=holds)
    if key is None:
        raise KeyError(f"The object has no table, so no expression for {what}; predict with hd.tl.predict(sdata).")
    return data.tables[key]


def read_expression(
    table: AnnData,
    layers: str | None | Sequence[str | None],
    *,
    genes: Sequence[str] | None = None,
    normalize: str | None = "library_size",
    at_least: tuple[int, int] = (3, 2),
) -> list[Expression]:
    """Read layers at the locations and genes that all of them cover.

    Parameters
    ----------
    layers
        Names; None or ``"X"`` for X. X holds raw counts, or, in a table that hisdiff made, a prediction. Layers of a
        prediction are in its units. Any other layer is taken as counts where it holds whole numbers, else as
        log2(1 + count).
    genes
        Names, of all genes that ``layers`` cover; None for the panel: the genes that the predictions among ``layers`` cover,
        else those that the table's predictions cover, else the selected ones, else all.
    normalize
        ``"library_size"`` scales every location to the same total over the panel, whatever ``genes`` is.
    at_least
        Least number of locations and of genes.
    """
    asked = [layers] if layers is None or isinstance(layers, str) else list(layers)
    if not asked:
        raise ValueError("There is no layer: layer is empty.")
    names = [X if name is None else name for name in asked]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"Layers are named more than once: {listing(sorted(repeated))}.")
    for name in names:
        _check_layer(table, name)
    if not table.var_names.is_unique:
        raise ValueError(
            "The table has gene names more than once; make them unique with adata.var_names_make_unique()."
        )
    panel = panel_columns(table, names)
    wanted = panel if genes is None else _named(table, genes, names)
    if len(wanted) < at_least[1]:
        raise ValueError(f"At least {at_least[1]} genes are needed, not {len(wanted)}.")
    read = np.union1d(panel, wanted)  # library size is that of the panel, also for genes outside it
    chosen, of_panel = np.searchsorted(read, wanted), np.isin(read, panel)
    matrices = [_matrix(table, name, read) for name in names]
    logs = [_in_counts(table, name, matrix) for name, matrix in zip(names, matrices)]
    rows = np.flatnonzero(np.logical_and.reduce([_covered(table, m, name) for name, m in zip(names, matrices)]))
    if len(rows) < at_least[0]:
        raise ValueError(
            f"At least {at_least[0]} locations are needed, but {listing(names)} covers {len(rows)} of {table.n_obs}."
        )
    found = []
    for name, matrix, log in zip(names, matrices, logs):
        matrix = matrix if len(rows) == table.n_obs else matrix[rows]
        whole = matrix if of_panel.all() else matrix[:, np.flatnonzero(of_panel)]
        scale = _size_scale(whole, log, name) if normalize == "library_size" else None
        found.append(Expression(name, table.var_names[wanted].to_numpy(str), rows, matrix, chosen, log, scale))
    return found


def stem_of(table: AnnData, layer: str) -> str | None:
    """Return the prediction that a layer belongs to, or None; a table that hisdiff made holds one."""
    made = records(table, _keys.PREDICTIONS)
    if layer == X:
        return _prediction_in_x(table) if holds_predictions(table) else None
    if holds_predictions(table) and (layer == _keys.FINE_STD or re.fullmatch(r"draw\d+", layer)):
        return next(iter(made), None)
    for stem in made:
        if layer in (stem, _keys.std(stem)) or re.fullmatch(rf"{re.escape(stem)}_draw\d+", layer):
            return stem
    return None


def only_prediction(table: AnnData) -> str | None:
    """Return the default prediction in layers: the only one, or that of the default method; else None."""
    made = [key for key in records(table, _keys.PREDICTIONS) if key in table.layers]
    return made[0] if len(made) == 1 else _keys.STEM if _keys.STEM in made else None


def judged_prediction(table: AnnData, layer: str | None) -> tuple[str, Mapping[str, Any]]:
    """Return name and record of the prediction, None for the default one, that is compared with the counts of the same spots."""
    own, made = own_prediction(table), records(table, _keys.PREDICTIONS)
    if own is not None and layer in (None, own):
        raise ValueError(
            f"The table has prediction {own!r} alone, with nothing measured to compare it with; predictions at spots are compared: "
            f"hd.tl.predict(sdata) without resolution_um= and at=."
        )
    known = [name for name in made if name in layer_names(table)]
    if layer is None and only_prediction(table) is None and known:
        raise KeyError(f"There are several predictions, {listing(known)}; choose one with layer=.")
    layer = layer or only_prediction(table) or _keys.STEM
    if layer not in known:
        raise KeyError(
            f"There is no prediction {layer!r}; available: {listing(known)}. Make it with hd.tl.predict(sdata)."
        )
    if made[layer]["units"] != _keys.LOG2:
        raise ValueError(
            f"Prediction {layer!r} is in units {made[layer]['units']!r}; it is compared with counts on log2(1 + count): predict with "
            f"units='log2'."
        )
    return layer, made[layer]


def related_layer(table: AnnData, layer: Any, what: str) -> Any:
    """Return the layer in which relations between genes are looked for: the named one, else a draw of the only prediction, else X.

    The mean of draws is smooth, which makes genes look more alike than they are.
    """
    stem = None if layer is not None else only_prediction(table) or own_prediction(table)
    if layer is not None or stem is None:
        made = [key for key in records(table, _keys.PREDICTIONS) if key in table.layers]
        if layer is None and made:
            raise ValueError(
                f"There are several predictions, {listing(made)}; choose a layer with layer=, such as {_keys.draw(made[0], 0)!r}."
            )
        return layer
    draws = draw_layers(table, stem)
    if draws:
        logger.info("%s of %r, one draw of the prediction; layer= chooses another", what, draws[0])
        return draws[0]
    logger.warning(
        "%s of the mean of prediction %r, which has no draws: genes look more alike in it than they are", what, stem
    )
    return stem if stem in table.layers else X


def own_prediction(table: AnnData) -> str | None:
    """Return the prediction that a table was made for, whose mean is its X, or None."""
    stem = _prediction_in_x(table)
    return stem if holds_predictions(table) and stem not in table.layers else None


def _prediction_in_x(table: AnnData) -> str | None:
    named = table.uns.get(_keys.STEM, {}).get(_keys.IN_X)
    if named == _keys.MEASURED:
        return None
    return named or next(iter(records(table, _keys.PREDICTIONS)), None)


def is_logged(table: AnnData) -> bool:
    """Whether scanpy took the logarithm of a table; its record does not name the layer, which is usually X."""
    return "log1p" in table.uns


def check_not_logged(table: AnnData) -> None:
    """Raise where X held predicted or summed counts and was changed since; these are not whole numbers, so a record is needed to detect it."""
    if is_logged(table):
        raise ValueError(
            "X holds no counts since sc.pp.log1p was run on the table; name a layer that holds them, or predict again. If X is as "
            "hisdiff wrote it and the logarithm is in a layer, delete uns['log1p']."
        )


def draw_layers(table: AnnData, stem: str) -> list[str]:
    """Return the layers that hold draws of a prediction, in their order."""
    prefix = "" if stem == own_prediction(table) else f"{re.escape(stem)}_"
    found = [name for name in layer_names(table) if re.fullmatch(rf"{prefix}draw\d+", name)]
    return sorted(found, key=lambda name: int(name.rsplit("draw", 1)[1]))


def covered_genes(table: AnnData, layers: Sequence[str]) -> np.ndarray:
    """Return which genes all layers have, bool: those modelled of predictions, all of what was measured."""
    stems = [stem_of(table, layer) for layer in layers]
    flags = [_keys.modelled(stem) for stem in stems if stem is not None and _keys.modelled(stem) in table.var]
    return np.logical_and.reduce(
        [np.ones(table.n_vars, dtype=bool), *(table.var[flag].to_numpy(bool) for flag in flags)]
    )


def panel_columns(table: AnnData, layers: Sequence[str]) -> np.ndarray:
    """Return the columns of the genes that were modelled, or selected, or all."""
    stems = [stem_of(table, layer) for layer in layers]
    asked = [stem for stem in stems if stem is not None]
    flags = [_keys.modelled(stem) for stem in asked or records(table, _keys.PREDICTIONS)]
    flags = [flag for flag in dict.fromkeys(flags) if flag in table.var] or [_keys.SELECTED]
    there = np.ones(table.n_vars, dtype=bool)
    for flag in flags:
        if flag in table.var and table.var[flag].any():
            there &= table.var[flag].to_numpy(dtype=bool)
    return np.flatnonzero(there)


def _check_layer(table: AnnData, name: str) -> None:
    if name == X:
        if table.X is None or table.n_vars == 0:
            raise ValueError(f"The table has nothing in X; its layers are {listing(layer_names(table))}.")
        return
    if name not in table.layers:
        present(name, [X, *layer_names(table)], "layer")
    stem = stem_of(table, name)
    if stem is not None and name in (_keys.std(stem), _keys.FINE_STD):
        raise ValueError(f"Layer {name!r} is the spread over draws, not expression; name the mean or one of the draws.")


def _named(table: AnnData, genes: Sequence[str], layers: Sequence[str]) -> np.ndarray:
    """Return the columns of named genes, which all layers have to cover."""
    genes = names_of(genes)
    there = covered_genes(table, layers)
    where = columns_of(table, genes)
    for gene, column in zip(genes, where):
        if column < 0:
            present(gene, table.var_names, "gene")
        if not there[column]:
            raise ValueError(
                f"Gene {gene!r} is not among the {there.sum()} modelled genes of {listing(layers)}; {how_to_add(gene)}."
            )
    repeated = sorted({gene for gene, column in zip(genes, where) if (where == column).sum() > 1})
    if repeated:
        raise ValueError(f"Genes are named more than once: {listing(repeated)}.")
    return np.asarray(where)


def _matrix(table: AnnData, name: str, panel: np.ndarray) -> Any:
    """Return all rows of the panel, dense or csc, in memory."""
    stored = table.X if name == X else table.layers[name]
    size = 4 * table.n_obs * len(panel)
    if size > MAX_BYTES and not sparse.issparse(stored):
        raise ValueError(
            f"{table.n_obs} locations x {len(panel)} genes of {name!r} take {size / 1024**3:.1f} GB, above the limit of "
            f"{MAX_BYTES / 1024**3:.0f} GB; take fewer locations, such as adata[::10], or fewer genes."
        )
    if hasattr(stored, "to_memory"):  # a table that is backed by a file
        stored = stored.to_memory()
    stored = stored if len(panel) == table.n_vars else stored[:, panel]
    stored = in_memory(stored, f"{name!r} of a table")
    return sparse.csc_matrix(stored) if sparse.issparse(stored) else np.asarray(stored)


def _in_counts(table: AnnData, name: str, matrix: Any) -> bool:
    """Return whether values are counts, after checking that they are where they must be."""
    stem = stem_of(table, name)
    if name == X and holds_predictions(table):
        check_not_logged(table)
    if stem is not None:
        return records(table, _keys.PREDICTIONS)[stem]["units"] == _keys.COUNTS
    if name == X and holds_predictions(table):
        return True
    if name == X:
        for block in [matrix.data] if sparse.issparse(matrix) else _row_blocks(matrix):
            check_counts(block, "X", layer_names(table))
        return True
    look = matrix[:_LOOK]
    look = look.data if sparse.issparse(look) else look
    if look.dtype.kind not in "iuf":
        raise TypeError(f"Layer {name!r} holds {look.dtype}, not numbers.")
    look = look[np.isfinite(look)]
    return bool(np.all((look >= 0) & (look == np.round(look))))


def _covered(table: AnnData, matrix: Any, name: str) -> np.ndarray:
    """Return which rows have values; NaN in a part of a row is an error."""
    if sparse.issparse(matrix):
        if not np.isfinite(matrix.data).all():
            raise ValueError(f"There are NaN or infinite values in {name!r}.")
        return np.ones(matrix.shape[0], dtype=bool)
    there = np.concatenate([np.isfinite(block).sum(axis=1) for block in _row_blocks(matrix)])
    partial = (there > 0) & (there < matrix.shape[1])
    if partial.any():
        spots = table.obs_names[partial].to_numpy()
        raise ValueError(
            f"There are NaN or infinite values in {name!r} at {len(spots)} locations, such as {listing(spots, 3)}."
        )
    return there > 0


def _row_blocks(matrix: np.ndarray) -> list[np.ndarray]:
    height = max(1, _BLOCK_VALUES // max(matrix.shape[1], 1))
    return [matrix[start : start + height] for start in range(0, matrix.shape[0], height)]


def _size_scale(matrix: Any, in_counts: bool, name: str) -> np.ndarray:
    """Return the factor that brings every location to the median total, float32 ``(n, 1)``; 0 where there is nothing."""
    if in_counts:
        totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    else:
        blocks = _row_blocks(matrix.toarray() if sparse.issparse(matrix) else matrix)
        if min(float(block.min(initial=0)) for block in blocks) < -1:
            raise ValueError(
                f"Layer {name!r} has values far below zero, so it is not on log2(1 + count); use normalize=None for it."
            )
        totals = np.concatenate([(np.exp2(np.maximum(b, 0, dtype=np.float64)) - 1).sum(axis=1) for b in blocks])
    there = totals > 0
    total = float(np.median(totals[there])) if there.any() else 1.0
    return np.where(there, total / np.where(there, totals, 1), 0).astype(np.float32)[:, None]


def _dense(matrix: Any, columns: np.ndarray) -> np.ndarray:
    values = matrix[:, columns]
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)
