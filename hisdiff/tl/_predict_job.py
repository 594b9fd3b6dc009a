"""Predict the sections of one object: checked and opened, completed, predicted, written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._prediction._cohort_model import UNCERTAINTY
from hisdiff._sdata._genes import check_panel_present, gene_names, rows_of
from hisdiff._sdata._out_of_date import out_of_date
from hisdiff._sdata._provenance import UNKNOWN, set_record
from hisdiff._sdata._read import Bound, open_sections, read_counts
from hisdiff._sdata._stand_in import beside
from hisdiff._sdata._store import unsaved
from hisdiff._sdata._write import (
    check_writable,
    lattice_table_for,
    put_lattice_table,
    write_layers,
    write_obs,
    write_var,
    write_varm,
)
from hisdiff._section import needed
from hisdiff.encoders._known import KnownEncoder
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._model import Model
from hisdiff.pp._embed import ensure_embedding, ensure_lattice
from hisdiff.tl._predict_fine import predict_finer
from hisdiff.tl._transfer import transfer_of, warn_unlike

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Prediction, Section
    from hisdiff.encoders import Encoder
    from hisdiff.methods._protocols import Field
    from hisdiff.tl._options import PredictOptions
    from hisdiff.tl._target import Target


def model_for(sdata: SpatialData, model: Model | str | Path | None) -> Model:
    """Return a model: itself, the one in a folder, or the one that was fitted on an object."""
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, Path)):
        if str(model) in method_names() and not Path(model).exists():
            raise ValueError(
                f"model={model!r} is the name of a method, not a fitted model; fit one with "
                f"hd.tl.fit(sections, method={model!r}), or give the folder of one."
            )
        return Model.load(model)
    if model is not None:
        raise TypeError(f"model is a Model, the folder of one, or None, not {type(model).__name__}.")
    record = getattr(sdata, "attrs", {}).get(_keys.STEM, {}).get("model")
    if record is None:
        raise KeyError("No model was fitted on this object; fit one with hd.tl.fit(sdata), or pass model=.")
    found = Model.load(record["path"])
    if found.id != record["id"]:
        raise ValueError(
            f"The model in {record['path']} is {found.id}, but this object was fitted with {record['id']}; pass model=."
        )
    return found


@dataclass(frozen=True)
class PredictJob:
    """What is to be done with the sections of one object."""

    model: Model
    stem: str
    options: PredictOptions
    layer: str | None
    runtime: Runtime
    encoder: Encoder | None
    target: Target | None

    @property
    def needs(self) -> frozenset[str]:
        """What a section must have; the bins of a grid are laid over the tissue that the image shows."""
        own = method_named(self.model.method).needs_to_predict
        return own if self.target is None else own | {"image"}

    def opened(self, sdata: SpatialData, selection: Selection) -> list[Bound]:
        """Open the sections, and check everything that can be wrong before the first patch is read."""
        bounds = open_sections(sdata, selection, needs=self.needs & {"image"}, encoder=self.encoder)
        _check_encoder(self.encoder, self.model)
        if self.options.n_steps is not None and not self.model.fitted.n_steps:
            raise ValueError(
                f"n_steps= is for models that sample in steps; method {self.model.method!r} has none, so leave it out."
            )
        for bound in bounds:
            if self.target is not None:
                self.target.check(bound, self.stem, several=len(bounds) > 1)
            _check_conditions(bound, self.model, self.needs)
            if "features" in self.needs:
                self._check_encoder_found(bound)
            if bound.place.table is not None:
                self._check_table(bound)
        if "features" in self.needs:
            check_finite([bound for bound in bounds if out_of_date(bound) is None])
        return bounds

    def _check_encoder_found(self, bound: Bound) -> None:
        spec = self.model.cohort.features
        if spec is not None and (self.target is not None or bound.section.features is None):
            KnownEncoder(spec, self.encoder).check(f"The prediction of {bound.place.name!r}")

    def _check_table(self, bound: Bound) -> None:
        table, genes = bound.table, self.model.genes
        if bound.place.table_key != _keys.LATTICE_TABLE:
            check_panel_present(genes, gene_names(table, like=genes), f"table {bound.place.table_key!r}")
        if self.target is None:
            check_writable(table, self.stem, self.options.keep_draws)

    def run(self, bounds: list[Bound], *, inplace: bool) -> AnnData | list[AnnData] | None:
        """Predict, and write the results or return them."""
        if not inplace:  # an embedding or outline that is missing is made on the way
            bounds = beside(bounds)
        bounds = _with_counts(self._complete(bounds), self.model, self.layer)
        warn_unlike(bounds, self.model)
        return self._at_spots(bounds, inplace) if self.target is None else self._finer(self.target, bounds, inplace)

    def _complete(self, bounds: list[Bound]) -> list[Bound]:
        """Return the sections with what the model needs of them, made where it is missing."""
        if "features" in self.needs:
            return _embedded(bounds, self.model, self.runtime, self.encoder)
        return ensure_lattice(bounds, _lattice_of(self.model)) if self.target is None else bounds

    def _at_spots(self, bounds: list[Bound], inplace: bool) -> AnnData | None:
        options, runtime = self.options, self.runtime
        predictions = [
            self.model.fitted.predict(
                bound.section,
                needed(bound.section.spots),
                n_draws=options.n_draws,
                keep_draws=options.keep_draws,
                n_steps=options.n_steps,
                units=options.units,
                library_size=options.library_size,
                seed=runtime.seed,
                device=runtime.device,
                progress=runtime.progress,
            )
            for bound in bounds
        ]
        if not inplace:
            parts = [_as_anndata(b, p, self.stem) for b, p in zip(bounds, predictions)]
            return ad.concat(parts, merge="same")
        _write(bounds, predictions, self.model, self.stem, self._record(bounds, predictions[0].n_draws))
        return None

    def _finer(self, target: Target, bounds: list[Bound], inplace: bool) -> AnnData | list[AnnData] | None:
        results = [
            predict_finer(
                target,
                bound,
                self.model,
                self.stem,
                self.options,
                self.runtime,
                self._record([bound], self.options.n_draws),
                several=len(bounds) > 1,
                inplace=inplace,
            )
            for bound in bounds
        ]
        tables = [table for table in results if table is not None]
        return None if inplace else tables if len(tables) > 1 else tables[0]

    def _record(self, bounds: Sequence[Bound], n_draws: int) -> dict[str, Any]:
        model = self.model
        sizes = [_library_size_of(bound.section, model, self.options.library_size) for bound in bounds]
        known = [_is_known(bound.section, model) for bound in bounds]
        return {
            "method": model.method,
            "model": model.id,
            "n_genes": len(model.genes),
            "units": self.options.units,
            "library_size": [float(size) for size, _ in sizes],
            "library_size_from": [source for _, source in sizes],
            "seed": int(self.runtime.seed),
            "n_draws": int(n_draws),
            "n_steps": int(self.options.n_steps or model.fitted.n_steps),
            "calibration": "none",
            "in_sample": True if any(known) else UNKNOWN if None in known else False,
            "uses_section_counts": "counts" in method_named(model.method).needs_to_predict or model.n_adapted > 0,
            **transfer_of(bounds, model),
            "adapted": model.n_adapted,
            "version": VERSION,
        }


def opened_for(
    sdata: SpatialData,
    model: Model,
    selection: Selection,
    runtime: Runtime,
    *,
    check: Callable[[list[Bound]], None],
    counts: bool,
) -> list[Bound]:
    """Open the sections of an object as a model needs them, checked before anything is made."""
    needs = method_named(model.method).needs_to_predict | ({"counts"} if counts else frozenset())
    bounds = open_sections(sdata, selection, needs=needs & {"image", "counts"})
    for bound in bounds:
        _check_conditions(bound, model, needs)
        if counts:
            genes = gene_names(bound.table, like=model.genes)
            check_panel_present(model.genes, genes, f"table {bound.place.table_key!r}")
    check(bounds)
    bounds = _embedded(bounds, model, runtime, None) if "features" in needs else bounds
    check_finite(bounds)
    return _with_counts(bounds, model, selection.layer) if counts else bounds


def check_finite(bounds: Sequence[Bound]) -> None:
    """Raise where an embedding has values that are not finite."""
    for bound in bounds:
        features, spots = bound.section.features, bound.section.spots
        if features is None or spots is None:
            continue
        bad = ~np.isfinite(features.at(spots)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"The embedding of {bound.place.name!r} has NaN or infinite values at {int(bad.sum())} of {len(bad)} spots; "
                f"run hd.pp.embed on it again."
            )


def field_of(
    sdata: SpatialData, model: Model, selection: Selection, runtime: Runtime, *, n_draws: int, with_counts: bool = True
) -> Field:
    """Return what a model expects anywhere in the only section of an object."""
    needs = method_named(model.method).needs_to_predict - {"counts"}
    bounds = open_sections(sdata, selection, needs=needs - {"features"})
    if len(bounds) > 1:
        raise ValueError(f"The object has {len(bounds)} sections; give one section at a time.")
    if "features" in needs:
        bounds = _embedded(bounds, model, runtime, None)
    if with_counts:
        bounds = _with_counts(bounds, model, selection.layer)
    (bound,) = bounds
    run: Any = {"seed": runtime.seed, "device": runtime.device, "progress": runtime.progress}
    return model.fitted.field(bound.section, n_draws=n_draws, **run)


def _embedded(bounds: list[Bound], model: Model, runtime: Runtime, encoder: Encoder | None) -> list[Bound]:
    return ensure_embedding(bounds, model.cohort.features, runtime, encoder, _lattice_of(model))


def _lattice_of(model: Model) -> tuple[float, float]:
    """Return spacing and radius, in um, of the locations of a section that has only an image."""
    return model.cohort.pitch_um, model.cohort.radius_um


def _check_encoder(encoder: Encoder | None, model: Model) -> None:
    """Raise where an encoder is given that is not the model's."""
    if encoder is None:
        return
    if model.cohort.features is None:
        raise ValueError(
            f"encoder= is for models that look at an embedding; model {model.id} ({model.method!r}) does not."
        )
    KnownEncoder(model.cohort.features, encoder).check_offer(encoder)


