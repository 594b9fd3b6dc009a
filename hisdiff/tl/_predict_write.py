"""Predictions at spots on their way into an object: layers of its table, or a table of the panel's genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._prediction._cohort_model import UNCERTAINTY
from hisdiff._sdata._genes import add_symbols, gene_names, rows_of, var_of
from hisdiff._sdata._panel import panel_table
from hisdiff._sdata._provenance import panel_of, records, set_record
from hisdiff._sdata._store import put, unsaved
from hisdiff._sdata._superseded import supersede, superseded_parts
from hisdiff._sdata._write import (
    lattice_table_for,
    put_lattice_table,
    write_layers,
    write_obs,
    write_var,
    write_varm,
)
from hisdiff._section import needed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hisdiff._json import Plain
    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._locate import Place
    from hisdiff._section import Prediction
    from hisdiff.models._model import Model


class Origin(NamedTuple):
    """What made a prediction, its name, and what is recorded of it."""

    model: Model
    stem: str
    record: Plain


def as_anndata(bounds: Sequence[Bound], predictions: Sequence[Prediction], origin: Origin) -> AnnData:
    """Return the predictions of sections, locations x panel, ``X`` the mean, with their record."""
    table = ad.concat([_as_anndata(b, p, origin.stem) for b, p in zip(bounds, predictions)], merge="same")
    set_record(table, _keys.PREDICTIONS, origin.stem, origin.record)
    return table


def as_panel_table(
    bounds: Sequence[Bound], predictions: Sequence[Prediction], origin: Origin, layer: str | None
) -> AnnData:
    """Return a table of the panel's genes on the same spots, ``X`` the measured counts, with the predictions."""
    place, genes = bounds[0].place, origin.model.genes
    where = rows_of(genes, gene_names(bounds[0].table, like=genes))
    columns = np.sort(where[where >= 0])
    table = panel_table(place, layer, columns)
    _write(table, bounds, predictions, np.where(where >= 0, np.searchsorted(columns, where), -1), origin)
    return table


def put_panel_table(place: Place, table: AnnData, origin: Origin) -> None:
    """Put a table of the panel into the object, and its store, in place of any earlier prediction of that name for its spots."""
    sdata, stem = place.sdata, origin.stem
    others = sorted(set(records(sdata.tables[stem], _keys.PREDICTIONS)) - {stem}) if stem in sdata.tables else []
    put(sdata, {stem: table}, {}, superseded_parts(sdata, stem, stem, needed(panel_of(table))))
    logger.info("wrote table %r: %d spots x %d genes", stem, *table.shape)
    if others:
        logger.warning("table %r held predictions %s as well, which were replaced with it", stem, listing(others))
    supersede(sdata, stem, stem)


def write_into_table(bounds: Sequence[Bound], predictions: Sequence[Prediction], origin: Origin) -> None:
    """Write predictions into the table of the spots, in place of any earlier one of that name; that of a lattice has the panel's genes."""
    place, table = bounds[0].place, bounds[0].table
    on_lattice = place.table_key == _keys.LATTICE_TABLE
    if on_lattice:
        wider = lattice_table_for(table, origin.model.genes, origin.stem)
        if wider is not table:
            put_lattice_table(place.sdata, wider)
            table = bounds[0].table
    columns = rows_of(origin.model.genes, gene_names(table, like=origin.model.genes))
    _write(table, bounds, predictions, columns, origin, unsaved(place.sdata))
    supersede(place.sdata, needed(place.table_key), origin.stem)
    if on_lattice:
        add_symbols(table, origin.model.genes, origin.model.cohort.symbols)
    if on_lattice and table.uns[_keys.STEM].setdefault(_keys.IN_X, origin.stem) == origin.stem:
        table.X = table.layers[origin.stem].copy()


def _as_anndata(bound: Bound, prediction: Prediction, stem: str) -> AnnData:
    table, rows = bound.table, bound.place.rows
    result = ad.AnnData(
        prediction.mean,
        obs=pd.DataFrame(prediction.obs, index=table.obs_names[rows]),
        var=var_of(prediction.genes, table),
        obsm={_keys.SPATIAL: np.asarray(table.obsm[_keys.SPATIAL])[rows]} if _keys.SPATIAL in table.obsm else None,
    )
    result.layers[stem], result.layers[_keys.std(stem)] = prediction.mean, prediction.std
    for i, one in enumerate(prediction.draws if prediction.draws is not None else ()):
        result.layers[_keys.draw(stem, i)] = one
    return result


def _write(
    table: AnnData,
    bounds: Sequence[Bound],
    predictions: Sequence[Prediction],
    columns: np.ndarray,
    origin: Origin,
    kept: str = "",
) -> None:
    model, stem, record = origin
    rows = [bound.place.rows for bound in bounds]
    write_layers(table, stem, rows, columns, predictions, kept)
    if model.calibration is not None:
        write_var(table, _keys.cv_pcc(stem), columns, model.calibration.cv_pcc)
        if model.calibration.cv_pcc_norm is not None:
            write_var(table, _keys.cv_pcc_norm(stem), columns, model.calibration.cv_pcc_norm)
        write_var(table, _keys.interval_factor(stem), columns, model.calibration.interval_factor)
    if model.modules is not None:
        for name, weights in (
            (_keys.gene_modules(stem), model.modules.raw),
            (_keys.gene_modules_norm(stem), model.modules.normalized),
        ):
            write_varm(table, name, columns, weights)
    if model.ood is not None:
        flags = [model.ood.flag(needed(b.section.features).at(needed(b.section.spots))) for b in bounds]
        write_obs(table, _keys.ood(stem), rows, flags)
    if all(UNCERTAINTY in prediction.obs for prediction in predictions):
        write_obs(table, _keys.uncertainty(stem), rows, [prediction.obs[UNCERTAINTY] for prediction in predictions])
    table.obs = table.obs.drop(columns=_keys.given(stem), errors="ignore")  # of an earlier prediction
    if model.n_adapted:
        write_obs(table, _keys.given(stem), rows, [model.given_in(bound.section) for bound in bounds])
    set_record(table, _keys.PREDICTIONS, stem, record)
