"""Gene names: symbols and Ensembl ids are brought together where a table has both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff._check import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hisdiff._section import Names

# Columns in which the field puts the other kind of name, lower case.
_ALTERNATIVES = (
    "gene_ids",
    "gene_id",
    "geneid",
    "ensembl_id",
    "ensembl_ids",
    "ensembl",
    "ensemblid",
    "feature_id",
    "id",
    "gene_symbols",
    "gene_symbol",
    "gene_name",
    "gene_names",
    "gene_short_name",
    "feature_name",
    "genename",
    "gene",
    "genes",
    "symbol",
    "symbols",
    "hgnc_symbol",
    "mgi_symbol",
    "external_gene_name",
    "gene_label",
    "name",
    "names",
)
_SYMBOLS = tuple(name for name in _ALTERNATIVES if "id" not in name and name != "ensembl")
"""Those of them in which symbols stand."""
SYMBOLS = "gene_symbols"
"""The column that is written where a table has none."""
_ENSEMBL = re.compile(r"ENS[A-Z]*[GT]\d{6,}(\.\d+)?")
_VERSIONED = re.compile(r"(ENS[A-Z]*[GT]\d{6,})\.\d+")
"""An Ensembl id with the number of its version, which changes from release to release."""


def gene_names(table: AnnData, like: Names | None = None) -> np.ndarray:
    """Return the names of the genes of a table.

    Parameters
    ----------
    like
        Names to agree with, such as the panel of a model. Where another column of ``var`` (Ensembl ids beside symbols)
        names more of them than the index does, that column is used; versions of Ensembl ids are ignored where that helps.
    """
    names = table.var_names.to_numpy().astype(str)
    if like is None:
        return names
    wanted = set(like)
    others = [column for column in table.var if _is_name(column)]
    best, most = names, len(wanted.intersection(names))
    for candidate in (names, *(table.var[column].astype(str).to_numpy() for column in others)):
        for other in (candidate, _as_versioned(candidate, wanted)):
            shared = len(wanted.intersection(other)) if most < len(wanted) else 0
            if shared > most:
                best, most = other, shared
    return best


def _as_versioned(names: np.ndarray, wanted: set[str]) -> np.ndarray:
    """Return names in which Ensembl ids have the version, or none, that the wanted ones have."""
    known = {unversioned(name): name for name in wanted}
    return np.array([known.get(unversioned(name), name) for name in names], dtype=str)


def unversioned(name: str) -> str:
    """Return an Ensembl id without its version, any other name as it is."""
    found = _VERSIONED.fullmatch(name)
    return name if found is None else found[1]


def find_gene(table: AnnData, name: str) -> int | None:
    """Return the column of a gene by its name in the index of ``var`` or in a column with the other kind of name, else None."""
    others = [column for column in table.var if _is_name(column)]
    plain = unversioned(name)
    for names in (table.var_names, *(table.var[column].astype(str) for column in others)):
        found = np.flatnonzero(np.asarray(names, dtype=str) == name)
        if not len(found) and _ENSEMBL.fullmatch(name):
            found = np.flatnonzero([unversioned(other) == plain for other in names])
        if len(found) > 1:
            raise ValueError(
                f"Gene {name!r} is in the table {len(found)} times; make the names unique, or name the column you mean."
            )
        if len(found):
            return int(found[0])
    return None


def columns_of(table: AnnData, genes: Names) -> np.ndarray:
    """Return the column of each gene, found as :func:`find_gene` finds it, int64 ``(len(genes),)``; -1 where there is none."""
    genes = [str(gene) for gene in genes]
    where = rows_of(genes, table.var_names.to_numpy().astype(str))
    lacking = np.flatnonzero(where < 0)
    if len(lacking):  # one look at the other columns for all of them
        asked = [genes[i] for i in lacking]
        where[lacking] = rows_of(asked, gene_names(table, like=asked))
    return where


def var_of(genes: Names, like: AnnData | None) -> pd.DataFrame:
    """Return ``var`` of a table of genes, with the other kinds of name that they have in the table ``like``; empty where it lacks one."""
    index = pd.Index([str(gene) for gene in genes], dtype=str)
    if like is None:
        return pd.DataFrame(index=index)
    where = columns_of(like, index.to_numpy())
    others = {column: like.var[column].astype(str).to_numpy() for column in like.var if _is_name(column)}
    return pd.DataFrame(
        {column: np.where(where < 0, "", names[where]) for column, names in others.items()}, index=index
    )


def symbols_for(table: AnnData, panel: Names) -> tuple[str, ...] | None:
    """Return the symbols of a panel of Ensembl ids; None where it is of other names, or the table has no symbols."""
    if not all(_ENSEMBL.fullmatch(str(gene)) for gene in panel):
        return None
    symbols = symbols_of(table)[columns_of(table, panel)]
    return tuple(map(str, symbols)) if (symbols != np.asarray(panel)).any() else None


def add_symbols(table: AnnData, panel: Names, symbols: Sequence[str] | None) -> None:
    """Write the symbols that a model knows of its panel into ``var`` of a table that was made here and has none."""
    names = table.var_names.to_numpy().astype(str)
    if symbols is None or (symbols_of(table) != names).any():
        return
    known = dict(zip(map(str, panel), symbols))
    table.var[SYMBOLS] = [known.get(name, "") for name in names]


def _is_name(column: object) -> bool:
    """Whether a column of ``var`` has the other kind of name by what it is called."""
    return str(column).lower() in _ALTERNATIVES


def how_to_add(gene: str) -> str:
    """Return what a message says of a gene that is not in the panel of a model."""
    return f"hd.pp.select_genes(sections, also=[{gene!r}]) adds it for the next fit"


def symbols_of(table: AnnData) -> np.ndarray:
    """Return what a reader calls each gene: its symbol, in a table of Ensembl ids that has symbols; else its name."""
    names = table.var_names.to_numpy().astype(str)
    if not len(names) or not all(_ENSEMBL.fullmatch(name) for name in names[:20]):
        return names
    for column in table.var:
        if str(column).lower() in _SYMBOLS:
            symbols = table.var[column].astype(str).to_numpy()
            if not _ENSEMBL.fullmatch(symbols[0]):
                return np.where(np.isin(symbols, ["", "nan", "None"]), names, symbols).astype(str)
    return names


def shared_genes(tables: Sequence[AnnData]) -> list[np.ndarray]:
    """Return the names under which several tables agree best: each table's own, or its other column."""
    first = gene_names(tables[0])
    named = [first, *(gene_names(table, like=first) for table in tables[1:])]
    if not set(first).intersection(*named[1:]):
        examples = "; ".join(listing(names, 3) for names in named[:3])
        raise ValueError(
            f"The sections have no gene in common; their names look like {examples}. Symbols beside Ensembl ids?"
        )
    return named


