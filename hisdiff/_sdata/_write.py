"""Results go back where scverse looks for them: layers and var columns of the table, or a new table."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy import sparse
from spatialdata.models import ShapesModel

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._annotation import annotating, annotation
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._provenance import check_free, check_slots_free, mark_made_here, mark_slots, records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._sdata._locate import Place
    from hisdiff._section import Names, Prediction

MAX_LAYER_BYTES = 2 * 1024**3


def prediction_layers(stem: str, n_draws: int) -> list[str]:
    """Return the layers that a prediction fills."""
    return [stem, _keys.std(stem), *(_keys.draw(stem, i) for i in range(n_draws))]


def _slots(stem: str) -> dict[str, tuple[str, ...]]:
    """Return what a prediction fills beside layers."""
    return {
        "var": (_keys.modelled(stem), _keys.cv_pcc(stem), _keys.cv_pcc_norm(stem), _keys.interval_factor(stem)),
        "varm": (_keys.gene_modules(stem), _keys.gene_modules_norm(stem)),
        "obs": (_keys.ood(stem), _keys.uncertainty(stem), _keys.given(stem)),
    }


def check_writable(table: AnnData, stem: str, n_draws: int | None) -> None:
    """Raise where a prediction would overwrite what hisdiff did not write; ``n_draws`` None where it fills no layers."""
    if n_draws is not None:
        check_slots_free(table, "layers", prediction_layers(stem, n_draws))
    for slot, names in _slots(stem).items():
        check_slots_free(table, slot, names)


def fits_layers(table: AnnData) -> bool:
    """Whether a layer of a table is of a size that is made."""
    return 4 * table.n_obs * table.n_vars <= MAX_LAYER_BYTES


def check_fits(n_obs: int, n_vars: int, remedy: str) -> None:
    """Raise where a layer would be too large."""
    size = 4 * n_obs * n_vars
    if size > MAX_LAYER_BYTES:
        raise ValueError(
            f"A layer of {n_obs} x {n_vars} float32 values is {size / 1024**3:.1f} GB, above the limit of "
            f"{MAX_LAYER_BYTES / 1024**3:.0f} GB; {remedy}."
        )


def drop_prediction(table: AnnData, stem: str) -> bool:
    """Remove an earlier prediction from a table, as far as hisdiff wrote it; whether there was anything of it.

    Without a record as well: a process that was killed may have taken away the record and the layers, and left the rest.
    """
    dropped = records(table, _keys.PREDICTIONS).pop(stem, None) is not None
    kept = re.compile(rf"{re.escape(stem)}(_std|_draw\d+)?")
    layers = [name for name in layer_names(table) if kept.fullmatch(name)]
    ours = records(table, _keys.WRITTEN)
    for slot, names in {"layers": layers, **_slots(stem)}.items():
        there = getattr(table, slot)
        for name in set(names).intersection(ours.get(slot, ())).intersection(there):
            del there[name]
            dropped = True
    return dropped


def write_layers(
    table: AnnData,
    stem: str,
    rows: Sequence[np.ndarray],
    columns: np.ndarray,
    predictions: Sequence[Prediction],
    kept: str = "",
) -> None:
    """Write predictions of the sections of a table into its layers.

    Parameters
    ----------
    rows
        Rows of each section.
    columns
        Column of each gene of the panel in the table, -1 where the table lacks it.
    predictions
        One for each section. Entries that no prediction covers are NaN.
    kept
        What the log says of where the layers are kept.
    """
    known = np.flatnonzero(columns >= 0)
    values = [[p.mean, p.std, *(p.draws if p.draws is not None else ())] for p in predictions]
    names = prediction_layers(stem, len(values[0]) - 2)
    for name in [name for name in layer_names(table) if re.fullmatch(rf"{re.escape(stem)}_draw\d+", name)]:
        if stem in records(table, _keys.PREDICTIONS):  # of an earlier call that kept more
            del table.layers[name]
    for name, of_sections in zip(names, zip(*values)):
        layer = np.full(table.shape, np.nan, dtype=np.float32)
        for where, part in zip(rows, of_sections):
            layer[np.ix_(where, columns[known])] = part[:, known]
        table.layers[name] = layer
    mark_slots(table, "layers", names)
    modelled = np.zeros(table.n_vars, dtype=bool)
    modelled[columns[known]] = True
    table.var[_keys.modelled(stem)] = modelled
    mark_slots(table, "var", [_keys.modelled(stem)])
    n_draws = len(names) - 2
    logger.info(
        "wrote layers %r and %r%s: %d spots x %d genes, %s%s",
        stem, _keys.std(stem), f" and {n_draws} draw(s)" if n_draws else "", sum(map(len, rows)), len(known), predictions[0].units, kept,
    )  # fmt: skip


def write_var(table: AnnData, name: str, columns: np.ndarray, values: np.ndarray) -> None:
    """Write one value per gene of the panel into a var column, NaN for other genes."""
    column = np.full(table.n_vars, np.nan)
    known = columns >= 0
    column[columns[known]] = values[known]
    table.var[name] = column
    mark_slots(table, "var", [name])


def write_varm(table: AnnData, name: str, columns: np.ndarray, values: np.ndarray) -> None:
    """Write values ``(G, K)`` of the genes of the panel into a varm array, NaN for other genes; nothing where K is 0."""
    if values.shape[1]:
        array = np.full((table.n_vars, values.shape[1]), np.nan, dtype=np.float32)
        known = columns >= 0
        array[columns[known]] = values[known]
        table.varm[name] = array
        mark_slots(table, "varm", [name])


def write_obs(table: AnnData, name: str, rows: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
    """Write values of the sections of a table into an obs column; rows of no section get the type's zero."""
    column = np.zeros(table.n_obs, dtype=np.asarray(values[0]).dtype)
    for where, section_values in zip(rows, values):
        column[where] = section_values
    table.obs[name] = column
    mark_slots(table, "obs", [name])