def _check_conditions(bound: Bound, model: Model, required: frozenset[str]) -> None:
    """Raise where a section cannot be a condition of the model."""
    features, name = bound.section.features, bound.place.name
    if "counts" in required and not bound.place.is_measured:
        raise ValueError(
            f"Method {model.method!r} refines the counts of a section, and {name!r} has none; a section with an image only "
            f"is for methods that learn from other sections, such as 'hisdiff'."
        )
    if features is None and model.cohort.features is None and "features" in required:
        raise ValueError(
            f"{name!r} has no embedding, and the model does not record its encoder; embed the section first, with "
            f'the encoder that the model was trained with, e.g. hd.pp.embed(sdata, "uni").'
        )
    if features is not None and model.cohort.features is not None and features.spec != model.cohort.features:
        has, needs = features.spec, model.cohort.features
        raise ValueError(
            f"{name!r} is embedded with {has.encoder!r} (revision {has.revision}, patch {has.patch_um:g} um), the model needs "
            f"{needs.encoder!r} (revision {needs.revision}, patch {needs.patch_um:g} um); run hd.pp.embed(sdata, encoder={needs.encoder!r}, patch_um={needs.patch_um:g})."
        )


def _with_counts(bounds: list[Bound], model: Model, layer: str | None) -> list[Bound]:
    """Add the own counts of the sections of a table, on the genes of the panel that it has."""
    place = bounds[0].place
    if not place.is_measured:
        return bounds
    table, who = bounds[0].table, ", ".join(bound.place.name for bound in bounds)
    try:
        counts = read_counts(table, layer, what=f"table {place.table_key!r}")
    except ValueError as error:
        if layer is not None:
            raise
        logger.warning("%s: its library size is taken from the training sections (%s)", who, error)
        return bounds
    names = gene_names(table, like=model.genes)
    there = [gene for gene, column in zip(model.genes, rows_of(model.genes, names)) if column >= 0]
    if len(there) < len(model.genes):
        missing = sorted(set(model.genes) - set(there))
        logger.warning("%s: %d of the model's %d genes are not in the table and are left out: %s",
                       who, len(missing), len(model.genes), listing(missing, 6))  # fmt: skip
    # The library size is that of the whole panel, whatever part of it a table has.
    factor = model.cohort.missing_factor(np.isin(model.genes, there))
    result = []
    for bound in bounds:
        known = replace(bound.section, genes=names, counts=bound.place.of_rows(counts)).with_panel(there)
        if known.library_size is not None:
            known = replace(known, library_size=known.library_size * factor)
        result.append(bound.with_section(known))
    return result


