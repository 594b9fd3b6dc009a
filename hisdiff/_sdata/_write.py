"""Results go back where scverse looks for them: layers and var columns of the table, or a new table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy import sparse
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._layers import layer_names
from hisdiff._sdata._locate import finest, mark_made_here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from hisdiff._sdata._locate import Place
    from hisdiff._section import Names, Prediction

UNKNOWN = "unknown"
"""In a record, of what could not be told: stores have no None."""
MAX_LAYER_BYTES = 2 * 1024**3


def records(table: AnnData, kind: str) -> dict[str, Any]:
    """Return the records of one kind in ``uns["hisdiff"]``, an empty mapping where there are none."""
    return table.uns.get(_keys.STEM, {}).get(kind, {})


def in_sample_of(record: Mapping[str, Any]) -> bool | None:
    """Return whether a prediction is one of spots that its model was trained on; None where that is not known."""
    value = record.get("in_sample", UNKNOWN)
    return None if isinstance(value, str) else bool(value)


def set_record(table: AnnData, kind: str, key: str | None, record: Mapping[str, Any]) -> None:
    """Write a record of plain values into ``uns["hisdiff"][kind]`` (``[key]``)."""
    home = table.uns.setdefault(_keys.STEM, {})
    if key is None:
        home[kind] = dict(record)
    else:
        home.setdefault(kind, {})[key] = dict(record)


def checked_name(key_added: Any, usual: str) -> str:
    """Return the name of a result, after checking that it can be written and reached; None for the usual one."""
    if key_added is None:
        return usual
    if not isinstance(key_added, str):
        raise TypeError(f"key_added={key_added!r} is no name for a result: names are strings.")
    if not re.fullmatch(r"(?!__|\.+$)[A-Za-z0-9_.-]+", key_added) or key_added == "X":
        raise ValueError(
            f"key_added={key_added!r} is no name for a result: names have letters, digits, '_', '-' and '.' and do not begin "
            f"with '__' (what SpatialData can store), and 'X' is the matrix of a table."
        )
    return key_added


def prediction_layers(stem: str, n_draws: int) -> list[str]:
    """Return the layers that a prediction fills."""
    return [stem, _keys.std(stem), *(_keys.draw(stem, i) for i in range(n_draws))]


def check_layers_writable(table: AnnData, stem: str, n_draws: int, what: str) -> None:
    """Raise where a layer would overwrite something else, or would not fit."""
    taken = [name for name in prediction_layers(stem, n_draws) if name in table.layers]
    if taken and stem not in records(table, _keys.PREDICTIONS):
        raise ValueError(
            f"{what} has layer(s) {taken} that hisdiff did not write; they are left alone. Choose another name with key_added=."
        )
    size = 4 * table.n_obs * table.n_vars
    if size > MAX_LAYER_BYTES:
        raise ValueError(
            f"A layer of {table.n_obs} x {table.n_vars} float32 values is {size / 1024**3:.1f} GB, above the limit of "
            f"{MAX_LAYER_BYTES / 1024**3:.0f} GB; subset the table to the genes of interest first."
        )


def write_layers(
    table: AnnData, stem: str, rows: Sequence[np.ndarray], columns: np.ndarray, predictions: Sequence[Prediction]
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
    """
    known = np.flatnonzero(columns >= 0)
    n_draws = 0 if predictions[0].draws is None else len(predictions[0].draws)
    stale = [
        name
        for name in layer_names(table)
        if re.fullmatch(rf"{re.escape(stem)}_draw\d+", name) and stem in records(table, _keys.PREDICTIONS)
    ]
    for name in stale:
        del table.layers[name]
    for position, name in enumerate(prediction_layers(stem, n_draws)):
        layer = np.full(table.shape, np.nan, dtype=np.float32)
        for where, prediction in zip(rows, predictions):
            values = (prediction.mean, prediction.std)[position] if position < 2 else prediction.draws[position - 2]
            layer[np.ix_(where, columns[known])] = values[:, known]
        table.layers[name] = layer
    modelled = np.zeros(table.n_vars, dtype=bool)
    modelled[columns[known]] = True
    table.var[_keys.modelled(stem)] = modelled
    logger.info(
        "wrote layers %r and %r%s: %d spots x %d genes, %s",
        stem, _keys.std(stem), f" and {n_draws} draw(s)" if n_draws else "", sum(map(len, rows)), len(known), predictions[0].units,
    )  # fmt: skip


