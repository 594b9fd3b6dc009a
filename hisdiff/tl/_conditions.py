"""The model of a call, and sections as it needs them: checked, embedded, with their counts of its panel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._counts import read_counts
from hisdiff._sdata._genes import check_panel_present, gene_names, rows_of
from hisdiff._sdata._out_of_date import check_embeddings
from hisdiff._sdata._read import open_sections
from hisdiff.encoders._known import KnownEncoder
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._model import Model
from hisdiff.pp._embed import ensure_embedding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._selection import Selection
    from hisdiff.encoders import Encoder
    from hisdiff.methods._protocols import Field


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
        check_conditions(bound, model, needs)
        if counts:
            genes = gene_names(bound.table, like=model.genes)
            check_panel_present(model.genes, genes, f"table {bound.place.table_key!r}")
    check(bounds)
    bounds = embedded(bounds, model, runtime, None) if "features" in needs else bounds
    check_embeddings(bounds)
    return counted(bounds, model, selection.layer) if counts else bounds


def check_single(bounds: Sequence[Bound]) -> None:
    """Raise where an object has several sections, of which one is meant."""
    if len(bounds) > 1:
        names = listing([bound.place.name for bound in bounds])
        raise ValueError(f"The object has {len(bounds)} sections, {names}; choose one with shapes_key=.")


def field_of(
    sdata: SpatialData, model: Model, selection: Selection, runtime: Runtime, *, n_draws: int, with_counts: bool = True
) -> Field:
    """Return what a model expects anywhere in the only section of an object."""
    needs = method_named(model.method).needs_to_predict - {"counts"}
    bounds = open_sections(sdata, selection, needs=needs - {"features"})
    check_single(bounds)
    if "features" in needs:
        bounds = embedded(bounds, model, runtime, None)
    if with_counts:
        bounds = counted(bounds, model, selection.layer)
    (bound,) = bounds
    section = bound.section
    seed = section.seed(runtime.seed)
    return model.fitted.field(section, n_draws=n_draws, seed=seed, device=runtime.device, progress=runtime.progress)


def embedded(bounds: list[Bound], model: Model, runtime: Runtime, encoder: Encoder | None) -> list[Bound]:
    return ensure_embedding(bounds, model.cohort.features, runtime, encoder, lattice_of(model))


def lattice_of(model: Model) -> tuple[float, float]:
    """Return spacing and radius, in um, of the locations of a section that has only an image."""
    return model.cohort.pitch_um, model.cohort.radius_um


def check_encoder(encoder: Encoder | None, model: Model) -> None:
    """Raise where an encoder is given that is not the model's."""
    if encoder is None:
        return
    if model.cohort.features is None:
        raise ValueError(
            f"encoder= is for models that look at an embedding; model {model.id} ({model.method!r}) does not."
        )
    KnownEncoder(model.cohort.features, encoder).check_offer(encoder)


def check_conditions(bound: Bound, model: Model, required: frozenset[str]) -> None:
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


def counted(bounds: list[Bound], model: Model, layer: str | None) -> list[Bound]:
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
