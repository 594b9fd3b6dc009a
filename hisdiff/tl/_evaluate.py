"""Accuracy of a prediction where spots were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, one_of, present
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._sdata._bound import as_list
from hisdiff._sdata._counts import read_counts, truth_counts
from hisdiff._sdata._expression import draw_layers, judged_prediction
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._graph import layout_of
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import in_sample_of, panel_of
from hisdiff._sdata._results import X, prediction_table
from hisdiff._stats._accuracy import known_mean, mae, mse, spearman
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._proper import coverage
from hisdiff._stats._resample import random_spots
from hisdiff._stats._scorer import SCORES, Scorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from hisdiff._json import Plain


@documented
@checked
def evaluate(
    data: SpatialData | AnnData,
    *,
    layer: str | None = None,
    truth: str | None = None,
    normalize: str | None = "library_size",
    control: SpatialData | Sequence[SpatialData] | None = None,
    table_key: str | None = None,
) -> pd.DataFrame:
    """Compare a prediction with measured counts.

    All metrics are computed on log2(1 + count). Much of the correlation between genes and places comes from library size
    and cell density, so metrics are also computed after scaling each spot to the same total count (``"library_size"``).

    Parameters
    ----------
    data
        Object with a prediction of :func:`hisdiff.tl.predict` in units ``"log2"`` and measured counts.
    layer
        Stem of the prediction's layers; None for the only prediction of the table, or ``"hisdiff"`` among several.
    truth
        Layer with the raw counts, or a table with the same observations; None for ``X``.
    normalize
        ``"library_size"``, or None to skip the library-size normalised metrics.
    control
        Training sections. Their measured spots, drawn at random without using the image, are evaluated as a control.
    %(table_key)s

    Returns
    -------
    A frame with one row per gene that was modelled and measured: ``pearson`` (NaN where the measured gene is constant),
    ``spearman``, ``mse``, ``mae``, and ``pearson_norm``. Its ``attrs`` hold

    - ``"summary"``: for ``"mean"``, ``"draw"`` (the first draw), ``"random_spots"`` (with ``control``), each also with
      ``"_norm"``: ``pcc_10 pcc_50 pcc_200 pcc_all mse mae rvd coexpression_r coexpression_mae moran_mae ssim``.
      ``pcc_10``, ``pcc_50`` and ``pcc_200`` are means over the genes with the highest correlation. ``ssim`` is the
      structural similarity of the maps of a gene, over windows of 1.5 distances between spots. ``"mean"`` also has
      ``coverage_90`` and the proper scores of the draws, lower is better: ``energy_score`` over all genes,
      ``module_crps`` and ``module_energy_score`` on the modules of the cohort's genes, where counting noise averages out;
      ``_centered``: with the mean of the section taken out of each draw and of the measurement. ``_floor``: what is left of
      a score where a spot's own rates are known, from half of the molecules and the other half;
    - ``"notes"``: why a metric is missing (``coverage_90``: NaN), by its name: scores of draws need two draws or more (``keep_draws``);
    - ``"in_sample"``: whether the model was trained on these spots (None: unknown); ``"uses_section_counts"``:
      whether their counts, beyond their library size, went into the prediction; ``"n_given"``: spots that the model was
      adapted to (:func:`hisdiff.tl.adapt`) and that are therefore left out of all metrics, unless it was given all of
      them; ``"library_size_from"``: whether the section's own library size was used (``"section"``), or that of the training
      sections (``"training"``), of the given spots (``"adapted"``) or a given one (``"given"``); ``"model"``, ``"method"``, ``"n_spots"``.

    Raises
    ------
    KeyError
        If there is no such prediction or truth.
    ValueError
        If the prediction is not in units ``"log2"``, or the truth does not hold counts.

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
        one_of(normalize, ("library_size",), "normalize")
    table = _table(data, table_key, layer)
    asked, (layer, record) = layer, judged_prediction(table, layer)
    if asked is None:
        logger.info("evaluating the prediction %r", layer)
    counts, names = _truth(data, table, truth)
    genes = table.var_names[table.var[_keys.modelled(layer)].to_numpy(dtype=bool)].astype(str).to_numpy()
    columns = rows_of(genes, names)
    if not (columns >= 0).any():
        raise ValueError(
            f"None of the {len(genes)} modelled genes is in the truth, whose genes look like {listing(names, 3)}."
        )
    genes, columns = genes[columns >= 0], columns[columns >= 0]
    rows = np.flatnonzero(np.isfinite(table.layers[layer][:, rows_of(genes, table.var_names)]).all(axis=1))
    rows, n_given = _held_back(table, layer, rows)
    predicted = {name: _values(table, name, rows, genes) for name in _layers(table, layer)}
    mean, draws = predicted[layer], _draws(predicted, layer)
    scorer = Scorer(
        counts[rows][:, columns].toarray(),
        layout_of(table, rows),
        _modules(table, layer, genes),
        normalize=normalize is not None,
    )
    views = {"mean": mean, **({"draw": draws[0]} if draws else {})}
    if control is not None:
        spots = control_values(control, panel_of(table) or table_key, genes)
        views["random_spots"] = random_spots(spots, len(rows), 1, int(record["seed"]))[0]
    summary = {f"{name}{end}": of for name, view in views.items() for end, of in scorer.metrics(view).items()}
    for scores in (scorer.scores(draws) if len(draws) > 1 else {}, scorer.floors()):
        for end, of in scores.items():
            summary[f"mean{end}"] |= of
    covered = _coverage(table, layer, scorer.measured, mean, predicted[_keys.std(layer)], genes)
    summary["mean"]["coverage_90"] = covered

    result = _per_gene(scorer, mean, genes)
    facts: Plain = {
        "summary": summary,
        "notes": _notes(record, len(draws), covered, scorer.modules),
        "in_sample": in_sample_of(record),
        "uses_section_counts": bool(record["uses_section_counts"]) and not n_given,
        "n_given": n_given,
        "library_size_from": ", ".join(
            dict.fromkeys(map(str, np.atleast_1d(record.get("library_size_from", "unknown"))))
        ),
        "model": str(record["model"]),
        "method": str(record["method"]),
        "n_spots": len(rows),
    }
    result.attrs.update(facts)
    _warn(facts)
    return result