def rows_of(panel: Names, names: Names) -> np.ndarray:
    """Return where each gene of a panel is among ``names``, -1 where it is not; a gene that is there twice is an error."""
    where = {name: i for i, name in enumerate(names)}
    if len(where) < len(names):
        found, times = np.unique(np.asarray(names, dtype=str), return_counts=True)
        repeated = sorted(set(found[times > 1]).intersection(panel))
        if repeated:
            raise ValueError(
                f"{len(repeated)} genes of the panel are in the table more than once, such as {listing(repeated, 4)}: which column is "
                f"meant? Make the names unique, or take the one column out."
            )
    return np.array([where.get(gene, -1) for gene in panel], dtype=np.int64)


def check_panel_present(panel: Names, names: Names, what: str) -> None:
    """Raise where fewer than half of a panel's genes are among ``names``."""
    found = int((rows_of(panel, names) >= 0).sum())
    if found >= len(panel) / 2:
        return
    plain = {unversioned(str(name)) for name in names}
    if sum(unversioned(str(gene)) in plain for gene in panel) > max(found, len(panel) / 2):
        hint = "They differ in the version suffix of Ensembl ids (such as '.3'): take it off, name.split('.')[0]."
    else:
        hint = "Are the one symbols and the other Ensembl ids, or is it another species?"
    raise ValueError(
        f"Only {found} of the model's {len(panel)} genes are in {what}: the model has {listing(panel, 3)}, the table {listing(names, 3)}. {hint}"
    )
