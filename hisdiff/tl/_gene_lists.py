"""Lists and rankings of genes: modules, markers of groups, correlation with a gene, the first principal component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._genes import columns_of
from hisdiff._sdata._provenance import records
from hisdiff._stats._coexpression import unit_columns
from hisdiff._stats._enrichment import first_component, group_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hisdiff._sdata._expression import Expression

PC1 = "pc1"
_FDR = 0.05


def gene_lists(
    table: AnnData, layers: Sequence[Expression], by: Any, stem: str, n_markers: int
) -> tuple[dict[str, list[str]], np.ndarray]:
    """Return lists of genes by group, and the genes they were chosen from."""
    panel = layers[0].genes
    if by is None:
        by = next((name for name in (_keys.module(stem), _keys.module()) if name in table.var), None)
        if by is None:
            raise KeyError(
                "There are no modules to test; compute them with hd.tl.coexpression(sdata, layer=...), or name by=: a column "
                f"of var {listing(table.var.columns)} or obs {listing(table.obs.columns)}, or a mapping from name to genes."
            )
    if isinstance(by, Mapping):
        return _named_lists(table, by, panel), panel
    if not isinstance(by, str):
        raise TypeError(f"by is a column of var or obs, or a mapping from name to genes, not {type(by).__name__}.")
    if by in table.var:
        made = {_keys.module(key): record for key, record in records(table, _keys.COEXPRESSION).items()}
        universe = panel if by not in made else panel[np.isin(panel, [str(gene) for gene in made[by]["genes"]])]
        return _column_lists(table, by, universe), universe
    if by in table.obs:
        scores = _group_scores(table, layers, by)
        return _markers(scores, panel, n_markers), panel
    raise KeyError(
        f"by={by!r} is neither a column of var {listing(table.var.columns)} nor of obs {listing(table.obs.columns)}."
    )


def rankings(table: AnnData, layers: Sequence[Expression], by: Any) -> pd.DataFrame:
    """Return statistics, panel x groups; NaN for genes that take no part."""
    panel = layers[0].genes
    if isinstance(by, pd.Series):
        return _given(by, panel, str(by.name or "statistic"))
    if not isinstance(by, str):
        raise TypeError(f"by is a column of obs or var, a gene, 'pc1' or a Series, not {type(by).__name__}.")
    if by in table.obs and not _numeric(table.obs[by]):
        return _group_scores(table, layers, by)
    if by in table.obs:
        values = table.obs[by].to_numpy(dtype=float)[layers[0].rows]
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            raise ValueError(f"obs[{by!r}] has NaN or the same value everywhere; genes cannot be ranked by it.")
        target = unit_columns(lambda _: values[:, None].astype(np.float32), len(values), 1, ranked=True)[:, 0]
        return _mean(layers, True, lambda units: (units.T @ target)[:, None], [by])
    if by in table.var and _numeric(table.var[by]):
        return _given(table.var[by], panel, by)
    named = _in_panel(table, [by], panel)
    if named:
        gene = int(np.flatnonzero(panel == named[0])[0])
        frame = _mean(layers, True, lambda units: (units.T @ units[:, gene])[:, None], [by])
        frame.iloc[gene] = np.nan
        return frame
    if by == PC1:
        return _mean(layers, False, lambda units: first_component(units)[:, None], [PC1])
    raise KeyError(
        f"by={by!r} is neither a column of obs {listing(table.obs.columns)}, nor a numeric column of var, nor a gene of the panel "
        f"{listing(panel, 4)}, nor {PC1!r}."
    )


def _mean(layers: Sequence[Expression], ranked: bool, statistic: Any, names: Sequence[str]) -> pd.DataFrame:
    total, constant = 0.0, np.zeros(len(layers[0].genes), dtype=bool)
    for expression in layers:
        units = unit_columns(expression.block, len(expression.rows), len(expression.genes), ranked=ranked)
        total = total + statistic(units)
        constant |= ~units.any(axis=0)
    if constant.all():
        raise ValueError(f"All {len(constant)} genes are constant; they cannot be ranked.")
    frame = pd.DataFrame(total / len(layers), index=layers[0].genes, columns=list(names))
    if constant.any():
        logger.warning("%d genes are constant and are left out of the ranking: %s", constant.sum(), listing(frame.index[constant], 6))  # fmt: skip
        frame[constant] = np.nan
    return frame


def _group_scores(table: AnnData, layers: Sequence[Expression], by: str) -> pd.DataFrame:
    labels = table.obs[by].iloc[layers[0].rows]
    if labels.isna().any():
        raise ValueError(
            f"obs[{by!r}] has NaN at {int(labels.isna().sum())} locations; give them a group, or leave them out."
        )
    sizes = labels.astype(str).value_counts()
    order = labels.cat.categories.astype(str) if hasattr(labels, "cat") else sorted(sizes.index)
    small = [group for group in order if 0 < sizes.get(group, 0) < 2]
    groups = [group for group in order if sizes.get(group, 0) >= 2]
    if small:
        logger.warning("groups of one location are left out: %s", listing(small))
    if len(sizes) < 2 or not groups:
        listed = ", ".join(f"{group}: {size}" for group, size in sizes.items())
        raise ValueError(f"obs[{by!r}] has no two groups, one of them with two locations or more ({listed}).")
    member = labels.astype(str).to_numpy()[:, None] == np.array(groups)
    return _mean(layers, True, lambda units: group_scores(units, member), groups)


def _markers(scores: pd.DataFrame, panel: np.ndarray, n_markers: int) -> dict[str, list[str]]:
    lists = {}
    for group in scores:
        z = scores[group].fillna(0).to_numpy()
        found = np.flatnonzero((false_discovery_control(2 * norm.sf(np.abs(z))) < _FDR) & (z > 0))
        lists[str(group)] = panel[found[np.argsort(-z[found], kind="stable")][:n_markers]].tolist()
    empty = [group for group, genes in lists.items() if not genes]
    if empty:
        logger.warning("no gene is a marker of %s; left out", listing(empty))
    lists = {group: genes for group, genes in lists.items() if genes}
    if not lists:
        raise ValueError("No group has a gene that is higher in it at a false discovery rate below 0.05.")
    return lists


def _column_lists(table: AnnData, by: str, universe: np.ndarray) -> dict[str, list[str]]:
    column = table.var[by].loc[universe]
    if column.dtype.kind == "b":
        lists = {by: universe[column.to_numpy()].tolist()}
    elif _numeric(column):
        raise ValueError(f"var[{by!r}] holds numbers, not groups of genes; rank genes by it with method='prerank'.")
    else:
        names = column.cat.categories if hasattr(column, "cat") else sorted(column.dropna().unique())
        lists = {str(name): universe[(column == name).to_numpy()].tolist() for name in names}
    lists = {name: genes for name, genes in lists.items() if genes}
    if not lists:
        raise ValueError(f"var[{by!r}] groups none of the {len(universe)} modelled genes.")
    return lists


def _in_panel(table: AnnData, genes: Sequence[str], panel: np.ndarray) -> list[str]:
    """Return the names in the table of those genes that are in the panel; genes may have the other kind of name."""
    columns = columns_of(table, genes)
    modelled = set(panel)
    names = table.var_names[columns[columns >= 0]].astype(str)
    return [name for name in dict.fromkeys(names) if name in modelled]


def _named_lists(table: AnnData, by: Mapping[str, Sequence[str]], panel: np.ndarray) -> dict[str, list[str]]:
    if not by:
        raise ValueError("There is no list of genes: by is empty.")
    lists = {}
    for name, genes in by.items():
        if isinstance(genes, str):
            raise TypeError(f"by[{name!r}] has to be a list of genes, not one text.")
        asked = list(dict.fromkeys(genes))
        lists[str(name)] = _in_panel(table, asked, panel)
        if not lists[str(name)]:
            raise ValueError(f"None of the {len(asked)} genes of by[{name!r}] is among the {len(panel)} modelled ones.")
        if len(lists[str(name)]) < len(asked):
            logger.info("%d of %d genes of %r were not modelled and do not count", len(asked) - len(lists[str(name)]), len(asked), name)  # fmt: skip
    return lists


def _given(series: pd.Series, panel: np.ndarray, name: str) -> pd.DataFrame:
    if not series.index.is_unique:
        raise ValueError(f"The statistic {name!r} names genes more than once.")
    values = series.reindex(panel)
    if not _numeric(values) or not np.isfinite(values.astype(float)).all():
        lacking = panel[values.isna().to_numpy()]
        raise ValueError(
            f"The statistic {name!r} needs a finite number for each of the {len(panel)} modelled genes; it lacks "
            f"{len(lacking)}, such as {listing(lacking, 4)}."
        )
    return pd.DataFrame({name: values.astype(float)})


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
