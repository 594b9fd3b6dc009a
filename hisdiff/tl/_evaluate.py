"""Accuracy of a prediction where spots were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._check import listing, one_of, present
from hisdiff._log import logger
from hisdiff._sdata._expression import draw_layers
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._graph import nearest
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._locate import resolve_table
from hisdiff._sdata._read import as_list, read_counts, truth_counts
from hisdiff._sdata._write import in_sample_of, records
from hisdiff._stats._accuracy import mae, mse, pearson, spearman
from hisdiff._stats._figures import figures
from hisdiff._stats._proper import coverage, energy_score
from hisdiff._stats._resample import random_spots
from hisdiff._stats._structure import normalize_depth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData


def evaluate(
    data: SpatialData | AnnData,
    *,
    layer: str = _keys.STEM,
    truth: str | None = None,
    normalize: str | None = "depth",
    control: SpatialData | Sequence[SpatialData] | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Measure a prediction against measured counts.

    Everything is computed on log2(1 + count). Much of the correlation between genes and places is sequencing depth and
    cell density, so every figure is also given after scaling each spot to the same total count (``"depth"``).

    Parameters
    ----------
    data
        Object with a prediction of :func:`hisdiff.tl.predict` in units ``"log2"`` and measured counts.
    layer
        Stem of the prediction's layers.
    truth
        Layer with the raw counts, or a table with the same observations; None for ``X``.
    normalize
        ``"depth"``, or None to leave out the depth-normalised figures.
    control
        Training sections: adds the figures that their measured spots reach when they are drawn at random, the image
        ignored. What this control reaches is no skill.
    table_key
        Table with the prediction; needed where several could be meant.

    Returns
    -------
    A frame with one row per gene that was modelled and measured: ``pearson`` (NaN where the measured gene is constant),
    ``spearman``, ``mse``, ``mae``, and ``pearson_norm``. Its ``attrs`` hold

    - ``"summary"``: for ``"mean"``, ``"draw"`` (the first draw), ``"random_spots"`` (with ``control``), each also with
      ``"_norm"``: ``pcc_10 pcc_50 pcc_all mse mae rvd coexpression_r coexpression_mae moran_mae``; and for ``"mean"``
      ``energy_score`` (NaN unless two draws or more were kept) and ``coverage_90``. ``pcc_10`` and ``pcc_50`` choose
      their genes by the figure itself; ``pcc_all`` does not;
    - ``"in_sample"``: whether the model was trained on these spots (None: it cannot be told); ``"uses_section_counts"``:
      whether their counts, beyond their depth, went into the prediction; ``"model"``, ``"method"``, ``"n_spots"``.

    Raises
    ------
    KeyError
        If there is no such prediction or truth.
    ValueError
        If the prediction is not in units ``"log2"``, or the truth is no counts.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=600)
    >>> hd.tl.predict(test, hd.tl.fit(train, method="ridge"))
    >>> result = hd.tl.evaluate(test, layer="ridge")
    >>> bool(result["pearson"].mean() > 0.1)
    True
    """
    if normalize is not None:
        one_of(normalize, ("depth",), "normalize")
    table = _table(data, table_key)
    record = _record(table, layer)
    counts, names = _truth(data, table, truth)
    genes = table.var_names[table.var[_keys.modelled(layer)].to_numpy(dtype=bool)].astype(str).to_numpy()
    columns = rows_of(genes, names)
    if not (columns >= 0).any():
        raise ValueError(
            f"None of the {len(genes)} modelled genes is in the truth, whose genes look like {listing(names, 3)}."
        )
    genes, columns = genes[columns >= 0], columns[columns >= 0]
    rows = np.flatnonzero(np.isfinite(table.layers[layer][:, rows_of(genes, table.var_names)]).all(axis=1))
    measured = np.log2(1 + counts[rows][:, columns].toarray())
    predicted = {name: _values(table, name, rows, genes) for name in _layers(table, layer)}
    drawn = _draws(predicted, layer)
    mean, draws = predicted[layer], np.stack(drawn) if drawn else None

    result = pd.DataFrame(
        {
            "pearson": pearson(measured, mean),
            "spearman": spearman(measured, mean),
            "mse": mse(measured, mean),
            "mae": mae(measured, mean),
        },
        index=pd.Index(genes, name="gene"),
    )
    weights = nearest(table, rows)
    views = {"mean": mean}
    if draws is not None:
        views["draw"] = draws[0]
    if control is not None:
        views["random_spots"] = random_spots(
            control_values(control, table_key, genes), len(rows), 1, int(record["seed"])
        )[0]
    summary = {name: figures(measured, view, weights) for name, view in views.items()}
    if normalize is not None:
        flat = normalize_depth(measured)
        result["pearson_norm"] = pearson(flat, normalize_depth(mean))
        summary |= {f"{name}_norm": figures(flat, normalize_depth(view), weights) for name, view in views.items()}
        if len(genes) == 1:  # it is all of the depth: nothing is left of it when that is taken out
            result["pearson_norm"] = np.nan
            summary |= {f"{name}_norm": dict.fromkeys(summary[name], float("nan")) for name in views}
    several = draws is not None and len(draws) > 1
    summary["mean"]["energy_score"] = float(energy_score(draws, measured).mean()) if several else float("nan")
    summary["mean"]["coverage_90"] = _coverage(table, layer, measured, mean, predicted[_keys.std(layer)], genes)
    result.attrs = {
        "summary": summary,
        "in_sample": in_sample_of(record),
        "uses_section_counts": bool(record["uses_section_counts"]),
        "model": str(record["model"]),
        "method": str(record["method"]),
        "n_spots": len(rows),
    }
    if result.attrs["in_sample"]:
        logger.warning("the model was trained on spots of this section: these figures say nothing about new tissue")
    if result.attrs["in_sample"] is None:
        logger.warning(
            "it is not known whether the model was trained on spots of this section: the record does not tell"
        )
    if result.attrs["uses_section_counts"]:
        logger.warning(
            "%s made this prediction from the section's own counts: figures against them say nothing about skill",
            result.attrs["method"],
        )
    return result


