"""Predict the sections of one object: checked and opened, completed, predicted, written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from hisdiff import _keys
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._sdata._genes import check_panel_present, gene_names
from hisdiff._sdata._out_of_date import check_embeddings, out_of_date
from hisdiff._sdata._panel import check_panel_free
from hisdiff._sdata._provenance import UNKNOWN, panel_of, records
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._shallow_copy import on_copies
from hisdiff._sdata._write import MAX_LAYER_BYTES, check_fits, check_writable, fits_layers
from hisdiff._section import needed
from hisdiff._workers import spread
from hisdiff.encoders._known import KnownEncoder
from hisdiff.methods._registry import get as method_named
from hisdiff.pp._embed import ensure_lattice
from hisdiff.tl._conditions import check_conditions, check_encoder, counted, embedded, lattice_of
from hisdiff.tl._gaps import warn_gaps
from hisdiff.tl._inputs import inputs_of
from hisdiff.tl._options import LAYERS, PANEL
from hisdiff.tl._predict_fine import predict_finer
from hisdiff.tl._predict_write import Origin, as_anndata, as_panel_table, put_panel_table, write_into_table
from hisdiff.tl._transfer import transfer_of, warn_unlike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._locate import Place
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Prediction, Section
    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model
    from hisdiff.tl._options import PredictOptions
    from hisdiff.tl._target import Target


@dataclass(frozen=True)
class PredictJob:
    """A prediction of the sections of one object, as it was asked for."""

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
            check_embeddings([bound for bound in bounds if out_of_date(bound) is None])
        return bounds

    def _check_encoder_found(self, bound: Bound) -> None:
        spec = self.model.cohort.features
        if spec is not None and (self.target is not None or bound.section.features is None):
            KnownEncoder(spec, self.encoder).check(f"The prediction of {bound.place.name!r}")

    def _check_table(self, bound: Bound) -> None:
        table, genes = bound.table, self.model.genes
        if bound.place.table_key != _keys.LATTICE_TABLE:
            check_panel_present(genes, gene_names(table, like=genes), f"table {bound.place.table_key!r}")
        if self.target is not None:
            return
        if not self._into_panel(bound.place):
            check_fits(table.n_obs, table.n_vars, f"leave out table={LAYERS!r}, or subset the table")
            check_writable(table, self.stem, self.options.keep_draws)
            return
        check_fits(table.n_obs, len(genes), "subset the table to fewer spots")
        check_writable(table, self.stem, None)
        check_panel_free(bound.place, self.stem)
        if self.options.table is None:
            logger.info("layers of %d x %d values would be above %d GB: the prediction goes to table %r, of the panel's genes only",
                        *table.shape, MAX_LAYER_BYTES // 1024**3, self.stem)  # fmt: skip

    def is_done(self, bounds: list[Bound]) -> bool:
        """Whether the object holds this prediction of opened sections, made of the same inputs."""
        homes = [self._home(bound, several=len(bounds) > 1) for bound in bounds]
        made = [{} if home is None else records(home, _keys.PREDICTIONS).get(self.stem, {}) for home in homes]
        if not all(_keys.DIGEST in record for record in made):
            return False
        if "features" in self.needs and any(out_of_date(bound) is not None for bound in bounds):
            return False
        groups = [counted(bounds, self.model, self.layer)]
        if self.target is not None:
            groups = [[bound] for bound in groups[0]]
        return all(record[_keys.DIGEST] == self._digest(group) for record, group in zip(made, groups))

    def _home(self, bound: Bound, *, several: bool) -> AnnData | None:
        """Return the table that the prediction of a section goes to, if it is there."""
        place, tables = bound.place, bound.place.sdata.tables
        if self.target is not None:
            return tables.get(self.target.table_key(bound, self.stem, several=several))
        if place.table is None or not self._into_panel(place):
            return place.table
        panel = tables.get(self.stem)
        return panel if panel is not None and panel_of(panel) == (panel_of(place.table) or place.table_key) else None

    def _digest(self, bounds: Sequence[Bound]) -> str:
        """Return a digest of all that decides the values: options, model, seed and inputs, not where they go."""
        asked = {name: value for name, value in asdict(self.options).items() if name != "table"}
        asked |= {"model": self.model.id, "seed": int(self.runtime.seed), "layer": self.layer}
        asked["n_steps"] = int(self.options.n_steps or self.model.fitted.n_steps)
        where = ["spots" if self.target is None else self.target.identity(bound) for bound in bounds]
        image = "image" in self.needs  # at spots, an embedding stands for it
        inputs = [inputs_of(bound.section, image=image) | {"where": part} for part, bound in zip(where, bounds)]
        whole = json.dumps([asked, inputs], sort_keys=True, default=lambda value: value.item())
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def ready(self, bounds: list[Bound], *, inplace: bool) -> list[Bound]:
        """Return sections with all that the model needs of them, and warn about what is unusual."""
        if not inplace:  # an embedding or outline that is missing is made on the way
            bounds = on_copies(bounds)
        bounds = counted(self._complete(bounds), self.model, self.layer)
        warn_unlike(bounds, self.model)
        if "features" in self.needs:
            warn_gaps(bounds, self.model.cohort.pitch_um)
        return bounds

    def run(self, bounds: list[Bound], *, inplace: bool) -> AnnData | list[AnnData] | None:
        """Predict, and write the results or return them."""
        bounds = self.ready(bounds, inplace=inplace)
        if self.target is None:
            sections = [bound.section for bound in bounds]
            made = dict(spread(self.at_spots, sections, f"the prediction of {bounds[0].place.name!r}"))
            return self.finish(bounds, [made[number] for number in range(len(bounds))], inplace=inplace)
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

    def at_spots(self, section: Section) -> Prediction:
        """Predict a section at its spots."""
        options, runtime = self.options, self.runtime
        return self.model.fitted.predict(
            section,
            needed(section.spots),
            n_draws=options.n_draws,
            keep_draws=options.keep_draws,
            n_steps=options.n_steps,
            units=options.units,
            library_size=options.library_size,
            seed=section.seed(runtime.seed),
            device=runtime.device,
            progress=runtime.progress,
        )

    def finish(self, bounds: list[Bound], predictions: Sequence[Prediction], *, inplace: bool) -> AnnData | None:
        """Write predictions at spots, or return them as a table."""
        origin = Origin(self.model, self.stem, self._record(bounds, predictions[0].n_draws))
        if self._into_panel(bounds[0].place):
            table = as_panel_table(bounds, predictions, origin, self.layer)
            if not inplace:
                return table
            put_panel_table(bounds[0].place, table, origin)
        elif not inplace:
            return as_anndata(bounds, predictions, origin)
        else:
            write_into_table(bounds, predictions, origin)
        return None

    def _into_panel(self, place: Place) -> bool:
        """Whether the prediction goes to a table of the panel; the table of a lattice is one."""
        if place.table_key == _keys.LATTICE_TABLE:
            return False
        asked = self.options.table
        return asked == PANEL or (asked is None and not fits_layers(needed(place.table)))

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
        given = any(model.given_in(bound.section).any() for bound in bounds)
        return {
            "method": model.method,
            "model": model.id,
            "n_genes": len(model.genes),
            "units": self.options.units,
            "library_size": [float(size) for size, _ in sizes],
            "library_size_from": [source for _, source in sizes],
            "seed": int(self.runtime.seed),
            **model.record_of(n_draws),
            "n_steps": int(self.options.n_steps or model.fitted.n_steps),
            "calibration": "none",
            "in_sample": True if any(known) else UNKNOWN if None in known else False,
            "uses_section_counts": "counts" in method_named(model.method).needs_to_predict or given,
            **transfer_of(bounds, model),
            "adapted": model.n_adapted,
            _keys.DIGEST: self._digest(bounds),
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


def run_at_once(
    jobs: Sequence[PredictJob], groups: Sequence[list[Bound]], *, inplace: bool
) -> list[AnnData | list[AnnData] | None]:
    """Predict the spots of the sections of several objects on workers, and finish each object when its sections are done."""
    groups = [job.ready(bounds, inplace=inplace) for job, bounds in zip(jobs, groups)]
    places = [(i, k) for i, bounds in enumerate(groups) for k in range(len(bounds))]
    made: dict[tuple[int, int], Prediction] = {}
    results: list[AnnData | list[AnnData] | None] = [None] * len(jobs)
    items = [(i, groups[i][k].section) for i, k in places]
    for number, prediction in spread(partial(_at_spots_of, jobs), items, f"the prediction of {len(items)} sections"):
        i, made[places[number]] = places[number][0], prediction
        bounds = groups[i]
        if all((i, k) in made for k in range(len(bounds))):
            results[i] = jobs[i].finish(bounds, [made.pop((i, k)) for k in range(len(bounds))], inplace=inplace)
    return results


def _at_spots_of(jobs: Sequence[PredictJob], item: tuple[int, Section]) -> Prediction:
    number, section = item
    return jobs[number].at_spots(section)
