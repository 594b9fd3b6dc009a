"""Selection of the genes to model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._annotation import regions_of
from hisdiff._sdata._bound import as_list
from hisdiff._sdata._counts import read_counts
from hisdiff._sdata._genes import columns_of, rows_of, shared_genes
from hisdiff._sdata._locate import check_sdata, on_tissue, resolve_table
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._bound import Bound


N_HVG, N_TOP = 2000, 300


@documented
@checked
def select_genes(
    data: SpatialData | Sequence[SpatialData],
    *,
    n_hvg: int = N_HVG,
    n_top: int = N_TOP,
    genes: Sequence[str] | None = None,
    also: Sequence[str] = (),
    table_key: str | None = None,
    layer: str | None = None,
    reference_compat: bool = False,
    key_added: str = _keys.SELECTED,
    inplace: bool = True,
) -> list[str] | None:
    """Select the genes that a model will learn.

    In every section, spots and genes without counts are ignored, and the ``n_hvg`` genes with the highest dispersion of the
    log-normalised counts are selected (scanpy's ``seurat`` flavour with a single bin, so that genes
    that are high everywhere, such as ERBB2 in a HER2-positive tumour, are treated like all others). From the union over
    sections, genes are kept that are among both the ``n_top`` highest means and the ``n_top`` highest standard deviations of the raw counts of all
    sections together. Only genes that every section has are considered. This is the selection of the HisDiff study.
    Pass the training sections only, never the test section.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them, with raw counts.
    n_hvg
        Number of highly variable genes per section.
    n_top
        Number of genes of highest mean, and of highest standard deviation.
    genes
        Genes to use instead of a selection.
    also
        Genes to use in addition, such as markers that are expressed too lowly to be selected.
    reference_compat
        Follow the published code where it differs: dispersions in scanpy's usual 20 bins, and the spots of the first section
        counted twice.
    %(table_key)s
    %(counts_layer)s
    key_added
        Name of the ``var`` column.
    %(inplace)s

    Returns
    -------
    None, and sets ``tables[table_key].var[key_added]`` (bool) in every section; or the sorted list of genes.

    Raises
    ------
    ValueError
        If the sections share no gene, or the values are not counts.
    KeyError
        If a gene of ``genes`` or ``also`` is missing in a section; the message names it.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.pp.select_genes(sdata)
    >>> bool(sdata.tables["table"].var["hisdiff_selected"].any())
    True
    >>> hd.pp.select_genes(sdata, n_top=20, also=["IMM14"])
    >>> bool(sdata.tables["table"].var.loc["IMM14", "hisdiff_selected"])
    True
    """
    n_hvg, n_top = positive(n_hvg, "n_hvg", integer=True), positive(n_top, "n_top", integer=True)
    key_added = checked_name(key_added, _keys.SELECTED)
    tables = [_table(sdata, table_key) for sdata in as_list(data)]
    if key_added != _keys.SELECTED:  # a choice of the user's under that name is one of genes to model, too
        for table in tables:
            check_slots_free(table, "var", [key_added])
    names = shared_genes(tables)
    if genes is not None:
        chosen = _given([*_strings(genes, "genes"), *_strings(also, "also")], tables, names, "genes")
    else:
        added = _given(also, tables, names, "also") if len(also) else []
        best = _choose([_counts(table, layer) for table in tables], names, n_hvg, n_top, reference_compat)
        chosen = sorted({*best, *added})
    if not inplace:
        return chosen
    _write(tables, names, chosen, key_added)
    return None


def chosen_on(groups: Sequence[Sequence[Bound]], genes: Sequence[str] | None = None) -> list[str]:
    """Return ``genes``, or those that :func:`select_genes` chooses with its defaults, sorted.

    Parameters
    ----------
    groups
        Opened sections with counts; those of a group share a table and count as one section.
    genes
        Genes that every section has to have, or None.
    """
    tables = [group[0].table for group in groups]
    names = shared_genes(tables)
    if genes is not None:
        return _given(genes, tables, names, "genes")
    return _chosen(groups, names, reference_compat=False)


def _chosen(groups: Sequence[Sequence[Bound]], names: Sequence[np.ndarray], *, reference_compat: bool) -> list[str]:
    counts = [
        sparse.vstack(
            [needed(bound.section.counts)[on_tissue(bound.table)[bound.place.rows]] for bound in group], format="csr"
        )
        for group in groups
    ]
    return _choose([_counted(part) for part in counts], names, N_HVG, N_TOP, reference_compat)


def select_on(groups: Sequence[Sequence[Bound]], names: Sequence[np.ndarray], *, reference_compat: bool) -> None:
    """Choose genes with the defaults of :func:`select_genes` on sections that are opened, by object, and write the choice.

    ``names`` are those of the genes of each object.
    """
    chosen = _chosen(groups, names, reference_compat=reference_compat)
    _write([group[0].table for group in groups], names, chosen, _keys.SELECTED)


def _write(tables: Sequence[AnnData], names: Sequence[np.ndarray], chosen: Sequence[str], key: str) -> None:
    for table, own in zip(tables, names):
        table.var[key] = np.isin(own, chosen)
        mark_slots(table, "var", [key])
    n_sections = sum(len(regions_of(table)) for table in tables)
    logger.info("wrote var[%r]: %d genes, selected on %d section(s)", key, len(chosen), n_sections)


def _table(sdata: SpatialData, table_key: str | None) -> AnnData:
    check_sdata(sdata)
    key = resolve_table(sdata, table_key)
    if key is None or sdata.tables[key].n_vars == 0:
        raise ValueError(
            "A section without counts cannot be used to select genes; give sections with a table of counts."
        )
    table = sdata.tables[key]
    if not table.var_names.is_unique:
        repeated = table.var_names[table.var_names.duplicated()].unique()
        raise ValueError(
            f"Table {key!r} has gene names more than once, such as {listing(repeated, 4)}; run adata.var_names_make_unique()."
        )
    return table


def _counts(table: AnnData, layer: str | None) -> sparse.csr_matrix:
    return _counted(read_counts(table, layer, what="the table")[on_tissue(table)])


def _counted(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the spots that have any counts."""
    return counts[np.asarray(counts.sum(axis=1)).ravel() > 0]


