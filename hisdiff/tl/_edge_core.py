"""Edge and core of a region, and the genes that differ between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, positive, present
from hisdiff._docs import documented
from hisdiff._geometry._raster import depth_inside, large_parts
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._sdata._area import areas_of, tables_places, write_columns
from hisdiff._sdata._expression import read_expression
from hisdiff._sdata._provenance import check_slots_free, checked_name, set_record
from hisdiff._sdata._selection import Selection
from hisdiff._stats._contrast import contrast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._sdata._area import Area

EDGE, CORE, OUTSIDE = "edge", "core", "outside"
# Side of a block of tissue that counts as one observation where no measured spot tells what bins have in common.
_BLOCK_UM = 200.0


@documented
@checked
def edge_core(
    sdata: SpatialData,
    region: str = _keys.REGION,
    *,
    width_um: float = 100.0,
    min_area_um2: float = 20_000.0,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    key_added: str = _keys.EDGE_CORE_OF,
    inplace: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Split a region, such as a tumour, into its edge and its core, and compare genes between them.

    The edge is the part of the region within ``width_um`` of its boundary, measured by a distance transform, in all parts of
    the region above a minimum area, of any shape. Genes are compared between units of replication: measured spots (a
    bin of a fine map belongs to its nearest spot, and a spot to edge or core by most of its bins), or blocks of 200 um
    where there are none. Neighbouring spots are correlated, so prefer effect sizes and use p-values as a ranking only.

    Parameters
    ----------
    %(section)s
    region
        Column of ``obs`` that says which locations are in the region (bool), such as :func:`marker_regions` writes.
    width_um
        Width of the edge.
    min_area_um2
        Parts of the region smaller than this, in square micrometres, are left out.
    genes
        Genes to compare; None for the panel.
    %(expression_layer)s
    %(spots_table_key)s
    %(image_key)s
    %(mpp)s
    key_added
        Stem of the columns.
    %(inplace)s

    Returns
    -------
    None, and sets ``obs["hisdiff_edge_core"]`` (``"edge"``, ``"core"``, ``"outside"``),
    ``obs["hisdiff_edge_core_depth_um"]`` (distance inside the region, 0 outside) and
    ``uns["hisdiff"]["edge_core"]["hisdiff_edge_core"]``, with ``"genes"``, a frame sorted by effect: ``gene``,
    ``log2_fold_change`` (edge over core), ``auc``, ``mean_edge``, ``mean_core`` (counts), ``p``, ``fdr``; and ``"n_edge"``,
    ``"n_core"``, the units. Or both frames.

    Raises
    ------
    KeyError
        If there is no such column, gene, layer or table.
    ValueError
        If the column is not bool, no part of the region is large enough, or none of it is deeper than ``width_um``.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=1000)
    >>> table = sdata.tables["table"]
    >>> table.obs["left"] = table.obsm["spatial"][:, 0] < 1200
    >>> hd.tl.edge_core(sdata, "left", width_um=120)
    >>> sorted(table.obs["hisdiff_edge_core"].unique())
    ['core', 'edge', 'outside']
    """
    positive(width_um, "width_um")
    positive(min_area_um2, "min_area_um2")
    table, places = tables_places(sdata, Selection(table_key, image_key, mpp=mpp))
    flag = _flag(table, region)
    key_added = checked_name(key_added, _keys.EDGE_CORE_OF)
    names = [key_added, f"{key_added}_depth_um"]
    if inplace:
        check_slots_free(table, "obs", names)
    expression = read_expression(table, layer, genes=genes, normalize=None, at_least=(4, 1))[0]
    areas = areas_of(places, expression.rows)
    depth = np.zeros(table.n_obs)
    for area in areas:
        mask = area.raster.paint(flag[area.rows]) > 0.5
        kept = large_parts(mask, min_area_um2 / area.raster.pixel_um**2) > 0
        depth[area.rows] = area.raster.at(depth_inside(kept, area.raster.pixel_um)) * flag[area.rows]
    if not (depth > 0).any():
        raise ValueError(f"No part of {region!r} has {min_area_um2:g} um2; lower min_area_um2.")
    if depth.max() <= width_um:
        raise ValueError(
            f"Nothing of {region!r} lies deeper than width_um={width_um:g}: its deepest place is {depth.max():.0f} um inside."
        )
    codes = np.where(depth <= 0, 2, np.where(depth <= width_um, 0, 1))
    columns = {names[0]: pd.Categorical.from_codes(codes, pd.Index([EDGE, CORE, OUTSIDE])), names[1]: depth}
    used = np.flatnonzero(codes[expression.rows] < 2)
    unit, kind = _units(table, areas, expression.rows)
    result, (n_edge, n_core) = contrast(
        lambda genes: expression.block(genes)[used],
        len(expression.genes),
        unit[used],
        codes[expression.rows][used] == 0,
    )
    result = result.rename(columns={"mean_first": "mean_edge", "mean_second": "mean_core"})
    result.insert(0, "gene", expression.genes)
    result = result.iloc[np.argsort(-np.abs(result["log2_fold_change"].to_numpy()), kind="stable")].reset_index(
        drop=True
    )
    if not inplace:
        return pd.DataFrame(columns, index=table.obs_names), result
    write_columns(table, columns)
    record: Plain = {"region": region, "width_um": float(width_um), "min_area_um2": float(min_area_um2)}
    record |= {"layer": expression.layer, "unit": kind, "n_edge": n_edge, "n_core": n_core, "version": VERSION}
    set_record(table, _keys.EDGE_CORE, key_added, record | {"genes": result})
    logger.info("wrote obs[%r]: %d %s of edge and %d of core", key_added, n_edge, kind, n_core)
    return None


def _flag(table: AnnData, region: str) -> np.ndarray:
    flag = table.obs[present(region, list(table.obs), "column of obs")]
    if not pd.api.types.is_bool_dtype(flag.dtype) or flag.isna().any():
        raise ValueError(f"obs[{region!r}] is {flag.dtype}, not bool: it has to say which locations are in the region.")
    flag = flag.astype(bool)  # nullable flags, and categories of them, as a store may hand back
    if not flag.any():
        raise ValueError(f"No location is in the region: obs[{region!r}] is all False (obs: {listing(table.obs)}).")
    return flag.to_numpy()


def _units(table: AnnData, areas: Sequence[Area], rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the unit of replication of each row, and what it is called."""
    if _keys.PARENT_SPOT in table.obs:
        return pd.factorize(table.obs[_keys.PARENT_SPOT].to_numpy()[rows])[0], "spots"
    bins = [area.place.region in area.place.sdata.labels for area in areas]
    if not any(bins):
        return np.arange(len(rows)), "spots"
    unit = np.zeros((len(rows), 3))
    for number, area in enumerate(areas):
        unit[area.chosen] = np.column_stack([np.full(len(area.chosen), number), area.xy_um // _BLOCK_UM])
    return np.unique(unit, axis=0, return_inverse=True)[1].ravel(), "blocks"