def write_var(table: AnnData, name: str, columns: np.ndarray, values: np.ndarray) -> None:
    """Write one value per gene of the panel into a var column, NaN for other genes."""
    column = np.full(table.n_vars, np.nan)
    known = columns >= 0
    column[columns[known]] = values[known]
    table.var[name] = column


def write_varm(table: AnnData, name: str, columns: np.ndarray, values: np.ndarray) -> None:
    """Write values ``(G, K)`` of the genes of the panel into a varm array, NaN for other genes; nothing where K is 0."""
    if values.shape[1]:
        array = np.full((table.n_vars, values.shape[1]), np.nan, dtype=np.float32)
        known = columns >= 0
        array[columns[known]] = values[known]
        table.varm[name] = array


def write_obs(table: AnnData, name: str, rows: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
    """Write values of the sections of a table into an obs column; rows of no section get the type's zero."""
    column = np.zeros(table.n_obs, dtype=np.asarray(values[0]).dtype)
    for where, section_values in zip(rows, values):
        column[where] = section_values
    table.obs[name] = column


def write_lattice(place: Place, xy_um: np.ndarray, radius_um: float) -> None:
    """Write the lattice of a section that has only an image: circles in pixels, and a table without genes."""
    transformations = get_transformation(finest(place.sdata, place.image_key), get_all=True)
    xy_px = xy_um / place.mpp
    circles = gpd.GeoDataFrame({"geometry": shapely.points(xy_px), "radius": radius_um / place.mpp})
    place.sdata.shapes.pop(_keys.LATTICE, None)
    place.sdata.shapes[_keys.LATTICE] = ShapesModel.parse(circles, transformations=transformations)
    obs = pd.DataFrame(
        {"region": pd.Categorical([_keys.LATTICE] * len(xy_px)), "instance_id": np.arange(len(xy_px))},
        index=[f"lattice_{i}" for i in range(len(xy_px))],
    )
    table = ad.AnnData(np.empty((len(xy_px), 0), dtype=np.float32), obs=obs, obsm={_keys.SPATIAL: xy_px})
    mark_made_here(table)
    _replace_lattice_table(place, table)


def with_panel(place: Place, genes: Names, stem: str) -> AnnData:
    """Return the lattice's table with the genes of a panel, as it is where it has them; other values of new genes are NaN.

    Predictions of other stems stay, so that their genes do too. Where there is none, the genes are those of the panel
    only, and what was made of the old ones goes with them.
    """
    old = place.table
    new = [gene for gene in genes if gene not in old.var_names]
    others = [key for key in records(old, _keys.PREDICTIONS) if key != stem]
    if others:
        if new:
            _replace_lattice_table(place, _with_more_genes(old, new))
            logger.info(
                "table %r gets %d genes of %r that %s lack(s)",
                _keys.LATTICE_TABLE, len(new), stem, listing(others),
            )  # fmt: skip
        return place.table
    if not new and old.n_vars == len(genes):
        return old
    if old.n_vars:
        logger.warning(
            "table %r had the %d genes of another panel: prediction %r and what was made of it are replaced",
            _keys.LATTICE_TABLE, old.n_vars, stem,
        )  # fmt: skip
    values = np.full((old.n_obs, len(genes)), np.nan, dtype=np.float32)
    table = ad.AnnData(
        values, obs=old.obs.copy(), var=pd.DataFrame(index=pd.Index(list(genes), dtype=str)), obsm=dict(old.obsm)
    )
    of_genes = (_keys.PREDICTIONS, _keys.COEXPRESSION, _keys.ENRICHMENT, _keys.ENRICHMENT_RECORD, _keys.IN_X)
    table.uns[_keys.STEM] = {key: value for key, value in old.uns[_keys.STEM].items() if key not in of_genes}
    _replace_lattice_table(place, table)
    return place.table


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


def _replace_lattice_table(place: Place, table: AnnData) -> None:
    place.sdata.tables.pop(_keys.LATTICE_TABLE, None)
    place.sdata.tables[_keys.LATTICE_TABLE] = TableModel.parse(
        table, region=_keys.LATTICE, region_key="region", instance_key="instance_id", overwrite_metadata=True
    )