def _strings(genes: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(genes, str):
        raise TypeError(f"{what} is a list of names, not the single string {genes!r}.")
    return genes


def _given(genes: Sequence[str], tables: Sequence[AnnData], names: Sequence[np.ndarray], what: str) -> list[str]:
    """Return genes by the names that the tables share, sorted, after checking that all sections have them."""
    asked = sorted(set(_strings(genes, what)))
    if not asked:
        raise ValueError(f"{what} is empty; name at least one gene, or leave it out to select them.")
    columns = columns_of(tables[0], asked)  # symbols in tables of Ensembl ids, too
    chosen = [gene if column < 0 else str(names[0][column]) for gene, column in zip(asked, columns)]
    for own in names:
        missing = np.asarray(asked)[rows_of(chosen, own) < 0]
        if len(missing):
            raise KeyError(f"{len(missing)} of {len(asked)} genes are missing in a section: {listing(missing)}.")
    return sorted(set(chosen))


def _choose(
    counts: Sequence[sparse.csr_matrix],
    names: Sequence[np.ndarray],
    n_hvg: int,
    n_top: int,
    reference_compat: bool,
) -> list[str]:
    common = sorted(set.intersection(*(set(own) for own in names)))
    counts = [c[:, rows_of(common, own)] for c, own in zip(counts, names)]
    # In one bin: with the usual twenty, the few highest genes are alone in theirs and get a score that means nothing.
    n_bins = 20 if reference_compat else 1
    variable = np.any([_highly_variable(c, n_hvg, n_bins) for c in counts], axis=0)
    if reference_compat:
        counts = [counts[0], *counts]
    pooled = sparse.vstack(counts, format="csr")[:, variable].astype(np.float64)
    if pooled.shape[0] < 2:
        raise ValueError(
            f"Genes are selected by their variability, but there are {pooled.shape[0]} spots with counts; name the genes with genes=."
        )
    mean = np.asarray(pooled.mean(axis=0)).ravel()
    sd = np.sqrt(np.maximum(np.asarray(pooled.multiply(pooled).mean(axis=0)).ravel() - mean**2, 0))
    chosen = np.intersect1d(_highest(mean, n_top), _highest(sd, n_top))
    if not len(chosen):
        raise ValueError(
            "No gene is both among the highest means and the highest standard deviations; raise n_top or n_hvg."
        )
    return [str(gene) for gene in np.asarray(common)[variable][chosen]]


def _highest(values: np.ndarray, n: int) -> np.ndarray:
    """Return where the ``n`` highest positive values are; ties go to the first."""
    order = np.argsort(-values, kind="stable")[:n]
    return order[values[order] > 0]


def _highly_variable(counts: sparse.csr_matrix, n: int, n_bins: int) -> np.ndarray:
    import scanpy as sc

    expressed = np.asarray(counts.sum(axis=0)).ravel() > 0
    if expressed.sum() <= n:
        return expressed
    # A frame of names of its own: scanpy works on AnnData.
    table = ad.AnnData(counts[:, expressed].copy(), var=pd.DataFrame(index=np.flatnonzero(expressed).astype(str)))
    sc.pp.normalize_total(table)
    sc.pp.log1p(table)
    found = sc.pp.highly_variable_genes(table, n_top_genes=n, flavor="seurat", n_bins=n_bins, inplace=False)
    variable = np.zeros(counts.shape[1], dtype=bool)
    variable[np.flatnonzero(expressed)[found["highly_variable"].to_numpy()]] = True
    return variable
