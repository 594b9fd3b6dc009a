"""Matrices of coexpression as plots need them: dense, with modules, titles and colours."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hisdiff import _keys
from hisdiff._check import listing, names_of, present
from hisdiff._sdata._expression import X
from hisdiff._sdata._genes import symbols_of
from hisdiff._sdata._provenance import records
from hisdiff.pl._style import CYCLE, MORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hisdiff._json import Plain

MODULE_COLORS = (*CYCLE, "#000000", *MORE)
NO_MODULE = "#d9d9d9"
NAMES = {"spearman": "Spearman's correlation", "pearson": "Pearson's correlation", "lee": "Lee's L"}


def color_of(label: int) -> str:
    """Return the colour of a module, grey for none."""
    return NO_MODULE if label < 0 else MODULE_COLORS[label % len(MODULE_COLORS)]


@dataclass(frozen=True)
class Matrix:
    """A matrix with the modules of its genes (-1 for none).

    Attributes
    ----------
    genes
        What a reader calls them: symbols also in a table of Ensembl ids.
    aliases
        That by the name in the table, where it differs.
    """

    title: str
    genes: np.ndarray
    matrix: np.ndarray
    labels: np.ndarray
    record: Plain
    aliases: dict[str, str]

    def take(self, genes: Sequence[str]) -> Matrix:
        where = {gene: i for i, gene in enumerate(self.genes)}
        rows = np.array([where[gene] for gene in genes])
        return replace(self, genes=self.genes[rows], matrix=self.matrix[np.ix_(rows, rows)], labels=self.labels[rows])

    def matched(self, first: np.ndarray) -> Matrix:
        """Return the result with its modules numbered as those of the first matrix that they share most genes with."""
        from scipy.optimize import linear_sum_assignment

        n = [int(labels.max(initial=-1)) + 1 for labels in (self.labels, first)]
        shared = np.array([[((self.labels == i) & (first == j)).sum() for j in range(n[1])] for i in range(n[0])])
        pairs = zip(*linear_sum_assignment(-shared.reshape(n)))
        names = {own: other for own, other in pairs if shared[own, other]}
        free = [i for i in range(sum(n)) if i >= n[1]]
        names |= dict(zip((i for i in range(n[0]) if i not in names), free))
        return replace(self, labels=np.array([names.get(int(i), -1) for i in self.labels]))


def has_matrix(table: AnnData) -> bool:
    """Whether coexpression of a table was computed."""
    return bool(records(table, _keys.COEXPRESSION))


def matrices_of(table: AnnData, keys: str | Sequence[str] | None) -> list[Matrix]:
    # A record without its matrix is of genes that were taken out.
    made = {k: r for k, r in records(table, _keys.COEXPRESSION).items() if _keys.coexpression(k) in table.varp}
    wanted = list(made) if keys is None else names_of(keys)
    for key in wanted or [_keys.STEM]:
        if key not in made:
            added = "" if key == _keys.STEM else f", key_added={key!r}"
            raise KeyError(
                f"There is no coexpression {key!r}; available: {listing(made)}. Make it with hd.tl.coexpression(sdata, layer=...{added})."
            )
    found = []
    for key in wanted:
        matrix = table.varp[_keys.coexpression(key)]
        genes = np.array([gene for gene in map(str, made[key]["genes"]) if gene in table.var_names])
        columns = table.var_names.get_indexer(genes)
        part = matrix[columns][:, columns]
        labels = np.full(len(genes), -1)
        if _keys.module(key) in table.var:
            labels = table.var[_keys.module(key)].cat.codes.to_numpy()[columns].astype(np.int64)
        values = np.asarray(part.toarray() if sparse.issparse(part) else part)
        aliases = _aliases(table)
        shown = np.array([aliases.get(gene, gene) for gene in genes])
        found.append(Matrix(title_of(key, made[key]["layers"]), shown, values, labels, made[key], aliases))
    return found


def _aliases(table: AnnData) -> dict[str, str]:
    """Return symbols by the names in a table of Ensembl ids; those of several genes are left out."""
    symbols = symbols_of(table)
    names, times = np.unique(symbols, return_counts=True)
    once = set(names[times == 1])
    pairs = zip(table.var_names.astype(str), symbols)
    return {gene: str(symbol) for gene, symbol in pairs if symbol != gene and symbol in once}


def title_of(key: str, layers: Sequence[str]) -> str:
    """Return what a reader calls a result of some layers, after its key where that says more."""
    layers = [str(name) for name in layers]
    stems = {re.sub(r"_draw\d+$", "", name) for name in layers}
    several = f"{len(layers)} draws of {stems.pop()}" if len(stems) == 1 else f"{len(layers)} layers averaged"
    text = "measured" if layers == [X] else layers[0] if len(layers) == 1 else several
    return text if key in (_keys.STEM, text) else f"{key}: {text}"


def label_of(record: Plain) -> str:
    """Return what the entries of a matrix are."""
    return f"{NAMES[record['method']]}, {scaling_of(record)}"


def scaling_of(record: Plain) -> str:
    """Return what was done about library size."""
    return "library-size normalised" if record["normalize"] == "library_size" else "not normalised"


def common_genes(results: Sequence[Matrix], genes: Sequence[str] | None) -> list[str]:
    shared = [gene for gene in results[0].genes if all(gene in set(result.genes) for result in results[1:])]
    if genes is not None:
        genes = list(dict.fromkeys(names_of(genes)))
        aliases = results[0].aliases
        shared = [present(aliases.get(gene, gene), shared, "gene with coexpression:") for gene in genes]
    if len(shared) < 2:
        raise ValueError(f"At least two genes are needed that all matrices have, not {len(shared)}.")
    return shared
