"""The commands."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import numpy as np
import typer

from hisdiff._cli._inputs import FAILURES, attempt, finish, message_of, open_input, run_on_each
from hisdiff._keys import VERSION
from hisdiff._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

    from hisdiff._json import Plain
    from hisdiff.models import Model

_Made = TypeVar("_Made")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Inputs = Annotated[list[Path], typer.Argument(help="Zarr stores of SpatialData, or slides.", show_default=False)]
Stores = Annotated[list[Path], typer.Argument(help="Zarr stores of SpatialData.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Folder in which stores of slides are made.", file_okay=False)]
Mpp = Annotated[float | None, typer.Option(help="Micrometres per pixel, if neither slide nor store says.")]
TableKey = Annotated[str | None, typer.Option(help="Table of the spots, if there are several.")]
ImageKey = Annotated[str | None, typer.Option(help="Image, if there are several.")]
ShapesKey = Annotated[str | None, typer.Option(help="Shapes or labels of the spots, if there are several.")]
ModelFolder = Annotated[Path, typer.Option("--model", help="Folder of a model.")]
Layer = Annotated[str | None, typer.Option(help="Layer of raw counts, if not X.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Seed = Annotated[int, typer.Option(help="Seed of all that is random.")]
Json = Annotated[bool, typer.Option("--json", help="Print a report in JSON to standard output.")]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _of_all(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Spatial gene expression from H&E."""


