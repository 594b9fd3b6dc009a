"""Predict one section finer than its spots, and write a table of its own."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._log import logger
from hisdiff._sdata._fine import fine_table, write_fine
from hisdiff._sdata._genes import add_symbols
from hisdiff._sdata._store import check_room, working_folder
from hisdiff._section import needed
from hisdiff.pp._tissue import outline_of
from hisdiff.tl._fine import fine_predictor, outputs_of, predict_bins, predict_locations, resolution_for
from hisdiff.tl._inputs import digest_of, inputs_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from hisdiff._json import Plain
    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff._section import Locations, Prediction, Section
    from hisdiff.methods._protocols import Field
    from hisdiff.models._model import Model
    from hisdiff.tl._fine import FinePredictor
    from hisdiff.tl._options import PredictOptions
    from hisdiff.tl._target import FineLocations, Target


def predict_finer(
    target: Target,
    bound: Bound,
    model: Model,
    stem: str,
    options: PredictOptions,
    runtime: Runtime,
    record: Mapping[str, Any],
    *,
    several: bool,
    inplace: bool,
) -> AnnData | None:
    """Predict one section, and write its table or return it."""
    bound = bound.with_section(with_outline(bound))
    fine = target.locations(bound, stem, several=several)
    streamed = inplace and fine.is_grid
    if streamed:
        _check_room(bound, fine, model, options)
    place, what = bound.place, "locations" if not fine.is_grid else f"bins of {fine.resolution_um:g} um"
    logger.info("predicting %d genes in %s %s of %r", len(model.genes), f"{len(fine.where):,}", what, place.name)
    with working_folder(place.sdata, fine.table_key) if streamed else nullcontext() as folder:
        field = _field(bound.section, model, options, runtime)
        predictor = _predictor(bound.section, field, fine.resolution_um, options, runtime, of_shapes=not fine.is_grid)
        closed = predictor.is_closed_form(of_shapes=not fine.is_grid)
        told = model.record_of(field.n_draws, closed_form=closed)
        record = {**record, **told, **_facts(record, fine, field, predictor, options)}
        prediction = _predicted(bound.section, fine, predictor, record, runtime, folder)
        table = _table(bound, fine, prediction, record, stem, model)
        if inplace:
            write_fine(place, fine.table_key, fine.region, table, fine.labels(place))
    return None if inplace else table


def predict_inside(
    bound: Bound, where: Locations, model: Model, options: PredictOptions, runtime: Runtime
) -> Prediction:
    """Predict locations that lie inside the spots of a section; nothing is written."""
    section = with_outline(bound)
    resolution_um = resolution_for(where, needed(section.image).mpp)
    field = _field(section, model, options, runtime)
    predictor = _predictor(section, field, resolution_um, options, runtime, of_shapes=True)
    return predict_locations(predictor, where, show=runtime.progress)


def with_outline(bound: Bound) -> Section:
    """Return the section with an outline, found in the image where none is stored."""
    section = bound.section
    if section.tissue is not None:
        return section
    return replace(section, tissue=outline_of(needed(section.image), bound.place.image_name))


def _check_room(bound: Bound, fine: FineLocations, model: Model, options: PredictOptions) -> None:
    outputs = outputs_of(len(fine.where), len(model.genes), options.keep_draws)
    what = f"A table of {len(fine.where)} bins of {fine.resolution_um:g} um and {len(model.genes)} genes"
    check_room(bound.place.sdata, sum(output.nbytes for output in outputs.values()), what)


def _field(section: Section, model: Model, options: PredictOptions, runtime: Runtime) -> Field:
    return model.fitted.field(
        section,
        n_draws=options.n_draws,
        n_steps=options.n_steps,
        library_size=options.library_size,
        seed=section.seed(runtime.seed),
        device=runtime.device,
        progress=runtime.progress,
    )


def _predictor(
    section: Section, field: Field, resolution_um: float, options: PredictOptions, runtime: Runtime, *, of_shapes: bool
) -> FinePredictor:
    return fine_predictor(
        section,
        field,
        resolution_um,
        calibrate=options.calibrate,
        units=options.units,
        keep_draws=min(options.keep_draws, field.n_draws),  # an ensemble has as many draws as members
        seed=section.seed(runtime.seed),
        of_shapes=of_shapes,
    )


def _facts(
    record: Mapping[str, Any], fine: FineLocations, field: Field, predictor: FinePredictor, options: PredictOptions
) -> Plain:
    """Return what the record says of a prediction finer than the spots."""
    calibrated = predictor.agreement is not None
    return {
        "calibration": options.calibrate if calibrated else "none",
        "resolution_um": fine.resolution_um,
        "uses_section_counts": record["uses_section_counts"] or calibrated or field.fitted_to_section,
    }


def _predicted(
    section: Section,
    fine: FineLocations,
    predictor: FinePredictor,
    record: Mapping[str, Any],
    runtime: Runtime,
    folder: Path | None,
) -> Prediction:
    if not fine.is_grid:
        return predict_locations(predictor, fine.where, show=runtime.progress)
    plan = {**record, "units": predictor.units, "bins": digest_of(needed(fine.where.array_ij)), **inputs_of(section)}
    return predict_bins(predictor, fine.where, folder, plan, show=runtime.progress)


def _table(
    bound: Bound, fine: FineLocations, prediction: Prediction, record: Mapping[str, Any], stem: str, model: Model
) -> AnnData:
    spots = bound.section.spots if bound.section.counts is not None else None
    table = fine_table(bound.place, fine.region, fine.instances, fine.where, prediction, record, stem, spots)
    add_symbols(table, model.genes, model.cohort.symbols)
    if model.calibration is not None:
        table.var[_keys.cv_pcc(stem)] = np.asarray(model.calibration.cv_pcc, dtype=float)
        if model.calibration.cv_pcc_norm is not None:
            table.var[_keys.cv_pcc_norm(stem)] = np.asarray(model.calibration.cv_pcc_norm, dtype=float)
    return table
