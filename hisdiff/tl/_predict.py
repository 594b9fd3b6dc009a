"""Predict expression: at spots, on the lattice of a section that has only an image, or finer than the spots."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._check import listing, one_of, positive, seed_of
from hisdiff._keys import VERSION
from hisdiff._log import logger
from hisdiff._sdata._genes import check_panel_present, gene_names, rows_of
from hisdiff._sdata._locate import locate
from hisdiff._sdata._read import Bound, as_list, read_counts, read_sections
from hisdiff._sdata._stand_in import stand_in
from hisdiff._sdata._write import (
    UNKNOWN,
    check_layers_writable,
    checked_name,
    set_record,
    with_panel,
    write_layers,
    write_obs,
    write_var,
    write_varm,
)
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._model import Model
from hisdiff.pp._embed import ensure_embedding, ensure_lattice
from hisdiff.tl._target import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from spatialdata import SpatialData

    from hisdiff._section import Prediction, Section

N_DRAWS = 16
KEEP_DRAWS = 1
FINE_DRAWS = 4
MAX_LIBRARY_SIZE = 1e12
"""More counts than any location has."""


def predict(
    data: SpatialData | Sequence[SpatialData],
    model: Model | str | Path | None = None,
    *,
    resolution_um: float | None = None,
    at: str | None = None,
    n_draws: int | None = None,
    n_steps: int | None = None,
    keep_draws: int | None = None,
    units: str | None = None,
    calibrate: str | None = None,
    library_size: float | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    inplace: bool = True,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> AnnData | list[AnnData] | None:
    """Predict expression from the image.

    At the spots of a section with a table, measured or not; at a lattice of the model's pitch in a section that has
    only an image. With ``resolution_um`` on a grid finer than the spots, with ``at`` at the shapes of any element: cells,
    nuclei, annotations, bins. A section that was not embedded yet is embedded with the model's encoder first.

    Parameters
    ----------
    data
        One SpatialData or a sequence of them.
    model
        A model, the folder of one, or None for the one that was fitted on this object.
    resolution_um
        Side of the bins of a grid over the tissue, in um.
    at
        A shapes or labels element to predict at, by the area of its shapes.
    n_draws
        Draws of the whole gene vector per location; None for 16 at spots, 4 elsewhere. Their mean is the prediction.
    n_steps
        Steps of the sampler; None for the model's own.
    keep_draws
        How many single draws to store; None for 1 at spots, none elsewhere.
    units
        ``"log2"``: mean and spread of log2(1 + count), the default at spots; ``"counts"``: of counts, the default
        elsewhere, where they are expected counts, without the noise of counting.
    calibrate
        How predictions elsewhere agree with the section's measured spots. ``"shrink"``, the default: the bins of a
        spot's footprint are scaled by s (y + a) / (s m + a), y its count and m what was predicted for it, with the a of
        each gene from the training sections and s a factor that all genes of the spot share; draws are scaled by draws
        from the distributions of which these are the means. ``"exact"``: they add up to the count, where no bin lies in
        two footprints. ``"none"``.
    library_size
        Median total count of a spot over the panel to predict at, such as 3000; None for the section's own where it has
        counts, else the median of the training sections.
    table_key, image_key, shapes_key
        What to use where several could be meant; ``image_key`` may map regions to images.
    layer
        Layer with raw counts, from which a section's library size is taken; None for ``X``.
    mpp
        Micrometres per pixel, where the image has no coordinate system ``um``.
    key_added
        Stem of the names of layers, or of the new table and element; None for the name of the method.
    inplace
        Write, or return the predictions and leave the object as it is.
    rng
        Seed, or a Generator, of which one number is drawn.
    device
        ``"cpu"``, ``"cuda"``, ...; None for the package's setting.
    progress
        Show progress bars; None for the package's setting.

    Returns
    -------
    None, and sets in ``tables[table_key]``

    - ``layers["hisdiff"]`` (mean of draws), ``["hisdiff_std"]``, ``["hisdiff_draw0"]``, ...: float32, n_obs x n_vars, in
      ``units``; NaN for genes outside the panel;
    - ``var["hisdiff_modelled"]``, ``["hisdiff_cv_pcc"]``, ``["hisdiff_interval_factor"]``: the panel, and what is known of
      each gene from left-out training tissue;
    - ``obs["hisdiff_ood"]``: bool, the patch looks like nothing the model was trained on;
    - ``uns["hisdiff"]["predictions"]["hisdiff"]``: the record.

    A section that has only an image gets the table ``lattice`` with the genes of the panel. With ``resolution_um=16``: the
    table ``hisdiff_16um`` (bins x panel; ``X`` the mean, layer ``"std"``, ``"draw0"``, ...; ``obs["spot"]`` and
    ``obs["spot_distance_um"]`` the nearest measured spot) on the labels ``hisdiff_16um_bins``. With ``at="nuclei"``: the
    table ``hisdiff_nuclei`` on that element. An object with several sections gets one for each, with its region at the end
    of the names.

    For an object that is backed by a zarr store the table of a grid is streamed there, tile by tile, in memory that does not
    grow with the slide (counts and factors of measured spots are held whole); a call that was stopped leaves no table and is continued by the same call. Above 256 MB its ``X``
    and layers stay lazy (dask).

    With ``inplace=False`` the predictions, an AnnData (locations x panel) per section with the same layers.

    Raises
    ------
    KeyError
        If no model is given and none was fitted on this object.
    OSError
        If the disk is full; the object is as it was, and the same call goes on where it stopped.
    ValueError
        If the grid is finer than a pixel or no bin lies in the tissue, a result above 2 GB is asked for an object
        without a store, both ``resolution_um`` and ``at`` are given,
        the embedding is of another encoder than the model's, fewer than half of its genes are in the table, a layer
        of that name was not written by hisdiff, or the image or its scale is missing.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> model = hd.tl.fit(sdata, method="ridge")
    >>> hd.tl.predict(sdata, model)
    >>> all(name in sdata.tables["table"].layers for name in ("ridge", "ridge_std", "ridge_draw0"))
    True
    """
    fine = resolution_um is not None or at is not None
    usual = FINE_DRAWS if fine else N_DRAWS
    options = {
        "n_draws": positive(usual if n_draws is None else n_draws, "n_draws", integer=True),
        "n_steps": None if n_steps is None else positive(n_steps, "n_steps", integer=True),
        "units": one_of(units or (_keys.COUNTS if fine else _keys.LOG2), (_keys.LOG2, _keys.COUNTS), "units"),
        "library_size": _checked_library_size(library_size),
        "seed": seed_of(rng),
    }
    options["keep_draws"] = _kept(keep_draws, options["n_draws"], 0 if fine else KEEP_DRAWS)
    target = Target.of(resolution_um, at, calibrate)
    where: dict[str, Any] = {"table_key": table_key, "image_key": image_key, "shapes_key": shapes_key, "mpp": mpp}
    run = {"device": device, "progress": progress}
    items = as_list(data)
    jobs = [(sdata, _model_for(sdata, model)) for sdata in items]
    for sdata, used in jobs:
        _check(sdata, used, checked_name(key_added, used.method), options["keep_draws"], where, target)
    if not inplace:  # an embedding or outline that is missing is made on the way
        jobs = [(stand_in(sdata), used) for sdata, used in jobs]
    one = _predict if target is None else partial(_predict_fine, target)
    results = [one(sdata, used, key_added or used.method, where, layer, options, run, inplace) for sdata, used in jobs]
    if inplace:
        return None
    return results if isinstance(data, (list, tuple)) else results[0]


def _checked_library_size(library_size: Any) -> float | None:
    if library_size is None:
        return None
    size = float(positive(library_size, "library_size"))
    if not 1 <= size <= MAX_LIBRARY_SIZE:
        raise ValueError(
            f"library_size is the median total count of a spot over the panel, from 1 to {MAX_LIBRARY_SIZE:.0e}, not {library_size!r}."
        )
    return size


def _kept(keep_draws: int | None, n_draws: int, usual: int) -> int:
    if keep_draws is None:
        return min(usual, n_draws)
    if keep_draws != 0:
        positive(keep_draws, "keep_draws", integer=True)
    if keep_draws > n_draws:
        raise ValueError(f"keep_draws={keep_draws} is more than n_draws={n_draws}.")
    return keep_draws


def _model_for(sdata: SpatialData, model: Model | str | Path | None) -> Model:
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


def _check(
    sdata: SpatialData, model: Model, stem: str, keep_draws: int, where: Mapping[str, Any], target: Target | None
) -> None:
    """Check everything that can be wrong before the first patch is read."""
    required = method_named(model.method).needs_to_predict
    # The bins of a grid are laid over the tissue that the image shows.
    on_image = required if target is None else required | {"image"}
    bounds = read_sections(sdata, **where, needs=on_image & {"image"})
    if target is not None:
        for bound in bounds:
            target.check(bound, stem, several=len(bounds) > 1)
    for bound in bounds:
        features, table = bound.section.features, bound.place.table
        if "counts" in required and (
            table is None or table.n_vars == 0 or bound.place.table_key == _keys.LATTICE_TABLE
        ):
            raise ValueError(
                f"Method {model.method!r} refines the counts of a section, and {bound.place.name!r} has none; a section with an image only "
                f"is for methods that learn from other sections, such as 'hisdiff'."
            )
        if features is None and model.cohort.features is None and "features" in required:
            raise ValueError(
                f"{bound.place.name!r} has no embedding, and the model does not record its encoder; embed the section first, with "
                f'the encoder that the model was trained with, e.g. hd.pp.embed(sdata, "uni").'
            )
        if features is not None and model.cohort.features is not None and features.spec != model.cohort.features:
            has, needs = features.spec, model.cohort.features
            raise ValueError(
                f"{bound.place.name!r} is embedded with {has.encoder!r} (revision {has.revision}, patch {has.patch_um:g} um), the model needs "
                f"{needs.encoder!r} (revision {needs.revision}, patch {needs.patch_um:g} um); run hd.pp.embed(sdata, encoder={needs.encoder!r}, patch_um={needs.patch_um:g})."
            )
        if table is None:
            continue
        if bound.place.table_key != _keys.LATTICE_TABLE:
            check_panel_present(model.genes, gene_names(table, like=model.genes), f"table {bound.place.table_key!r}")
        if target is None:
            check_layers_writable(table, stem, keep_draws, f"Table {bound.place.table_key!r}")


def _predict(
    sdata: SpatialData,
    model: Model,
    stem: str,
    where: Mapping[str, Any],
    layer: str | None,
    options: Mapping[str, Any],
    run: Mapping[str, Any],
    inplace: bool,
) -> AnnData | None:
    if "features" not in method_named(model.method).needs_to_predict:  # an embedding comes with a lattice
        ensure_lattice(sdata, where, (model.cohort.pitch_um, model.cohort.radius_um))
    bounds = [_with_counts(bound, model, layer) for bound in _prepared(sdata, model, where, run)]
    predictions = [model.fitted.predict(bound.section, bound.section.spots, **options, **run) for bound in bounds]
    record = _record(bounds, model, options, predictions[0].n_draws)
    if not inplace:
        return ad.concat([_as_anndata(b, p, stem) for b, p in zip(bounds, predictions)], merge="same")
    _write(bounds, predictions, model, stem, record)
    return None


def _predict_fine(
    target: Target,
    sdata: SpatialData,
    model: Model,
    stem: str,
    where: Mapping[str, Any],
    layer: str | None,
    options: Mapping[str, Any],
    run: Mapping[str, Any],
    inplace: bool,
) -> AnnData | list[AnnData] | None:
    bounds = [_with_counts(bound, model, layer) for bound in _prepared(sdata, model, where, run)]
    results = []
    for bound in bounds:
        record = _record([bound], model, options, options["n_draws"])
        results.append(
            target.predict(bound, model, stem, options, run, record, several=len(bounds) > 1, inplace=inplace)
        )
    return None if inplace else results if len(results) > 1 else results[0]


def _prepared(sdata: SpatialData, model: Model, where: Mapping[str, Any], run: Mapping[str, Any]) -> list[Bound]:
    """Read sections after making what the model needs of them."""
    needs = method_named(model.method).needs_to_predict - {"counts"}
    if "features" in needs:
        lattice = (model.cohort.pitch_um, model.cohort.radius_um)
        ensure_embedding(sdata, model.cohort.features, where, run, lattice=lattice)
    if locate(sdata, **where)[0].table_key is None and _keys.LATTICE_TABLE in sdata.tables:
        where = {**where, "table_key": _keys.LATTICE_TABLE}
    return read_sections(sdata, **where, needs=needs)


def _with_counts(bound: Bound, model: Model, layer: str | None) -> Bound:
    """Add the section's own counts, on the genes of the panel that it has."""
    table, section = bound.place.table, bound.section
    if table is None or table.n_vars == 0 or bound.place.table_key == _keys.LATTICE_TABLE:
        return bound
    try:
        counts = read_counts(table, layer, what=f"table {bound.place.table_key!r}")[bound.place.rows]
    except ValueError as error:
        if layer is not None:
            raise
        logger.warning("%s: its library size is taken from the training sections (%s)", bound.place.name, error)
        return bound
    names = gene_names(table, like=model.genes)
    there = [gene for gene, column in zip(model.genes, rows_of(model.genes, names)) if column >= 0]
    if len(there) < len(model.genes):
        missing = sorted(set(model.genes) - set(there))
        logger.warning("%s: %d of the model's %d genes are not in the table and are left out: %s",
                       bound.place.name, len(missing), len(model.genes), listing(missing, 6))  # fmt: skip
    known = replace(section, genes=names, counts=counts).with_panel(there)
    if known.library_size is not None:  # it is that of the whole panel, whatever part of it a table has
        whole = known.library_size * model.cohort.missing_factor(np.isin(model.genes, there))
        known = replace(known, library_size=whole)
    return Bound(known, bound.place)


