"""Agreement of predicted with measured scores of gene sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff._arguments import checked
from hisdiff._check import one_of, positive, seed_of
from hisdiff._docs import documented
from hisdiff._sdata._expression import X, panel_columns, read_expression, table_of
from hisdiff._sdata._genes import gene_names
from hisdiff._sdata._provenance import panel_of
from hisdiff._stats._accuracy import pearson, spearman
from hisdiff._stats._resample import random_spots
from hisdiff._stats._structure import normalize_library_size
from hisdiff.tl._coexpression_agreement import layer_views
from hisdiff.tl._evaluate import control_values
from hisdiff.tl._gene_sets import in_panel, read_gene_sets
from hisdiff.tl._pathway_scores import SCORES, pathway_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData


@documented
@checked
def pathway_agreement(
    data: SpatialData | AnnData,
    gene_sets: str | Path | Mapping[str, Iterable[str]],
    *,
    layers: str | Sequence[str] | None = None,
    truth: str | None = None,
    method: str = "ssgsea",
    per: str = "pathway",
    normalize: str | None = "library_size",
    control: SpatialData | Sequence[SpatialData] | None = None,
    min_size: int = 5,
    max_size: int = 500,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Compare the scores of gene sets from predicted and from measured expression.

    Parameters
    ----------
    data
        Object with predictions and with measured counts of the same locations.
    gene_sets
        As in :func:`enrich`.
    layers
        Names of predictions, of which both the mean and the draws are evaluated, or of single layers; None for all predictions.
    %(truth_layer)s
    method
        ``"ssgsea"`` or ``"zscore"``, as in :func:`enrich`.
    per
        ``"pathway"``: one row per set. ``"spot"``: one row per location.
    normalize
        ``"library_size"`` scales every location to the same total count first; it has no effect on ``"ssgsea"``.
    control
        Training sections, whose measured spots, drawn at random, are evaluated as a control.
    min_size, max_size
        Minimum and maximum number of genes of a set that all layers cover.
    %(table_key)s
    %(rng)s
        It is used by the random controls.

    Returns
    -------
    A frame with ``layer`` and ``view`` (``"mean"`` of draws, ``"draw"``: metrics of single draws averaged, ``"draws"``: the
    scores of draws averaged first, ``"layer"``, ``"random spots"``), and

    - per pathway: ``term``, ``size`` (genes that entered), ``total`` (genes of the set), ``pearson`` and ``spearman`` over
      locations; NaN where the measured score is the same everywhere, 0 where only the predicted one is;
    - per spot: ``spot``, ``mae``: mean over sets of the absolute difference, in standard deviations of the measured score.

    Raises
    ------
    KeyError
        If there is no such layer, or no prediction.
    ValueError
        As in :func:`enrich`; or with fewer than three locations.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=400)
    >>> hd.tl.predict(test, hd.tl.fit(train, method="ridge"))
    >>> frame = hd.tl.pathway_agreement(test, {"immune": [f"IMM{i:02d}" for i in range(1, 15)]})
    >>> list(frame["view"])
    ['mean', 'draw']
    """
    one_of(method, SCORES, "method")
    one_of(per, ("pathway", "spot"), "per")
    if normalize is not None:
        one_of(normalize, ("library_size",), "normalize")
    positive(min_size, "min_size", integer=True)
    positive(max_size, "max_size", integer=True)
    seed = seed_of(rng)
    table = table_of(data, table_key, "gene sets", layers)
    measured = truth or X
    sets = read_gene_sets(gene_sets)
    views = layer_views(table, layers)
    names = list(dict.fromkeys([measured, *(name for _, _, parts in views for name in parts)]))
    read = {e.layer: e for e in read_expression(table, names, normalize=normalize)}
    genes = read[measured].genes
    wanted = np.unique([gene for members in sets.values() for gene in members])
    known = dict(zip(table.var_names.astype(str), gene_names(table, like=wanted)))
    found = in_panel(sets, np.array([known[gene] for gene in genes]), min_size, max_size)

    scores = {name: pathway_scores(e.values(), found, method) for name, e in read.items()}
    true = scores[measured].astype(np.float64)
    compared = [(layer, view, [scores[name] for name in parts]) for layer, view, parts in views]
    compared = [(layer, view, [np.mean(each, axis=0)] if view == "draws" else each) for layer, view, each in compared]
    if control is not None:
        panel = table.var_names[panel_columns(table, names)].to_numpy(str)
        values = random_spots(control_values(control, panel_of(table) or table_key, panel), len(true), 1, seed)[0]
        values = normalize_library_size(values) if normalize else values
        compared.append(("control", "random spots", [pathway_scores(values, found, method)]))
    spots = table.obs_names[read[measured].rows].to_numpy()
    frames = []
    for layer, view, each in compared:
        if per == "spot":
            frame = pd.DataFrame({"spot": spots, "mae": np.mean([_distance(true, one) for one in each], axis=0)})
        else:
            r, rho = (np.mean([figure(true, one) for one in each], axis=0) for figure in (pearson, spearman))
            sizes = {"size": [len(rows) for rows in found.values()], "total": [len(sets[term]) for term in found]}
            frame = pd.DataFrame({"term": list(found), **sizes, "pearson": r, "spearman": rho})
        frame.insert(0, "view", view)
        frame.insert(0, "layer", layer)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _distance(true: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean over sets of the absolute difference in standard deviations of the truth, ``(n,)``."""
    spread = true.std(axis=0)
    varies = spread > 0
    if not varies.any():
        raise ValueError("The measured score of every set is the same at all locations.")
    return np.abs((other - true)[:, varies] / spread[varies]).mean(axis=1)