@app.command()
def embed(
    inputs: Inputs,
    encoder: Annotated[str, typer.Option(help="Name of an encoder, or local-dir:FOLDER.")] = "texture",
    patch_um: Annotated[float | None, typer.Option(help="Side of the patch in um.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches per call of the encoder.")] = None,
    out: Out = None,
    mpp: Mpp = None,
    table_key: TableKey = None,
    image_key: ImageKey = None,
    shapes_key: ShapesKey = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Embed the patch of image around every spot. What is embedded already is not computed again."""
    from hisdiff._check import positive
    from hisdiff._runtime import Runtime
    from hisdiff._sdata._read import open_sections
    from hisdiff._sdata._selection import Selection
    from hisdiff.pp._embed import embed_on, is_embedded

    if patch_um is not None:
        _understood(partial(positive, patch_um, "--patch-um"))

    selection = _understood(partial(Selection, table_key, image_key, shapes_key, mpp=mpp))
    runtime = _understood(partial(Runtime.of, device=device, batch_size=batch_size))

    def step(sdata: SpatialData) -> Plain | None:
        bounds = open_sections(sdata, selection, needs=("image",))
        if is_embedded(bounds, encoder, patch_um):
            logger.info("%s has this embedding", sdata.path)
            return None
        embed_on(bounds, encoder, runtime, patch_um)
        return {"encoder": encoder}

    run_on_each("embed", inputs, step, out=out, mpp=mpp, as_json=as_json)


@app.command()
def fit(
    stores: Stores,
    save: Annotated[Path, typer.Option(help="Folder to save the model in.")],
    method: Annotated[str, typer.Option(help="Name of a method.")] = "hisdiff",
    config: Annotated[str, typer.Option(help="Name of a preset, or a JSON mapping of settings.")] = "fast",
    encoder: Annotated[
        str | None, typer.Option(help="Encoder where nothing is embedded yet; otherwise that of the other stores.")
    ] = None,
    patient_key: Annotated[
        str | None, typer.Option(help="Column of obs that names the patient; patients are then left out, not sections.")
    ] = None,
    layer: Layer = None,
    mpp: Mpp = None,
    table_key: TableKey = None,
    image_key: ImageKey = None,
    shapes_key: ShapesKey = None,
    resume: Annotated[
        bool, typer.Option(help="Continue an interrupted call; a model that is there is not fitted again.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Fit a model on sections with counts. Selects genes and embeds where that is missing, and saves it in the stores."""
    from hisdiff import io, tl
    from hisdiff._cli._resume import check_data, kept_model, settings_of

    settings = _understood(partial(_mapping, config)) if config.lstrip().startswith("{") else config
    _understood(partial(settings_of, method, settings))
    where: Plain = {
        "table_key": table_key,
        "image_key": image_key,
        "shapes_key": shapes_key,
        "layer": layer,
        "mpp": mpp,
    }

    def fitted() -> Plain:
        known = kept_model(save, method, settings, seed) if resume else None
        sections = [open_input(path) for path in stores]
        if known is not None:
            check_data(known, save, sections, patient_key, **where)
            logger.info("%s holds this model; without --resume it is fitted again", save)
            return {"status": "unchanged", "model": known.id, "path": str(save)}
        model = tl.fit(
            sections, method=method, config=settings, encoder=encoder, patient_key=patient_key, resume=resume, rng=seed, device=device, save=save, **where
        )  # fmt: skip
        for sdata in sections:
            io.save(sdata)
        return {"model": model.id, "path": str(save), "n_genes": len(model.genes)}

    finish("fit", [attempt(stores, fitted)], as_json=as_json)


@app.command()
def adapt(
    store: Annotated[
        Path, typer.Argument(help="Zarr store of a section with a few measured spots.", show_default=False)
    ],
    model: ModelFolder,
    save: Annotated[Path, typer.Option(help="Folder to save the adapted model in.")],
    spots: Annotated[
        str | None, typer.Option(help="Column of obs that marks the spots to learn from; otherwise all with counts.")
    ] = None,
    layer: Layer = None,
    mpp: Mpp = None,
    table_key: TableKey = None,
    image_key: ImageKey = None,
    shapes_key: ShapesKey = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Adapt a model to a new section by its measured spots, however few."""
    from hisdiff import io, models, tl

    found = _loaded(partial(models.load, model), "adapt", [store], as_json=as_json)

    def adapted() -> Plain:
        sdata = open_input(store)
        model = tl.adapt(
            found, sdata, spots=spots, layer=layer, mpp=mpp, table_key=table_key, image_key=image_key, shapes_key=shapes_key, device=device
        )  # fmt: skip
        model.save(save)
        io.save(sdata)
        return {"model": model.id, "path": str(save), "n_spots": model.n_adapted}

    finish("adapt", [attempt(store, adapted)], as_json=as_json)


@app.command()
def predict(
    inputs: Inputs,
    model: ModelFolder,
    resolution_um: Annotated[float | None, typer.Option(help="Side of the bins of a grid, in um.")] = None,
    at: Annotated[str | None, typer.Option(help="Shapes or labels element to predict at.")] = None,
    n_draws: Annotated[int | None, typer.Option(help="Draws per location.")] = None,
    library_size: Annotated[float | None, typer.Option(help="Median total count of a spot over the panel.")] = None,
    layer: Layer = None,
    key_added: Annotated[str | None, typer.Option(help="Stem of the names of the results.")] = None,
    table: Annotated[
        str | None, typer.Option(help="At spots: layers of their table, or a table of the panel's genes (panel).")
    ] = None,
    keep_draws: Annotated[int | None, typer.Option(help="Single draws to store.")] = None,
    n_steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    units: Annotated[str | None, typer.Option(help="log2 or counts.")] = None,
    calibrate: Annotated[str | None, typer.Option(help="Finer than spots: shrink, exact or none.")] = None,
    force: Annotated[bool, typer.Option(help="Predict again where the store holds the same prediction.")] = False,
    out: Out = None,
    mpp: Mpp = None,
    table_key: TableKey = None,
    image_key: ImageKey = None,
    shapes_key: ShapesKey = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Predict expression at spots, on a lattice where a section has none, or finer. A stopped call continues."""
    from hisdiff import models
    from hisdiff._sdata._selection import Selection
    from hisdiff.tl._predict_call import PredictCall

    selection = _understood(partial(Selection, table_key, image_key, shapes_key, layer, mpp))
    call = _understood(
        partial(
            PredictCall, resolution_um=resolution_um, at=at, n_draws=n_draws, n_steps=n_steps, keep_draws=keep_draws, units=units,
            calibrate=calibrate, library_size=library_size, table=table, selection=selection, key_added=key_added, rng=seed, device=device,
        )
    )  # fmt: skip
    found = _loaded(partial(models.load, model), "predict", inputs, as_json=as_json)
    (job,) = _understood(partial(call.jobs, [found]))

    def step(sdata: SpatialData) -> Plain | None:
        bounds = job.opened(sdata, selection)
        if not force and job.is_done(bounds):
            logger.info("%s holds this prediction; --force repeats it", sdata.path)
            return None
        job.run(bounds, inplace=True)
        return {"model": found.id, "key": job.stem}

    run_on_each("predict", inputs, step, out=out, mpp=mpp, as_json=as_json)


@app.command()
def evaluate(
    stores: Stores,
    layer: Annotated[str | None, typer.Option(help="Stem of the prediction, if there are several.")] = None,
    truth: Annotated[str | None, typer.Option(help="Layer or table of measured counts, if not X.")] = None,
    table_key: TableKey = None,
    csv: Annotated[
        Path | None, typer.Option(help="Folder for a table per store, one row per gene.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare predictions with measured counts: prints a summary for each store."""
    from hisdiff import tl

    def judged(path: Path) -> Plain:
        table = tl.evaluate(open_input(path), layer=layer, truth=truth, table_key=table_key)
        # JSON has no NaN; a metric that could not be computed is null.
        summary = {
            view: {name: float(value) if np.isfinite(value) else None for name, value in of.items()}
            for view, of in table.attrs["summary"].items()
        }
        if csv is not None:
            csv.mkdir(parents=True, exist_ok=True)
            table.to_csv(csv / f"{path.stem}.csv")
        if not as_json:
            known = {name: value for name, value in summary["mean"].items() if value is not None}
            typer.echo(f"{path}: " + ", ".join(f"{name} {value:.3f}" for name, value in known.items()))
        return {"summary": summary}

    finish("evaluate", [attempt(path, partial(judged, path)) for path in stores], as_json=as_json)


@app.command()
def report(
    stores: Stores,
    genes: Annotated[str | None, typer.Option(help="Genes to map, separated by commas; otherwise the best.")] = None,
    table_key: TableKey = None,
    image_key: ImageKey = None,
    mpp: Mpp = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pages; otherwise beside each store.", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Report on each store as one HTML page: contents, accuracy, maps, transfer, provenance."""
    import matplotlib as mpl

    mpl.use("Agg")
    from hisdiff import pl

    def reported(path: Path) -> Plain:
        named = None if genes is None else [gene.strip() for gene in genes.split(",")]
        page = pl.report(
            open_input(path), genes=named, table_key=table_key, image_key=image_key, mpp=mpp, title=path.stem
        )
        written = page.save((out or path.parent) / f"{path.stem}.html")
        logger.info("wrote %s", written)
        return {"page": str(written)}

    finish("report", [attempt(path, partial(reported, path)) for path in stores], as_json=as_json)


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="her2st, cscc, prad or dlpfc.", show_default=False)],
    hest: Annotated[Path, typer.Option(help="Folder of HEST-1k; what is missing is downloaded.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and the metrics.", file_okay=False)],
    encoder: Annotated[str, typer.Option(help="Name of an encoder, or local-dir:FOLDER.")] = "uni",
    epochs: Annotated[
        int, typer.Option(help="Epochs; the last checkpoint of the published code is after 1900.")
    ] = 1900,
    config: Annotated[str, typer.Option(help="A JSON mapping of settings to change, to try it out.")] = "{}",
    sample: Annotated[list[str] | None, typer.Option(help="Samples to train on, if not all others.")] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Repeat a leave-one-out of the HisDiff study on HEST-1k, in its published setting. A stopped call continues."""
    from hisdiff._cli._reproduce import reproduce as run

    def repeated() -> Plain:
        settings = _mapping(config)
        if not settings.keys() & {"max_epochs", "max_steps"}:
            settings["max_epochs"] = epochs
        found = run(study, hest, out, encoder=encoder, settings=settings, samples=sample, seed=seed, device=device)
        if not as_json:
            typer.echo(", ".join(f"{name} {value:.3f}" for name, value in found["summary"].items()))
        return found

    finish("reproduce", [attempt(hest, repeated) | {"study": study}], as_json=as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the figures and the zarr store.", file_okay=False)] = Path(
        "hisdiff-demo"
    ),
    seed: Seed = 0,
) -> None:
    """Fit, predict, evaluate and plot on the built-in toy tissue."""
    from hisdiff._cli._demo import demo as run

    run(out, seed=seed)


def _mapping(config: str) -> Plain:
    """Return the settings of a JSON text."""
    try:
        found = json.loads(config)
    except ValueError as error:
        raise ValueError(f"--config {config!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise TypeError(f"--config is a JSON mapping of settings, not {config!r}.")
    return found


def _understood(make: Callable[[], _Made]) -> _Made:
    """Return what is made of options, or end with status 2 where these are wrong, whatever the inputs are."""
    try:
        return make()
    except FAILURES as error:
        raise typer.BadParameter(message_of(error)) from error


def _loaded(load: Callable[[], Model], command: str, inputs: Sequence[Path], *, as_json: bool) -> Model:
    """Load a model, or end with what is wrong with it: without one nothing can be done for any input."""
    try:
        return load()
    except FAILURES as error:
        text = f"--model: {message_of(error)}"
        typer.echo(f"hisdiff: {text}", err=True)
        finish(command, [{"input": str(path), "status": "failed", "error": text} for path in inputs], as_json=as_json)
        raise  # `finish` has ended the command
