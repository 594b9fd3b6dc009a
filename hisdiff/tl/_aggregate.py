"""Aggregate a table of small locations over larger ones: spots, coarser bins, annotated regions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import shapely
from scipy import sparse

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import listing, names_of, one_of, positive, present
from hisdiff._docs import documented
from hisdiff._geometry._grid import bins_touching, by_block, outlines
from hisdiff._geometry._shares import shares
from hisdiff._log import logger
from hisdiff._log import progress as watched
from hisdiff._sdata._annotation import annotating, annotation, instances_of
from hisdiff._sdata._at import read_locations
from hisdiff._sdata._expression import X, check_not_logged, draw_layers, own_prediction, stem_of
from hisdiff._sdata._grid import Window, labels_element
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._lazy import row_blocks, weighted_sums
from hisdiff._sdata._locate import locate
from hisdiff._sdata._provenance import check_free, checked_name, mark_made_here, records, set_record
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._store import put
from hisdiff._sdata._write import MAX_LAYER_BYTES
from hisdiff._section import Locations, needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place

STATISTICS = ("sum", "mean")
# Values per outline, for the number of outlines that are held at once.
_OUTLINE_VALUES = 200


@documented
@checked
def aggregate(
    sdata: SpatialData,
    values: str,
    by: str | float,
    *,
    statistic: str = "sum",
    layers: str | Sequence[str] | None = None,
    image_key: str | Mapping[str, str] | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    progress: bool | None = None,
) -> AnnData | None:
    """Sum or average a table over larger locations, weighted by shared area.

    A bin that lies in a region by a third contributes a third of its value. Sums over locations without
    gaps and overlaps add up to the total. The table is read block by block, so it can be lazy.

    Parameters
    ----------
    sdata
        Object with the table and the locations.
    values
        A table of bins or shapes, such as ``"hisdiff_16um"``.
    by
        A shapes or labels element, or the side in um of coarser bins.
    statistic
        ``"sum"`` of counts, or ``"mean"`` over the covered area, in the units of the table.
    layers
        Layers to aggregate besides X; None for the draws that were kept. The standard deviation of a sum is computed from
        at least two draws, since the standard deviations of its parts are not independent.
    %(image_key)s
    %(mpp)s
    key_added
        Name of the new table; None for ``{values}_in_{by}``. The labels of coarser bins are named after it.
    %(inplace)s
    %(progress)s

    Returns
    -------
    None, after writing the table ``tables["hisdiff_16um_in_spots"]`` (locations x genes; float32, csr where the source is
    sparse) on the element ``by``, or on new labels ``hisdiff_16um_in_64um_bins``. ``X`` and layers are sums or means; layer
    ``std`` is the spread over two or more draws; ``obs["covered"]`` the part of each location's area that bins lie in
    (above 1 where they overlap); ``obsm["spatial"]`` the centre in pixels. Locations that no bin touches are left out.
    ``uns["hisdiff"]["aggregated"]`` records the source and the statistic. With ``inplace=False`` that table.

    Raises
    ------
    KeyError
        If there is no such table, element or layer.
    ValueError
        If values are logarithms and ``statistic="sum"``, some are NaN, a layer is a spread, the bins of the new grid would
        not be larger than those of the table, no location shares area with any bin, the table annotates several
        elements, the result would be too large, or a name is taken by something hisdiff did not write.

    Notes
    -----
    A disc is approximated by a polygon with 128 corners, whose area is accurate to 0.05 %.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> hd.tl.aggregate(sdata, "truth", 40)
    >>> sdata.tables["truth_in_40um"].obs["covered"].max()
    np.float32(1.0)
    >>> hd.tl.aggregate(sdata, "truth", "toy", key_added="truth_at_spots")
    >>> sdata.tables["truth_at_spots"].n_obs == sdata.tables["table"].n_obs
    True
    """
    one_of(statistic, STATISTICS, "statistic")
    place = _place_of(sdata, values, image_key, mpp)
    source = needed(place.table)
    names = _layers(source, layers, statistic, values)
    sources = _sources(place)
    target = _new_bins(place, by, sources) if not isinstance(by, str) else _element(place, by)
    key = checked_name(key_added, f"{values}_in_{target.name}")
    if inplace:
        for name in [key] if target.ij is None else [key, _keys.bins(key)]:
            check_free(sdata, name)
    weights = _weights(target, sources)
    touched = np.flatnonzero(weights.getnnz(axis=1))
    if not len(touched):
        raise ValueError(f"No location of {target.name!r} shares area with any of table {values!r}.")
    if len(touched) < len(target.where):
        logger.info("%d of %d locations of %r share no area with any of %r and are left out", len(target.where) - len(touched), len(target.where), target.name, values)  # fmt: skip
    target, weights = target.take(touched), weights[touched]
    _check_size(source, target, 1 + len(names))

    areas = np.pi * sources.radius_um**2
    inside = np.asarray(weights @ areas).ravel()
    if statistic == "mean":
        weights = sparse.diags(1 / inside) @ weights @ sparse.diags(areas)
    weights = weights.tocsc()
    summed = {}
    for name in (X, *names):
        matrix = source.X if name == X else source.layers[name]
        shown = partial(watched, desc=f"adding up {name}", enabled=progress)
        summed[name] = weighted_sums(matrix, weights, f"{name!r} of table {values!r}", shown)
    table = _as_table(place, target, key, summed)
    table.obs[_keys.COVERED] = (inside / shapely.area(target.outlines)).astype(np.float32)
    record = {"values": values, "by": target.name, "statistic": statistic, "version": _keys.VERSION}
    set_record(table, _keys.AGGREGATED, None, record)
    if not inplace:
        return table
    labels = {} if target.ij is None else {_keys.bins(key): _labels(place, target)}
    put(sdata, {**labels, key: table}, {name: {_keys.AGGREGATED: values} for name in labels})
    logger.info("wrote table %r: %d locations x %d genes, %ss of %r", key, *table.shape, statistic, values)
    return None


@dataclass(frozen=True)
class _Target:
    """Locations to bring values to, and what each is called; ``ij`` where they are bins made here."""

    name: str
    where: Locations
    instances: np.ndarray
    outlines: np.ndarray
    ij: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> _Target:
        if self.ij is not None:  # bins are numbered in the order in which they are kept
            return _Target(self.name, self.where.take(rows), np.arange(1, len(rows) + 1), self.outlines[rows], self.ij[rows])  # fmt: skip
        return _Target(self.name, self.where.take(rows), self.instances[rows], self.outlines[rows])


def _place_of(sdata: SpatialData, values: str, image_key: Any, mpp: float | None) -> Place:
    places = locate(sdata, Selection(values, image_key, mpp=mpp))
    if len(places) > 1:
        names = listing(place.name for place in places)
        raise ValueError(f"Table {values!r} annotates several elements, {names}; make a table of the rows of one.")
    if places[0].image_key is None:
        raise ValueError(
            f"There is no image for {places[0].name!r}, which gives its scale (images: {listing(sdata.images)})."
        )
    return places[0]


def _layers(table: AnnData, layers: str | Sequence[str] | None, statistic: str, what: str) -> list[str]:
    """Return the layers to bring along, after checking that the statistic suits them and X."""
    own = own_prediction(table)
    if statistic == "sum" or own is not None:  # what is made of a prediction has its units
        check_not_logged(table)
    if layers is None:
        names = [] if own is None else draw_layers(table, own)
    else:
        names = list(dict.fromkeys(names_of(layers)))
    for name in names:
        present(name, layer_names(table), f"layer of table {what!r}")
    if table.X is None or table.n_vars == 0:
        raise ValueError(f"Table {what!r} has nothing in X.")
    for name in (X, *names):
        stem = stem_of(table, name)
        if stem is None:
            continue
        if name in (_keys.std(stem), _keys.FINE_STD):
            raise ValueError(
                f"Layer {name!r} is the spread over draws, and spreads do not add up; that of the result follows from draws "
                f"that were kept, hd.tl.predict(..., keep_draws=4)."
            )
        if statistic == "sum" and records(table, _keys.PREDICTIONS)[stem]["units"] != _keys.COUNTS:
            raise ValueError(
                f"{name!r} of table {what!r} is log2(1 + count), and logarithms do not add up; predict with "
                f"units='counts', or take statistic='mean'."
            )
    return names


def _sources(place: Place) -> Locations:
    """Return the locations of the rows of a table."""
    where, names = read_locations(place, needed(place.region))
    wanted = instances_of(needed(place.table))[place.rows]
    rows = pd.Index(names).get_indexer(wanted)
    if (rows < 0).any():
        raise ValueError(
            f"{int((rows < 0).sum())} of {len(rows)} rows of table {place.table_key!r} have no place in {place.region!r}, "
            f"such as {listing(wanted[rows < 0], 4)}."
        )
    return where.take(rows)


def _element(place: Place, key: str) -> _Target:
    where, instances = read_locations(place, key)
    return _Target(key, where, instances, outlines(where))


def _new_bins(place: Place, side_um: float, sources: Locations) -> _Target:
    """Return the bins of a coarser grid, anchored at the origin of um, that hold any of the sources."""
    side_um = positive(side_um, "by")
    if sources.bin_um is not None and side_um <= sources.bin_um:
        raise ValueError(
            f"by={side_um:g} um is not coarser than the bins of table {place.table_key!r}, {sources.bin_um:g} um."
        )
    found = [bins_touching(sources.take(rows), side_um) for rows in row_blocks(len(sources), _OUTLINE_VALUES)]
    ij = by_block(np.unique(np.concatenate(found), axis=0))
    where = Locations.bins(ij, side_um)
    return _Target(f"{side_um:g}um", where, np.arange(1, len(ij) + 1), outlines(where), ij)


def _check_size(table: AnnData, target: _Target, n_layers: int) -> None:
    size = 8 * len(target.where) * table.n_vars * n_layers
    if size > 2 * MAX_LAYER_BYTES and not sparse.issparse(table.X):
        raise ValueError(
            f"{n_layers} layer(s) of {len(target.where)} locations x {table.n_vars} genes take {size / 1024**3:.1f} GB; take larger "
            f"locations, or fewer genes."
        )


def _weights(target: _Target, sources: Locations) -> sparse.csr_matrix:
    """Return the part of each source that lies in each target, csr ``(targets, sources)``."""
    shapely.prepare(target.outlines)
    blocks = row_blocks(len(sources), _OUTLINE_VALUES)
    return sparse.hstack([shares(target.outlines, sources.take(rows)) for rows in blocks], format="csr")


def _as_table(place: Place, target: _Target, key: str, summed: Mapping[str, Any]) -> AnnData:
    old, region = needed(place.table), target.name if target.ij is None else f"{key}_bins"
    obs = pd.DataFrame(
        annotation(region, target.instances),
        index=pd.Index([f"{region}_{instance}" for instance in target.instances], dtype=str),
    )
    if target.ij is not None:
        obs[_keys.ARRAY_ROW], obs[_keys.ARRAY_COL] = target.ij.T
    stored = {name: matrix.astype(np.float32) for name, matrix in summed.items()}
    table = ad.AnnData(stored.pop(X), obs=obs, var=old.var.copy(), layers=stored)
    own = own_prediction(old)
    draws = [summed[name] for name in draw_layers(old, own) if name in summed] if own is not None else []
    if len(draws) > 1:
        table.layers[_keys.FINE_STD] = np.std(draws, axis=0, ddof=1).astype(np.float32)
    table.obsm[_keys.SPATIAL] = target.where.xy_um / place.mpp
    mark_made_here(table)
    if target.ij is not None:
        table.uns[_keys.STEM][_keys.BIN_UM] = needed(target.where.bin_um)
    of = {stem_of(old, name) for name in summed if name != X} | {own}
    shown = {stem: record for stem, record in records(old, _keys.PREDICTIONS).items() if stem in of}
    if shown:
        table.uns[_keys.STEM][_keys.IN_X] = own or _keys.MEASURED
    for stem, record in shown.items():
        kept = {name: value for name, value in record.items() if name != "resolution_um"}
        bins = {} if target.ij is None else {"resolution_um": target.where.bin_um}
        set_record(table, _keys.PREDICTIONS, stem, {**kept, **bins})
    return annotating(table, region)


def _labels(place: Place, target: _Target) -> Any:
    ij = needed(target.ij)
    return labels_element(place, Window.around(ij, needed(target.where.bin_um)), ij)
