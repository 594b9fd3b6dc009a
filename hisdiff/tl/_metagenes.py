"""Where the metagenes of an ``xfuse`` model are active, and what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._docs import documented
from hisdiff._geometry._grid import block_slices
from hisdiff._log import logger
from hisdiff._log import progress as progress_bar
from hisdiff._runtime import Runtime
from hisdiff._sdata._provenance import check_slots_free, checked_name, mark_slots
from hisdiff._sdata._selection import Selection
from hisdiff._section import Locations
from hisdiff.tl._conditions import field_of, model_for
from hisdiff.tl._fine_table import grid_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff.models._model import Model


@documented
@checked
def metagenes(
    sdata: SpatialData,
    model: Model | str | Path | None = None,
    *,
    n_draws: int = 10,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    key_added: str = _keys.METAGENES,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> None:
    """Map the metagenes of an ``xfuse`` model on the bins of a fine prediction.

    Parameters
    ----------
    %(fine_sdata)s
    %(model)s
    n_draws
        Number of draws of the latent image.
    %(fine_table_key)s
    image_key, mpp
        As in :func:`predict`.
    %(key_added)s
    %(rng)s
    %(device)s
    %(progress)s

    Returns
    -------
    None, and sets in the fine table ``obsm["hisdiff_metagenes"]`` (DataFrame, a column for each metagene: mean activity; those of a
    bin sum to 1), ``obsm["hisdiff_metagenes_std"]`` (its spread over draws), ``obs["hisdiff_metagenes_scale"]`` (mean expression per area,
    relative to the mean over bins), and ``uns["hisdiff"]["metagenes"]["hisdiff_metagenes"]`` (DataFrame by gene: log2 of each metagene's
    expression over the mean of all metagenes, and columns ``..._sd``).

    Raises
    ------
    ValueError
        If the model is of another method, the table has no grid, the object has several sections, or a slot of that name
        was not written by hisdiff.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> small = {"image_mpp": 8, "levels": 2, "channels": 2, "patch_px": 32, "max_steps": 5, "prune": False}
    >>> model = hd.tl.fit(sdata, method="xfuse", config=small)
    >>> hd.tl.predict(sdata, resolution_um=40)
    >>> hd.tl.metagenes(sdata, n_draws=2)
    >>> sdata.tables["xfuse_40um"].obsm["hisdiff_metagenes"].shape[1]
    8
    """
    table, ij, side_um = grid_of(sdata, table_key, None)
    std, scale = _keys.std(key_added), f"{key_added}_scale"
    check_slots_free(table, "obsm", [checked_name(key_added, _keys.METAGENES), std])
    check_slots_free(table, "obs", [scale])
    n_draws = positive(n_draws, "n_draws", integer=True)
    selection = Selection(image_key=image_key, mpp=mpp)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    used = model_for(sdata, model)
    if used.method != "xfuse":
        raise ValueError(f"Metagenes are of method 'xfuse'; this model is of {used.method!r}.")
    fitted: Any = used.fitted
    field: Any = field_of(sdata, used, selection, runtime, n_draws=n_draws, with_counts=False)
    k = fitted.model.n_metagenes
    mean, spread, total = np.empty((len(ij), k)), np.empty((len(ij), k)), np.empty(len(ij))
    for rows in progress_bar(block_slices(ij), desc="activities of metagenes", enabled=progress, unit="blocks"):
        density = np.stack(list(field.densities(Locations.bins(ij[rows], side_um))))
        whole = density.sum(axis=2)
        activity = density / whole[..., None]
        mean[rows], spread[rows], total[rows] = activity.mean(axis=0), activity.std(axis=0), whole.mean(axis=0)
    names = [f"metagene{i}" for i in range(k)]
    table.obsm[key_added] = pd.DataFrame(mean.astype(np.float32), index=table.obs_names, columns=names)
    table.obsm[std] = pd.DataFrame(spread.astype(np.float32), index=table.obs_names, columns=names)
    table.obs[scale] = (total / np.nanmean(total)).astype(np.float32)
    mark_slots(table, "obsm", [key_added, std])
    mark_slots(table, "obs", [scale])
    profile, sd = fitted.profiles()
    columns = {name: profile[i] for i, name in enumerate(names)} | {f"{name}_sd": sd[i] for i, name in enumerate(names)}
    genes = pd.Index(fitted.genes.astype(str), name="gene")
    table.uns[_keys.STEM].setdefault(_keys.METAGENE_PROFILES, {})[key_added] = pd.DataFrame(columns, index=genes)
    logger.info("wrote obsm[%r]: %d bins x %d metagenes", key_added, len(ij), k)