def _record(bounds: Sequence[Bound], model: Model, options: Mapping[str, Any], n_draws: int) -> dict[str, Any]:
    sizes = [_library_size_of(bound.section, model, options["library_size"]) for bound in bounds]
    known = [_is_known(bound.section, model) for bound in bounds]
    n_steps = model.fitted.n_steps  # 0: a method without steps takes none, whatever is asked for
    return {
        "method": model.method,
        "model": model.id,
        "n_genes": len(model.genes),
        "units": options["units"],
        "library_size": [float(size) for size, _ in sizes],
        "library_size_from": [source for _, source in sizes],
        "seed": int(options["seed"]),
        "n_draws": int(n_draws),
        "n_steps": int((options["n_steps"] or n_steps) if n_steps else 0),
        "calibration": "none",
        "in_sample": True if any(known) else UNKNOWN if None in known else False,
        "uses_section_counts": "counts" in method_named(model.method).needs_to_predict,
        "version": VERSION,
    }


def _library_size_of(section: Section, model: Model, asked: float | None) -> tuple[float, str]:
    """Return the library size that is predicted at, and where it comes from: ``given``, ``section`` or ``training``."""
    if asked is not None:
        return asked, "given"
    if section.library_size is not None:
        return section.library_size, "section"
    return model.cohort.library_size, "training"