def _library_size_of(section: Section, model: Model, asked: float | None) -> tuple[float, str]:
    """Return the library size that is predicted at, and where it comes from: ``given``, ``adapted``, ``section`` or ``training``."""
    if asked is not None:
        return asked, "given"
    known = getattr(model.fitted, "cohort_model", None)
    if known is not None and known.given_library_size is not None:
        return known.given_library_size, "adapted"
    if section.library_size is not None:
        return section.library_size, "section"
    return model.cohort.library_size, "training"


def _is_known(section: Section, model: Model) -> bool | None:
    """Whether the model was trained on spots of a section; None without counts of the whole panel, by which they are known."""
    if section.counts is None or len(section.genes) < len(model.genes):
        return None
    return model.cohort.contains(section.counts, section.genes)


def _as_anndata(bound: Bound, prediction: Prediction, stem: str) -> AnnData:
    table, rows = bound.table, bound.place.rows
    result = ad.AnnData(
        prediction.mean,
        obs=pd.DataFrame(prediction.obs, index=table.obs_names[rows]),
        var=pd.DataFrame(index=pd.Index(prediction.genes.astype(str))),
        obsm={_keys.SPATIAL: np.asarray(table.obsm[_keys.SPATIAL])[rows]} if _keys.SPATIAL in table.obsm else None,
    )
    result.layers[stem], result.layers[_keys.std(stem)] = prediction.mean, prediction.std
    for i, one in enumerate(prediction.draws if prediction.draws is not None else ()):
        result.layers[_keys.draw(stem, i)] = one
    return result


def _write(
    bounds: Sequence[Bound], predictions: Sequence[Prediction], model: Model, stem: str, record: Mapping[str, Any]
) -> None:
    table, on_lattice = bounds[0].table, bounds[0].place.table_key == _keys.LATTICE_TABLE
    if on_lattice:
        wider = lattice_table_for(table, model.genes, stem)
        if wider is not table:
            put_lattice_table(bounds[0].place.sdata, wider)
            table = bounds[0].table
    rows = [bound.place.rows for bound in bounds]
    columns = rows_of(model.genes, gene_names(table, like=model.genes))
    write_layers(table, stem, rows, columns, predictions, unsaved(bounds[0].place.sdata))
    if on_lattice and table.uns[_keys.STEM].setdefault(_keys.IN_X, stem) == stem:
        table.X = table.layers[stem].copy()
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
    set_record(table, _keys.PREDICTIONS, stem, record)