def _table(data: SpatialData | AnnData, table_key: str | None) -> AnnData:
    if not hasattr(data, "tables"):
        return data
    key = resolve_table(data, table_key)
    if key is None:
        raise KeyError("The object has no table with a prediction; make one with hd.tl.predict(sdata).")
    return data.tables[key]


def _record(table: AnnData, layer: str) -> dict[str, Any]:
    known = records(table, _keys.PREDICTIONS)
    if layer not in known or layer not in table.layers:
        raise KeyError(
            f"There is no prediction {layer!r}; available: {listing(known)}. Make it with hd.tl.predict(sdata)."
        )
    if known[layer]["units"] != _keys.LOG2:
        raise ValueError(
            f"Prediction {layer!r} is in units {known[layer]['units']!r}; figures are computed on log2(1 + count): predict with units='log2'."
        )
    return known[layer]


def _truth(data: SpatialData | AnnData, table: AnnData, truth: str | None) -> tuple[csr_matrix, np.ndarray]:
    """Return counts in the rows of the table, and their genes."""
    tables = dict(data.tables) if hasattr(data, "tables") else {}
    if truth is None or truth in table.layers:
        return truth_counts(table, truth), table.var_names.to_numpy().astype(str)
    other = tables[present(truth, [*layer_names(table), *tables], "layer or table")]
    where = other.obs_names.get_indexer(table.obs_names)
    if (where < 0).any():
        raise ValueError(
            f"Table {truth!r} lacks {int((where < 0).sum())} of the {table.n_obs} observations; it needs the same obs_names."
        )
    return read_counts(other, None, what=f"table {truth!r}", argument=None)[where], gene_names(
        other, like=table.var_names
    )


def _layers(table: AnnData, stem: str) -> list[str]:
    return [stem, _keys.std(stem), *draw_layers(table, stem)]


def _draws(predicted: dict[str, np.ndarray], stem: str) -> list[np.ndarray]:
    return [values for name, values in predicted.items() if name not in (stem, _keys.std(stem))]


def _values(table: AnnData, layer: str, rows: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    return np.asarray(table.layers[layer])[np.ix_(rows, rows_of(genes, table.var_names))]


def control_values(
    control: SpatialData | Sequence[SpatialData], table_key: str | None, genes: np.ndarray
) -> np.ndarray:
    """Return log2(1 + count) of the measured spots of training sections, float32 ``(m, G)``."""
    parts = []
    for sdata in as_list(control):
        table = _table(sdata, table_key)
        columns = rows_of(genes, gene_names(table, like=genes))
        if (columns < 0).any():
            raise KeyError(
                f"A control section lacks {int((columns < 0).sum())} of the genes, such as {listing(genes[columns < 0], 4)}."
            )
        parts.append(np.log2(1 + _control_counts(table)[:, columns].toarray()))
    return np.concatenate(parts)


def _control_counts(table: AnnData) -> csr_matrix:
    return read_counts(table, None, what="the control's table", argument=None)


def _coverage(
    table: AnnData, layer: str, measured: np.ndarray, mean: np.ndarray, std: np.ndarray, genes: np.ndarray
) -> float:
    if _keys.interval_factor(layer) not in table.var:
        return float("nan")
    factor = table.var[_keys.interval_factor(layer)].to_numpy(dtype=float)[rows_of(genes, table.var_names)]
    covered = coverage(measured, mean, std, factor)
    # A method that gives one value knows no interval, and a single draw has no spread.
    return float(np.nanmean(covered)) if np.isfinite(covered).any() else float("nan")
