"""Coexpression of genes, and the modules that they form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, one_of, positive, seed_of
from hisdiff._docs import documented
from hisdiff._log import announce, logger
from hisdiff._sdata._expression import MAX_BYTES, read_expression, related_layer, stem_of, table_of
from hisdiff._sdata._graph import spatial_weights
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots, set_record
from hisdiff._sdata._store import unsaved
from hisdiff._stats._coexpression import correlations, lee, permutation_fdr, unit_columns
from hisdiff._stats._modules import hierarchical_modules, leiden_modules, module_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._sdata._expression import Expression

METHODS = ("spearman", "pearson", "lee")
MODULES = ("leiden", "hierarchical")
MAX_GENES = 10_000
"""A matrix of so many genes takes 400 MB."""
# Seconds on two cores for each value that is read and ranked, and for each product.
_RANK_S, _PRODUCT_S = 4e-8, 2e-11


@documented
@checked
def coexpression(
    data: SpatialData | AnnData,
    genes: Sequence[str] | None = None,
    *,
    layer: str | None | Sequence[str | None] = None,
    method: str = "spearman",
    normalize: str | None = "library_size",
    modules: str | None = "leiden",
    resolution: float = 1.0,
    min_genes: int = 3,
    n_perms: int | None = None,
    table_key: str | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame | None:
    """Correlate genes over spots or bins, and group them into modules.

    Use single draws of a prediction, not its mean: the mean over draws is smooth, which inflates correlations. With several
    draws, their matrices are averaged.

    Parameters
    ----------
    data
        A SpatialData, or a table of spots or bins.
    genes
        Genes to correlate. None: the genes that the prediction covers; for measured counts those that the table's
        predictions cover, else the selected ones, else all.
    layer
        Layer, or several of them, such as ``["hisdiff_draw0", "hisdiff_draw1"]``. None: the first draw of the only prediction (or
        of ``"hisdiff"`` among several), which is logged; measured counts in a table without one. ``"X"``: measured counts, taken as
        log2(1 + count); in a table that hisdiff made, the prediction. A layer that is not of a prediction is taken as
        counts where it holds whole numbers, else as log2(1 + count).
    method
        ``"spearman"``, ``"pearson"``, or ``"lee"``: Lee's L, the correlation of spatially smoothed expression, on squidpy's
        graph ``obsp["spatial_connectivities"]`` (without one: the 6 nearest neighbours).
    normalize
        ``"library_size"`` scales every location to the same total count over the modelled genes first. With None, most of the
        correlation comes from library size and cell density.
    modules
        ``"leiden"``: modularity on the graph of the strongest positive and negative partners of each gene; negative edges
        separate genes. ``"hierarchical"``: average linkage, cut where the silhouette is highest. None: no modules.
    resolution
        Resolution of ``"leiden"``: above 1 for more and smaller modules.
    min_genes
        Smallest module; genes of smaller ones belong to no module.
    n_perms
        Number of permutations for the significance of every pair; None for no test. The locations of a prediction were not
        measured, so that there is none for its layers. Genes are permuted over locations
        independently. Neighbouring spots are correlated, so significance is overestimated: use it as a
        filter only. With p permutations no p-value is below 1 / (p + 1).
    %(table_key)s
        A table that hisdiff made has to be named.
    key_added
        Stem of the slots; None for ``"hisdiff"``. Use a separate one, such as ``"measured"``, for each layer to compare in
        :func:`hisdiff.pl.coexpression`.
    %(inplace)s
    %(rng)s
        It is used by the permutations and by Leiden.

    Returns
    -------
    None, after writing

    - ``varp["hisdiff_coexpression"]``: float32 genes x genes; dense where all genes of the table take part, else csr
      with entries for the genes that do;
    - ``varp["hisdiff_coexpression_fdr"]`` with ``n_perms``: false discovery rates, in the same form;
    - ``var["hisdiff_module"]``: categories ``M1`` (the largest), ``M2``, ...; missing for genes in no module;
    - ``obsm["hisdiff_modules"]``: frame, locations x modules, mean standard score of a module's genes (of their ranks, with
      ``"spearman"``; mean over the layers); NaN at locations that the layer does not cover;
    - ``uns["hisdiff"]["coexpression"]["hisdiff"]``: genes, layers, method, seed.

    With ``inplace=False`` the matrix as a DataFrame, whose ``attrs["module"]`` maps gene to module and whose
    ``attrs["fdr"]`` is an array, or None. A constant gene has correlation 0 with all genes (also with itself), belongs to
    no module, and is logged.

    Raises
    ------
    KeyError
        If there is no such layer or gene.
    ValueError
        If values are NaN at a covered location, X holds no counts, a gene is outside the panel or named twice, there are
        fewer than three locations or two genes, all genes are constant, the matrix would be too large, or a slot holds
        something that hisdiff did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> hd.tl.coexpression(sdata, layer="X")
    >>> sdata.tables["table"].varp["hisdiff_coexpression"].shape
    (120, 120)
    """
    one_of(method, METHODS, "method")
    if normalize is not None:
        one_of(normalize, ("library_size",), "normalize")
    if modules is not None:
        one_of(modules, MODULES, "modules")
    positive(resolution, "resolution")
    positive(min_genes, "min_genes", integer=True)
    if n_perms is not None:
        positive(n_perms, "n_perms", integer=True)
    seed = seed_of(rng)
    stem = checked_name(key_added, _keys.STEM)
    table = table_of(data, table_key, "coexpression", layer)
    if inplace:
        _check_slots(table, stem)
    layers = read_expression(table, related_layer(table, layer, "coexpression"), genes=genes, normalize=normalize)
    if len(layers[0].genes) > MAX_GENES:
        raise ValueError(
            f"{len(layers[0].genes)} genes give a matrix of {4 * len(layers[0].genes) ** 2 / 1024**3:.1f} GB; name at most "
            f"{MAX_GENES} with genes=, or choose some with hd.pp.select_genes(sdata)."
        )

    statistic = _statistic(method, table, layers[0].rows)
    ranked, keep = method == "spearman", n_perms is not None or len(layers) == 1
    n_genes, n_values = len(layers[0].genes), len(layers) * len(layers[0].rows) * len(layers[0].genes)
    announce(
        f"correlating {n_genes:,} genes at {len(layers[0].rows):,} locations",
        n_values * (_RANK_S + n_genes * _PRODUCT_S),
    )
    units, matrix = _average(layers, statistic, ranked=ranked, keep=keep)
    constant = np.diag(matrix) <= 0
    if constant.all():
        raise ValueError(f"All {len(constant)} genes are constant in {listing(e.layer for e in layers)}.")
    if constant.any():
        logger.warning("%d genes are constant and get correlation 0: %s", constant.sum(), listing(layers[0].genes[constant], 6))  # fmt: skip
    labels = _labels(matrix, modules, resolution, min_genes, seed)
    if n_perms is not None and any(stem_of(table, expression.layer) is not None for expression in layers):
        logger.warning("coexpression of a prediction: no false discovery rates, since its locations were not measured")
        n_perms = None
    fdr = None if n_perms is None else permutation_fdr(units, statistic, matrix, n_perms, seed)
    names = np.array([f"M{label + 1}" if label >= 0 else "" for label in labels])
    if not inplace:
        result = pd.DataFrame(matrix, index=layers[0].genes, columns=layers[0].genes)
        result.attrs = {"module": dict(zip(result.index, names.tolist())), "fdr": fdr}
        return result
    scores = None if modules is None else _scores(layers, units, labels, ranked)
    record = {
        "genes": layers[0].genes, "layers": np.array([e.layer for e in layers]), "method": method,
        "normalize": normalize or "none", "modules": modules or "none", "resolution": float(resolution),
        "n_perms": int(n_perms or 0), "seed": seed, "version": _keys.VERSION,
    }  # fmt: skip
    _write(table, stem, layers[0], matrix, fdr, names, scores, record)
    modules_of = pd.Series(names[names != ""]).value_counts().sort_index(key=lambda index: index.str[1:].astype(int))
    logger.info(
        "coexpression of %d genes at %d locations: %d modules, of %s genes%s",
        len(names), len(layers[0].rows), len(modules_of), listing(modules_of), unsaved(data),
    )  # fmt: skip
    return None


def _statistic(method: str, table: AnnData, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    if method != "lee":
        return correlations
    weights = spatial_weights(table, rows)
    return lambda units: lee(units, weights)


def _average(
    layers: Sequence[Expression], statistic: Callable[[np.ndarray], np.ndarray], *, ranked: bool, keep: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return unit columns of every layer (where they are kept) and the mean of the matrices."""
    n, n_genes = len(layers[0].rows), len(layers[0].genes)
    held = len(layers) if keep else 1
    if 4 * n * n_genes * held > MAX_BYTES:
        raise ValueError(
            f"{held} layer(s) of {n} locations x {n_genes} genes take {4 * n * n_genes * held / 1024**3:.1f} GB, above the limit of "
            f"{MAX_BYTES / 1024**3:.0f} GB; take fewer locations, such as adata[::10], or fewer genes."
        )
    kept, total = [], np.zeros((n_genes, n_genes), dtype=np.float32)
    for expression in layers:
        units = unit_columns(expression.block, n, n_genes, ranked=ranked)
        total += statistic(units)
        if keep:
            kept.append(units)
    return kept, total / len(layers)


