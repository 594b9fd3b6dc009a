"""Predict the sections of one object: checked and opened, completed, predicted, written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._keys import VERSION
from hisdiff._prediction._cohort_model import UNCERTAINTY
from hisdiff._sdata._genes import check_panel_present, gene_names, rows_of
from hisdiff._sdata._out_of_date import out_of_date
from hisdiff._sdata._provenance import UNKNOWN, set_record
from hisdiff._sdata._read import Bound, open_sections
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
from hisdiff.pp._embed import ensure_lattice
from hisdiff.tl._conditions import check_conditions, check_encoder, check_finite, counted, embedded, lattice_of
from hisdiff.tl._predict_fine import predict_finer
from hisdiff.tl._transfer import transfer_of, warn_unlike

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._runtime import Runtime
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Prediction, Section
    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model
    from hisdiff.tl._options import PredictOptions
    from hisdiff.tl._target import Target


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
        check_encoder(self.encoder, self.model)
        if self.options.n_steps is not None and not self.model.fitted.n_steps:
            raise ValueError(
                f"n_steps= is for models that sample in steps; method {self.model.method!r} has none, so leave it out."
            )
        for bound in bounds:
            if self.target is not None:
                self.target.check(bound, self.stem, several=len(bounds) > 1)
            check_conditions(bound, self.model, self.needs)
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
        bounds = counted(self._complete(bounds), self.model, self.layer)
        warn_unlike(bounds, self.model)
        if self.target is None:
            return self._at_spots(bounds, inplace)
        if not inplace:
            tables = self.finer(bounds)
            return tables if len(tables) > 1 else tables[0]
        for bound in bounds:
            self._finer_at(bound, several=len(bounds) > 1, inplace=True)
        return None

    def _complete(self, bounds: list[Bound]) -> list[Bound]:
        """Return the sections with what the model needs of them, made where it is missing."""
        if "features" in self.needs:
            return embedded(bounds, self.model, self.runtime, self.encoder)
        return ensure_lattice(bounds, lattice_of(self.model)) if self.target is None else bounds

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

    def finer(self, bounds: Sequence[Bound]) -> list[AnnData]:
        """Predict completed sections finer than their spots, and return the tables."""
        tables = [self._finer_at(bound, several=len(bounds) > 1, inplace=False) for bound in bounds]
        return [needed(table) for table in tables]

    def _finer_at(self, bound: Bound, *, several: bool, inplace: bool) -> AnnData | None:
        return predict_finer(
            needed(self.target),
            bound,
            self.model,
            self.stem,
            self.options,
            self.runtime,
            self._record([bound], self.options.n_draws),
            several=several,
            inplace=inplace,
        )

    def _record(self, bounds: Sequence[Bound], n_draws: int) -> Plain:
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
