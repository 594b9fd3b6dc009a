"""A section as a coarser array would have measured it, so that the spots it has are a truth finer than that array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel

from hisdiff import _keys
from hisdiff._check import listing, positive
from hisdiff._geometry._blocks import blocks_of, unions
from hisdiff._geometry._grid import discs
from hisdiff._sdata._annotation import annotating, instances_of
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geopandas import GeoDataFrame

    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._locate import Place

N_MEMBERS = "n_members"  # obs of the coarse table: how many spots a pseudo-spot is made of


@dataclass(frozen=True)
class Coarsened:
    """A section whose spots were merged.

    Attributes
    ----------
    sdata
        What a coarser array would have given: the images of the section (the same objects), and pseudo-spots and their
        table under the names that spots and table have. ``obs["n_members"]`` counts members.
    parent
        ``(n,)`` row of the coarse table that each row of the table of the spots went into.
    table_key
        Name of the table.
    n
        Spots along a side of a pseudo-spot.
    """

    sdata: SpatialData
    parent: np.ndarray
    table_key: str
    n: int

    @property
    def complete(self) -> np.ndarray:
        """``(n,)`` bool: spots of pseudo-spots that have all their members."""
        members = self.sdata.tables[self.table_key].obs[N_MEMBERS].to_numpy()
        return members[self.parent] == self.n**2


def coarsen(bounds: Sequence[Bound], n: int) -> Coarsened:
    """Merge ``n`` x ``n`` neighbouring spots of sections into pseudo-spots.

    The pseudo-spot of a spot is ``array_row // n``, ``array_col // n`` of its section (``array_col // (2 n)`` on a
    hexagonal array). Its counts are the sums of its members', its footprint the union of theirs. Embeddings and
    results are left behind; the choice of genes is kept.

    Parameters
    ----------
    bounds
        Sections of one object, opened with their counts.
    n
        Spots along a side of a pseudo-spot, 2 or more.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> from hisdiff._sdata._read import open_sections
    >>> coarse = coarsen(open_sections(sdata, needs=["counts"]), 2)
    >>> bool((coarse.sdata.tables["table"].X.sum() == sdata.tables["table"].X.sum()))
    True
    """
    if positive(n, "n", integer=True) < 2:
        raise ValueError(f"Spots are merged n x n, with n of at least 2, not {n}.")
    sdata, table, key = bounds[0].place.sdata, bounds[0].table, needed(bounds[0].place.table_key)
    missing = [name for name in (_keys.ARRAY_ROW, _keys.ARRAY_COL) if name not in table.obs]
    if missing:
        raise ValueError(f"Table {key!r} has no obs column {missing}; obs has {listing(table.obs.columns)}.")
    places = [bound.place for bound in bounds]

    parent, n_blocks = np.zeros(table.n_obs, dtype=np.int64), 0
    shapes: dict[str, GeoDataFrame] = dict(sdata.shapes)
    parts: list[pd.DataFrame] = []
    for place in places:
        region = str(place.region)
        found, block = blocks_of(table.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy()[place.rows], n)
        parent[place.rows] = n_blocks + block
        n_blocks += len(found)
        names = [f"{region}_{i}x{j}" for i, j in found]
        shapes[region] = _outlines(place, region, block, names)
        obs = {_keys.ARRAY_ROW: found[:, 0], _keys.ARRAY_COL: found[:, 1], N_MEMBERS: np.bincount(block)}
        parts.append(pd.DataFrame({**obs, _keys.REGION_KEY: region, _keys.INSTANCE_KEY: names}, index=names))
    tables = {key: _table(bounds, parent, pd.concat(parts))}
    return Coarsened(SpatialData(images=dict(sdata.images), shapes=shapes, tables=tables), parent, key, n)


def _outlines(place: Place, region: str, block: np.ndarray, names: list[str]) -> GeoDataFrame:
    """Return the footprints of the pseudo-spots of a section, in the coordinates of its spots' own element."""
    element = place.sdata.shapes[region]
    rows = element.index.get_indexer(instances_of(needed(place.table))[place.rows])
    if (rows < 0).any():
        raise ValueError(f"{int((rows < 0).sum())} rows of table {place.table_key!r} have no shape in {region!r}.")
    geometry = np.asarray(element.geometry)[rows]
    if "radius" in element.columns:
        geometry = discs(shapely.get_coordinates(geometry), element["radius"].to_numpy(dtype=float)[rows])
    frame = gpd.GeoDataFrame(geometry=unions(geometry, block), index=names)
    return ShapesModel.parse(frame, transformations=place.elements.frame(region).transformations)


def _table(bounds: Sequence[Bound], parent: np.ndarray, obs: pd.DataFrame) -> ad.AnnData:
    table, rows = bounds[0].table, np.concatenate([bound.place.rows for bound in bounds])
    counts = sparse.vstack([needed(bound.section.counts) for bound in bounds], format="csr")
    ones = np.ones(len(rows), dtype=np.float32)
    sums = sparse.csr_matrix((ones, (parent[rows], np.arange(len(rows)))), (len(obs), len(rows)))
    obsm = {}
    if _keys.SPATIAL in table.obsm:
        obsm[_keys.SPATIAL] = sums @ np.asarray(table.obsm[_keys.SPATIAL])[rows] / obs[[N_MEMBERS]].to_numpy()
    obs[_keys.REGION_KEY] = pd.Categorical(obs[_keys.REGION_KEY])
    made = ad.AnnData(sparse.csr_matrix(sums @ counts), obs=obs, var=table.var.copy(), obsm=obsm)
    return annotating(made, list(obs[_keys.REGION_KEY].cat.categories))