def _labels(matrix: np.ndarray, modules: str | None, resolution: float, min_genes: int, seed: int) -> np.ndarray:
    if modules == "leiden":
        return leiden_modules(matrix, resolution=resolution, min_genes=min_genes, seed=seed)
    if modules == "hierarchical":
        return hierarchical_modules(matrix, min_genes=min_genes)
    return np.full(len(matrix), -1)


def _scores(layers: Sequence[Expression], units: list[np.ndarray], labels: np.ndarray, ranked: bool) -> np.ndarray:
    shape = (len(layers[0].rows), len(labels))
    of_layers = units or (unit_columns(expression.block, *shape, ranked=ranked) for expression in layers)
    return np.mean([module_scores(each, labels) for each in of_layers], axis=0)


def _check_slots(table: AnnData, stem: str) -> None:
    """Raise where a slot is taken by something that hisdiff did not write."""
    check_slots_free(table, "varp", [_keys.coexpression(stem), _keys.coexpression_fdr(stem)])
    check_slots_free(table, "var", [_keys.module(stem)])
    check_slots_free(table, "obsm", [_keys.module_scores(stem)])


def _write(
    table: AnnData,
    stem: str,
    expression: Expression,
    matrix: np.ndarray,
    fdr: np.ndarray | None,
    names: np.ndarray,
    scores: np.ndarray | None,
    record: Plain,
) -> None:
    columns = table.var_names.get_indexer(expression.genes)
    table.varp[_keys.coexpression(stem)] = _spread(matrix, columns, table.n_vars)
    # What an earlier call left and this one does not make would be of other genes.
    table.varp.pop(_keys.coexpression_fdr(stem), None)
    table.obsm.pop(_keys.module_scores(stem), None)
    if _keys.module(stem) in table.var:
        del table.var[_keys.module(stem)]
    if fdr is not None:
        table.varp[_keys.coexpression_fdr(stem)] = _spread(fdr, columns, table.n_vars)
    if scores is not None:
        modules = [f"M{i + 1}" for i in range(scores.shape[1])]
        column = np.full(table.n_vars, -1)
        column[columns] = [modules.index(name) if name else -1 for name in names]
        table.var[_keys.module(stem)] = pd.Categorical.from_codes(column, categories=pd.Index(modules, dtype=object))
        values = np.full((table.n_obs, len(modules)), np.nan, dtype=np.float32)
        values[expression.rows] = scores
        table.obsm[_keys.module_scores(stem)] = pd.DataFrame(values, index=table.obs_names, columns=modules)
    for slot, names_ in (
        ("varp", [_keys.coexpression(stem), _keys.coexpression_fdr(stem)]),
        ("var", [_keys.module(stem)]),
        ("obsm", [_keys.module_scores(stem)]),
    ):
        mark_slots(table, slot, names_)
    set_record(table, _keys.COEXPRESSION, stem, record)


def _spread(matrix: np.ndarray, columns: np.ndarray, n_vars: int) -> np.ndarray | sparse.csr_matrix:
    """Return a matrix over all genes of the table; entries of genes that take no part are absent."""
    if len(columns) == n_vars:
        result = np.empty_like(matrix)
        result[np.ix_(columns, columns)] = matrix
        return result
    row, column = np.repeat(columns, len(columns)), np.tile(columns, len(columns))
    return sparse.csr_matrix((matrix.ravel(), (row, column)), shape=(n_vars, n_vars))