def _is_known(section: Section, model: Model) -> bool | None:
    """Whether the model was trained on spots of a section; None without counts of the whole panel, by which they are known."""
    if section.counts is None or len(section.genes) < len(model.genes):
        return None
    return model.cohort.contains(section.counts, section.genes)


def _as_anndata(bound: Bound, prediction: Prediction, stem: str) -> AnnData:
    table, rows = bound.place.table, bound.place.rows
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
    place = bounds[0].place
    table = place.table
    if place.table_key == _keys.LATTICE_TABLE:
        table = with_panel(place, model.genes, stem)
    rows = [bound.place.rows for bound in bounds]
    columns = rows_of(model.genes, gene_names(table, like=model.genes))
    write_layers(table, stem, rows, columns, predictions)
    if place.table_key == _keys.LATTICE_TABLE and table.uns[_keys.STEM].setdefault(_keys.IN_X, stem) == stem:
        table.X = table.layers[stem].copy()
    if model.calibration is not None:
        write_var(table, _keys.cv_pcc(stem), columns, model.calibration.cv_pcc)
        write_var(table, _keys.interval_factor(stem), columns, model.calibration.interval_factor)
    if model.modules is not None:
        for name, weights in zip(
            (_keys.gene_modules, _keys.gene_modules_norm), (model.modules.raw, model.modules.normalized)
        ):
            write_varm(table, name(stem), columns, weights)
    if model.ood is not None:
        flags = [model.ood.flag(bound.section.features.at(bound.section.spots)) for bound in bounds]
        write_obs(table, _keys.ood(stem), rows, flags)
    set_record(table, _keys.PREDICTIONS, stem, record)