def _held_back(table: AnnData, layer: str, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the rows whose counts the model was not given, and how many it was given; all rows where it was given all."""
    if _keys.given(layer) not in table.obs:
        return rows, 0
    given = table.obs[_keys.given(layer)].to_numpy(dtype=bool)[rows]
    if given.all() or not given.any():
        return rows, 0
    logger.info("%d spots that the model was adapted to are left out of the metrics", int(given.sum()))
    return rows[~given], int(given.sum())


def _per_gene(scorer: Scorer, mean: np.ndarray, genes: np.ndarray) -> pd.DataFrame:
    measured, correlations = scorer.measured, scorer.correlations(mean)
    columns = {name: of(measured, mean) for name, of in {"spearman": spearman, "mse": mse, "mae": mae}.items()}
    others = {f"pearson{end}": of for end, of in correlations.items() if end}
    return pd.DataFrame({"pearson": correlations[""], **columns, **others}, index=pd.Index(genes, name="gene"))


def _notes(record: Mapping[str, Any], n_draws: int, covered: float, modules: GeneModules | None) -> dict[str, str]:
    """Return why a metric is not in the summary, by its name."""
    notes = {}
    if record["n_draws"] == 1:
        notes = dict.fromkeys(SCORES, "it needs two draws or more, and the prediction was made of one (n_draws=1, or a method of single values)")  # fmt: skip
    elif n_draws < 2:
        why = f"it needs two draws or more, and {n_draws} was kept; predict with keep_draws={record['n_draws']}"
        notes = dict.fromkeys(SCORES, why)
    elif modules is None:
        notes = dict.fromkeys(SCORES[1:], "the model of this prediction has no gene modules; fit and predict again")
    if np.isnan(covered):
        notes["coverage_90"] = "the prediction has no spread, or its model no interval factors"
    return notes


def _warn(facts: Mapping[str, Any]) -> None:
    """Warn where the metrics are no measure of accuracy on new tissue, and log which are missing."""
    for why in dict.fromkeys(facts["notes"].values()):
        names = [name for name, of in facts["notes"].items() if of == why]
        logger.info("not in the summary: %s (%s)", ", ".join(names), why)
    if facts["in_sample"]:
        logger.warning(
            "the model was trained on spots of this section: these metrics do not estimate the accuracy on new tissue"
        )
    if facts["in_sample"] is None:
        logger.warning("it is unknown whether the model was trained on spots of this section")
    if facts["uses_section_counts"]:
        logger.warning(
            "%s made this prediction from the section's own counts: metrics against them do not measure accuracy",
            facts["method"],
        )


def _table(data: SpatialData | AnnData, table_key: str | None, layer: str | None = None) -> AnnData:
    if not hasattr(data, "tables"):
        return data
    key = prediction_table(data, table_key, layer)
    if key is None:
        raise KeyError("The object has no table with a prediction; make one with hd.tl.predict(sdata).")
    return data.tables[key]


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
        table = _table(sdata, table_key, X)
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
    """Return the mean coverage of intervals; NaN where the method gives one value, or a single draw has no spread."""
    if _keys.interval_factor(layer) not in table.var:
        return float("nan")
    factor = table.var[_keys.interval_factor(layer)].to_numpy(dtype=float)[rows_of(genes, table.var_names)]
    covered = coverage(measured, mean, std, factor)
    return known_mean(covered)


def _modules(table: AnnData, layer: str, genes: np.ndarray) -> GeneModules | None:
    """Return the weights of genes in the modules of the prediction's cohort, or None where they were not kept."""
    names = _keys.gene_modules(layer), _keys.gene_modules_norm(layer)
    if any(name not in table.varm for name in names):
        return None
    return GeneModules(*(np.asarray(table.varm[name]) for name in names)).take(rows_of(genes, table.var_names))