def check_lattice_writable(sdata: SpatialData) -> None:
    """Raise where the names of a lattice are taken by something that hisdiff did not write."""
    for key in (_keys.LATTICE, _keys.LATTICE_TABLE):
        check_free(sdata, key)


def write_lattice(place: Place, xy_um: np.ndarray, radius_um: float) -> Place:
    """Write the lattice of a section that has only an image: circles in pixels, and a table without genes.

    Returns
    -------
    The place of the section, which has a table now.
    """
    sdata, xy_px = place.sdata, xy_um / place.mpp
    circles = gpd.GeoDataFrame(
        {"geometry": shapely.points(xy_px), "radius": radius_um / place.mpp, _keys.MADE_BY: _keys.STEM}
    )
    sdata.shapes.pop(_keys.LATTICE, None)
    sdata.shapes[_keys.LATTICE] = ShapesModel.parse(circles, transformations=place.image_frame.transformations)
    obs = pd.DataFrame(
        annotation(_keys.LATTICE, np.arange(len(xy_px))), index=[f"lattice_{i}" for i in range(len(xy_px))]
    )
    table = ad.AnnData(np.empty((len(xy_px), 0), dtype=np.float32), obs=obs, obsm={_keys.SPATIAL: xy_px})
    mark_made_here(table)
    put_lattice_table(sdata, table)
    return replace(place, table_key=_keys.LATTICE_TABLE, region=_keys.LATTICE, rows=np.arange(len(xy_px)))


def put_lattice_table(sdata: SpatialData, table: AnnData) -> None:
    """Put the lattice's table in place of the one that is there."""
    sdata.tables.pop(_keys.LATTICE_TABLE, None)
    sdata.tables[_keys.LATTICE_TABLE] = annotating(table, _keys.LATTICE)


def lattice_table_for(old: AnnData, genes: Names, stem: str) -> AnnData:
    """Return the lattice's table with room for a prediction: itself where it has the genes, else another one.

    Predictions of other stems stay, and so do their genes; entries of genes that are added are NaN. Where there is no
    other prediction, the genes are those of the panel only, and what was made of the old ones goes with them.
    """
    new = [gene for gene in genes if gene not in old.var_names]
    others = [key for key in records(old, _keys.PREDICTIONS) if key != stem]
    if not new and (others or old.n_vars == len(genes)):
        return old
    if others:
        logger.info(
            "table %r gets %d genes of %r that %s lack(s)", _keys.LATTICE_TABLE, len(new), stem, listing(others)
        )
        return _with_more_genes(old, new)
    if old.n_vars:
        logger.warning(
            "table %r had the %d genes of another panel: prediction %r and what was made of it are replaced",
            _keys.LATTICE_TABLE, old.n_vars, stem,
        )  # fmt: skip
    return _with_other_genes(old, genes)


def _with_other_genes(old: AnnData, genes: Names) -> AnnData:
    """Return a table of the same locations with other genes, of which nothing is known."""
    values = np.full((old.n_obs, len(genes)), np.nan, dtype=np.float32)
    table = ad.AnnData(
        values, obs=old.obs.copy(), var=pd.DataFrame(index=pd.Index(list(genes), dtype=str)), obsm=dict(old.obsm)
    )
    of_genes = (_keys.PREDICTIONS, _keys.COEXPRESSION, _keys.ENRICHMENT, _keys.ENRICHMENT_RECORD, _keys.IN_X)
    table.uns[_keys.STEM] = {key: value for key, value in old.uns[_keys.STEM].items() if key not in of_genes}
    return table


def _with_more_genes(old: AnnData, new: list[str]) -> AnnData:
    """Return a table with genes added on the right, of which nothing is known."""
    n = len(new)

    def wider(values: Any) -> np.ndarray:
        return np.pad(np.asarray(values, dtype=np.float32), ((0, 0), (0, n)), constant_values=np.nan)

    var = old.var.reindex([*old.var_names, *new])
    for name in old.var:
        if old.var[name].dtype == bool:  # reindexing fills flags with NaN
            var[name] = np.append(old.var[name].to_numpy(), np.zeros(n, dtype=bool))
    table = ad.AnnData(
        wider(old.X), obs=old.obs.copy(), var=var, obsm=dict(old.obsm), obsp=dict(old.obsp), uns=dict(old.uns)
    )
    for name in layer_names(old):
        table.layers[name] = wider(old.layers[name])
    for name, frame in old.varm.items():
        grown = pd.DataFrame(frame, index=old.var_names).reindex(var.index)
        table.varm[name] = grown if isinstance(frame, pd.DataFrame) else grown.to_numpy()
    for name, matrix in old.varp.items():  # csr: entries of genes that take no part are absent
        square = sparse.csr_matrix(matrix)
        square.resize((old.n_vars + n, old.n_vars + n))
        table.varp[name] = square
    return table
