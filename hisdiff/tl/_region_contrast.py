"""Which genes two regions differ in, and how sure a model is of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import one_of, positive
from hisdiff._docs import documented
from hisdiff._geometry._grid import block_slices, by_block
from hisdiff._log import logger
from hisdiff._log import progress as progress_bar
from hisdiff._runtime import Runtime
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._sdata._selection import Selection
from hisdiff._section import Locations
from hisdiff.tl._conditions import field_of, model_for
from hisdiff.tl._fine_table import categories_of, grid_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff.methods._protocols import Field
    from hisdiff.models._model import Model

# Keeps the share of a gene that is not expressed in a region finite: a thousandth of the mean gene's.
_FLOOR = 1e-3
_QUANTILES = (0.05, 0.95)


@documented
@checked
def region_contrast(
    sdata: SpatialData,
    model: Model | str | Path | None = None,
    *,
    by: str,
    a: str,
    b: str | None = None,
    n_draws: int = 50,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    key_added: str = _keys.REGION_CONTRAST,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame | None:
    """Compare the expression of two regions, draw by draw.

    Expected counts are summed over each region and divided by their total, so that density has no effect. The contrast of a
    draw is the log2 ratio of these shares. Its standard deviation over draws is the uncertainty; methods without draws have
    none.

    Parameters
    ----------
    %(fine_sdata)s
    %(model)s
    by
        Categorical column of the fine table's ``obs``, such as :func:`cluster_cells` writes.
    a, b
        Categories to compare; ``b=None`` for all other bins.
    n_draws
        Number of draws.
    %(fine_table_key)s
    image_key, layer, mpp
        As in :func:`predict`.
    %(key_added)s
    %(inplace)s
    %(rng)s
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets ``tables[table_key].uns["hisdiff"][key_added]`` (DataFrame by gene: ``log2_fold_change``, mean over draws;
    ``sd``; ``low`` and ``high``, 5 and 95 %; ``probability_above_0``); or the DataFrame, largest change first.

    Raises
    ------
    KeyError
        If there is no such column, or no model.
    ValueError
        If a category is not in the column, ``a`` and ``b`` are the same, the table has no grid, the object has several
        sections, or there is an entry of that name that this function did not write.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=600)
    >>> model = hd.tl.fit(sdata, method="ridge")
    >>> hd.tl.predict(sdata, resolution_um=50)
    >>> hd.tl.cluster_cells(sdata, 2)
    >>> hd.tl.region_contrast(sdata, by="hisdiff_cluster", a="0", n_draws=4)
    >>> list(sdata.tables["ridge_50um"].uns["hisdiff"]["region_contrast"])
    ['log2_fold_change', 'sd', 'low', 'high', 'probability_above_0']
    """
    table, ij, side_um = grid_of(sdata, table_key, None)
    codes, names = categories_of(table, by)
    first = names.index(one_of(a, names, f"category of obs[{by!r}]"))
    inside = codes == first
    outside = codes >= 0
    outside &= ~inside if b is None else codes == names.index(one_of(b, names, f"category of obs[{by!r}]"))
    if a == b:
        raise ValueError(f"a and b are the same region, {a!r}.")
    n_draws = positive(n_draws, "n_draws", integer=True)
    if inplace:
        check_slots_free(table, _keys.STEM, [checked_name(key_added, _keys.REGION_CONTRAST)])
    selection = Selection(image_key=image_key, layer=layer, mpp=mpp)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    field = field_of(sdata, model_for(sdata, model), selection, runtime, n_draws=n_draws)
    sums = np.stack([_sums(field, ij[rows], side_um, progress) for rows in (inside, outside)])
    change = _log2_shares(sums[0]) - _log2_shares(sums[1])
    low, high = np.quantile(change, _QUANTILES, axis=0)
    result = pd.DataFrame(
        {
            "log2_fold_change": change.mean(axis=0),
            "sd": change.std(axis=0, ddof=1) if len(change) > 1 else np.nan,
            "low": low,
            "high": high,
            "probability_above_0": (change > 0).mean(axis=0),
        },
        index=pd.Index(field.genes.astype(str), name="gene"),
    ).sort_values("log2_fold_change", ascending=False, key=abs)
    if not inplace:
        return result
    table.uns.setdefault(_keys.STEM, {})[key_added] = result
    mark_slots(table, _keys.STEM, [key_added])
    logger.info("wrote uns['hisdiff'][%r]: %d genes, %d draws", key_added, len(result), len(change))
    return None


def _sums(field: Field, ij: np.ndarray, side_um: float, progress: bool | None) -> np.ndarray:
    """Return the sums over bins of each draw, ``(draws, G)``; bins of which nothing is known do not count."""
    ij = by_block(ij)
    total = np.zeros((field.n_draws, len(field.genes)))
    for rows in progress_bar(block_slices(ij), desc="comparing regions", enabled=progress, unit="blocks"):
        bins = Locations.bins(ij[rows], side_um)
        for k, draw in enumerate(field.draws(bins)):
            total[k] += np.nan_to_num(draw).sum(axis=0)
    return total


def _log2_shares(sums: np.ndarray) -> np.ndarray:
    floor = _FLOOR * sums.mean(axis=1, keepdims=True)
    sums = np.maximum(sums, np.maximum(floor, 1e-12))
    return np.log2(sums / sums.sum(axis=1, keepdims=True))
