"""Agreement of predicted with measured coexpression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import names_of, one_of, positive, present, seed_of
from hisdiff._docs import documented
from hisdiff._sdata._expression import X, draw_layers, panel_columns, read_expression, table_of
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import panel_of, records
from hisdiff._stats._coexpression import correlations, matrix_agreement, unit_columns
from hisdiff._stats._modules import leiden_modules
from hisdiff._stats._resample import random_spots
from hisdiff._stats._structure import normalize_library_size
from hisdiff.tl._evaluate import control_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain

METHODS = ("spearman", "pearson")


@documented
@checked
def coexpression_agreement(
    data: SpatialData | AnnData,
    genes: Sequence[str] | None = None,
    *,
    layers: str | Sequence[str] | None = None,
    truth: str | None = None,
    method: str = "spearman",
    normalize: str | None = "library_size",
    resolution: float = 1.0,
    control: SpatialData | Sequence[SpatialData] | None = None,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Compare the coexpression of predictions with the measured one.

    Coexpression alone is no evidence of accuracy: random spots of another section have it too. ``control`` shows what they
    reach.

    Parameters
    ----------
    data
        Object with predictions in units ``"log2"`` or ``"counts"`` and with measured counts of the same locations.
    genes
        Genes to compare; None for those that all the layers cover.
    layers
        Names of predictions, of which both the mean and the draws are evaluated, or of single layers; None for all predictions.
    %(truth_layer)s
    method
        ``"spearman"`` or ``"pearson"``.
    normalize
        ``"library_size"`` adds the metrics after scaling every location to the same total count; None skips them.
    resolution
        Resolution of the modules, as in :func:`coexpression`.
    control
        Training sections, whose measured spots, drawn at random, are evaluated as a control.
    %(table_key)s
    %(rng)s
        It is used by Leiden and by the random controls.

    Returns
    -------
    A DataFrame with one row per layer and view. ``view`` is ``"mean"`` (mean of draws, which is smooth and overestimates
    correlations), ``"draw"`` (mean of the metrics of single draws; the one to compare with the measurement), ``"draws"``
    (the matrices of the kept draws averaged, if there are several), ``"layer"``, and ``"resampled"`` for the measured
    locations drawn again with replacement, which shows the sampling error of the metrics. Columns:

    - ``r``, ``mae``: correlation and mean absolute difference of the entries off the diagonal, over genes that vary in
      the measurement; a gene that is constant in the prediction counts as correlated with none;
    - ``module_ari``: adjusted Rand index of the modules;
    - ``r_norm``, ``mae_norm``, ``module_ari_norm``: the same, library-size normalised.

    Raises
    ------
    KeyError
        If there is no such layer or gene, or no prediction.
    ValueError
        As in :func:`coexpression`; also if no gene varies in the measurement.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=400)
    >>> hd.tl.predict(test, hd.tl.fit(train, method="ridge"))
    >>> frame = hd.tl.coexpression_agreement(test, control=train)
    >>> list(frame["view"])
    ['mean', 'draw', 'random spots', 'resampled']
    """
    one_of(method, METHODS, "method")
    if normalize is not None:
        one_of(normalize, ("library_size",), "normalize")
    positive(resolution, "resolution")
    seed = seed_of(rng)
    table = table_of(data, table_key, "coexpression", layers)
    measured = truth or X
    views = layer_views(table, layers)
    names = list(dict.fromkeys([measured, *(name for _, _, parts in views for name in parts)]))
    rows = [(layer, view) for layer, view, _ in views]
    rows += [("control", "random spots")] if control is not None else []
    rows += [(measured, "resampled")]
    frame = pd.DataFrame(rows, columns=["layer", "view"])

    random = None
    if control is not None:
        panel = table.var_names[panel_columns(table, names)].to_numpy(str)
        random = (panel, control_values(control, panel_of(table) or table_key, panel))
    for suffix, scaling in (("", None), ("_norm", normalize)):
        if suffix and scaling is None:
            continue
        read = {e.layer: e for e in read_expression(table, names, genes=genes, normalize=scaling)}
        base = read[measured]
        shape = (len(base.rows), len(base.genes))

        def matrix(block: Callable[[slice], np.ndarray], shape: tuple[int, int] = shape) -> np.ndarray:
            return correlations(unit_columns(block, *shape, ranked=method == "spearman"))

        matrices = {name: matrix(e.block) for name, e in read.items()}
        true = matrices[measured]
        if not (np.diag(true) > 0).any():
            raise ValueError(f"All {shape[1]} genes are constant in {measured!r}.")
        groups = [_compared(parts, view, matrices) for _, view, parts in views]
        if random is not None:
            values = random_spots(random[1], shape[0], 1, seed)[0]
            values = normalize_library_size(values) if scaling else values
            values = values[:, pd.Index(random[0]).get_indexer(base.genes)]
            groups.append([matrix(_reader(values))])
        again = np.random.default_rng(seed).integers(shape[0], size=shape[0])
        groups.append([matrix(_reader(base.values()[again]))])
        metrics = pd.DataFrame([_metrics(true, group, resolution, seed) for group in groups]).add_suffix(suffix)
        frame = pd.concat([frame, metrics], axis=1)
    return frame


def layer_views(table: AnnData, layers: str | Sequence[str] | None) -> list[tuple[str, str, list[str]]]:
    """Return ``(layer, view, names of layers)``: a prediction as its mean and as its draws, another layer as itself."""
    made = [name for name in records(table, _keys.PREDICTIONS) if name in table.layers]
    if layers is None and not made:
        raise KeyError("The table has no prediction to compare; make one with hd.tl.predict(sdata), or name layers=.")
    wanted = made if layers is None else names_of(layers)
    if not wanted:
        raise ValueError("There is no layer: layers is empty.")
    views = []
    for name in wanted:
        present(name, [X, *layer_names(table)], "layer")
        draws = draw_layers(table, name) if name in made else []
        views.append((name, "mean" if name in made else "layer", [name]))
        views += [(name, "draw", draws)] if draws else []
        views += [(name, "draws", draws)] if len(draws) > 1 else []
    return views


def _compared(parts: Sequence[str], view: str, matrices: dict[str, np.ndarray]) -> list[np.ndarray]:
    each = [matrices[name] for name in parts]
    return [np.mean(each, axis=0)] if view == "draws" else each


def _reader(values: np.ndarray) -> Callable[[slice], np.ndarray]:
    return lambda genes: values[:, genes]


def _metrics(true: np.ndarray, others: Sequence[np.ndarray], resolution: float, seed: int) -> Plain:
    """Return the mean of the metrics of several matrices."""
    from sklearn.metrics import adjusted_rand_score

    varies = np.diag(true) > 0
    labels = lambda matrix: leiden_modules(matrix, resolution=resolution, min_genes=1, seed=seed)[varies]  # noqa: E731
    modules = labels(true)
    rows = [(*matrix_agreement(true, other), adjusted_rand_score(modules, labels(other))) for other in others]
    return dict(zip(("r", "mae", "module_ari"), np.mean(rows, axis=0).tolist()))
