"""Fit a model on sections with counts."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys, encoders
from hisdiff._arguments import checked
from hisdiff._check import listing, path_of
from hisdiff._device import is_writer, wait_for_writer
from hisdiff._docs import documented
from hisdiff._files import check_writable, locked
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._bound import Bound, as_list, by_object
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import needed
from hisdiff._settings import settings
from hisdiff._training._checkpoint import check_place
from hisdiff._training._config import config_from
from hisdiff.encoders._known import KnownEncoder
from hisdiff.methods._registry import get as method_named
from hisdiff.pp._embed import ensure_embedding, published_patch_um
from hisdiff.tl._fit_job import FitJob, check_memory, patients_of, selected_panel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder
    from hisdiff.methods._protocols import Method
    from hisdiff.models._model import Model


# A section with less than this part of the usual number of spots has hardly any weight in a fit.
_FEW = 0.25


@documented
@checked
def fit(
    data: SpatialData | Sequence[SpatialData],
    *,
    method: str | Method = "hisdiff",
    config: str | Mapping[str, Any] | Any = "fast",
    validation: SpatialData | Sequence[SpatialData] | None = None,
    patient_key: str | None = None,
    encoder: str | Encoder | Sequence[str | Encoder] | None = None,
    save: str | Path | None = None,
    resume: bool = False,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> Model:
    """Fit a model of expression given morphology.

    If genes are not selected (:func:`hisdiff.pp.select_genes`) or an image is not embedded (:func:`hisdiff.pp.embed`),
    this is done with defaults and logged.

    Parameters
    ----------
    data
        Sections with an image and raw counts: one SpatialData or a sequence of them.
    method
        Name of a method: ``"hisdiff"``, ``"istar"``, ``"ridge"``, ``"stage"``, ``"tesla"``, ``"xfuse"`` or one that was
        registered (:func:`hisdiff.methods.register`); or an object that implements :class:`hisdiff.methods.Method`.
    config
        Name of a preset (``"fast"``, and ``"paper"`` for ``hisdiff``), a mapping of settings that differ from ``"fast"``,
        or the configuration object of the method.
    validation
        Sections used for early stopping and calibration; by default parts of the training tissue are held out in turn.
    patient_key
        Column of ``obs`` that names the patient of each section. With several patients all sections of one are left out
        together, so that spread, expected accuracy and transfer are those of a patient that was not seen.
    encoder
        Encoder for sections that are not embedded yet; None for the encoder of the other sections, else
        ``"texture"``. A custom encoder object is remembered in the process that embedded with it; pass it here in another
        process.
    save
        Folder to save the model in; None for ``settings.cache_dir/models/<id>``.
    resume
        Continue from the checkpoint of an interrupted call with the same data and arguments.
    %(place)s
    %(counts_layer)s
    %(mpp)s
    %(rng)s
    %(device)s
    %(progress)s

    Returns
    -------
    The model. Also sets ``sdata.attrs["hisdiff"]["model"]`` (``id`` and ``path``) of every section, so that
    ``hd.tl.predict(sdata)`` finds it.

    Raises
    ------
    ValueError, KeyError, TypeError
        Before any work starts, if a section lacks an image, counts, genes of the panel or a scale, or if the sections
        were embedded with different encoders.
    OSError
        Before any work starts, if the folder of the model cannot be written.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> model = hd.tl.fit(sdata, method="ridge")
    >>> model.method
    'ridge'
    """
    fitter = method_named(method)
    config = config_from(fitter.config_type, config)
    selection = Selection(table_key, image_key, shapes_key, layer, mpp)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    offered = None if encoder is None or isinstance(encoder, str) else encoders.get(encoder)
    if encoder is not None and "features" not in fitter.needs:
        raise ValueError(f"encoder= is for methods that learn from an embedding; {fitter.name!r} does not.")
    folder = _folder_of(save)
    items = as_list(data)
    held_out = [] if validation is None else as_list(validation)
    if any(a is b for a in items for b in held_out):
        raise ValueError("A validation section is among the training sections.")
    opened = open_sections([*items, *held_out], selection, needs=fitter.needs - {"features"}, encoder=offered)
    n_training = sum(any(bound.place.sdata is sdata for sdata in items) for bound in opened)

    patients = None if patient_key is None else patients_of(opened[:n_training], patient_key)
    _warn_few_spots(opened[:n_training])
    as_published = getattr(config, "as_published", False)
    panel = selected_panel(by_object(opened[:n_training]), as_published=as_published)
    if "features" in fitter.needs:
        check_memory(opened, len(panel))
        opened = _embedded(opened, encoder if isinstance(encoder, str) else offered, runtime, as_published)
    job = FitJob(fitter, config, panel, runtime)
    bounds = job.prepared(opened)
    for i, name in enumerate(patients or ()):
        bounds[i] = bounds[i].with_section(replace(bounds[i].section, patient=name))
    training, watched = bounds[:n_training], bounds[n_training:]
    logger.info(
        "fitting %r on %d spots of %d section(s), %d genes",
        fitter.name, sum(needed(bound.section.counts).shape[0] for bound in training), len(training), len(panel),
    )  # fmt: skip
    with _checkpoints_of(job.run_id(bounds), resume=resume) as checkpoint:
        model = _fitted(job, training, watched, checkpoint, resume=resume)
        path = _saved(model, folder, checkpoint)
    for sdata in items:
        sdata.attrs.setdefault(_keys.STEM, {})["model"] = {"id": model.id, "path": str(path.absolute())}
    logger.info(
        "fitted model %s (%s, %d genes, %d section(s)), saved in %s",
        model.id,
        fitter.name,
        len(panel),
        len(training),
        path,
    )
    return model


def _embedded(bounds: list[Bound], encoder: str | Encoder | None, runtime: Runtime, as_published: bool) -> list[Bound]:
    """Return the sections with an embedding; those without one get that of the others, or of ``encoder``."""
    known = next((b.section.features.spec for b in bounds if b.section.features is not None), None)
    if known is not None:
        _check_encoder(KnownEncoder(known, None if isinstance(encoder, str) else encoder), encoder)
    patch_um = published_patch_um(bounds) if as_published else None
    return ensure_embedding(bounds, known, runtime, encoder, patch_um=patch_um)


def _fitted(
    job: FitJob, training: Sequence[Bound], watched: Sequence[Bound], checkpoint: Path | None, *, resume: bool
) -> Model:
    """Return the fitted model; an interrupted fit says how it is continued."""
    resumes = resume and checkpoint is not None and checkpoint.exists()
    if resume and not resumes:
        logger.info("there is no checkpoint of this fit at %s: starting from the beginning", checkpoint)
    try:
        return job.run(training, watched, checkpoint=checkpoint, resume=resumes)
    except KeyboardInterrupt:
        if checkpoint is not None:
            logger.warning("interrupted; the same call with resume=True goes on from %s", checkpoint)
        raise


def _saved(model: Model, folder: Path | None, checkpoint: Path | None) -> Path:
    """Save a model, remove its checkpoint, and return where it is; under torchrun all processes have it, and one writes."""
    path = settings.cache_dir / "models" / model.id if folder is None else folder
    if is_writer():
        path = model.save(path)
        if checkpoint is not None:
            shutil.rmtree(checkpoint, ignore_errors=True)
    wait_for_writer()
    return path


def _warn_few_spots(bounds: Sequence[Bound]) -> None:
    """Warn where a section has so few spots that they are better given to ``adapt``."""
    sizes = {bound.place.name: len(bound.place.rows) for bound in bounds}
    usual = float(np.median(list(sizes.values())))
    few = [name for name, size in sizes.items() if size < _FEW * usual]
    if len(sizes) > 1 and few:
        logger.warning(
            "%s: far fewer spots than the other sections (%d against %.0f), which have hardly any weight in the fit; fit without "
            "them, then adapt the model to them with hd.tl.adapt(model, section).",
            listing(few, 4), min(sizes[name] for name in few), usual,
        )  # fmt: skip


def _folder_of(save: str | Path | None) -> Path | None:
    """Return the folder of the model, None for one in the cache, after checking that it can be written."""
    if save is not None:
        folder = path_of(save, "save")
        check_place(folder, "The model")
        return folder
    try:
        check_writable(settings.cache_dir / "models", "The model")
    except OSError as err:
        raise type(err)(
            err.errno,
            f"{err.strerror} Give save=, or another folder for the cache: hisdiff.settings.cache_dir, or HISDIFF_CACHE_DIR in the "
            f"environment.",
        ) from err
    return None


@contextlib.contextmanager
def _checkpoints_of(run: str, *, resume: bool) -> Iterator[Path | None]:
    """Give the folder for checkpoints of a run to one process at a time.

    None, and a message, where it cannot be written or another process makes the same fit; one that is to go on from it is refused then.
    """
    folder = settings.cache_dir / "checkpoints" / run
    with contextlib.ExitStack() as stack:
        checkpoint: Path | None = folder
        try:
            check_writable(folder, "A checkpoint")
            if is_writer():  # under torchrun the others only read
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(
                    locked(folder.parent / f".{run}.fit" / "lock", f"The checkpoint of fit {run}", wait_s=0)
                )
        except OSError as err:
            if resume and isinstance(err, BlockingIOError):
                raise
            logger.warning(
                "%s This fit leaves no checkpoints: interrupted, it starts from the beginning.", err.strerror
            )
            checkpoint = None
        yield checkpoint


def _check_encoder(known: KnownEncoder, given: str | Encoder | None) -> None:
    """Raise where another encoder is given than the one that embedded; warn where that one is not available."""
    known.check_offer(given)
    if not known.is_found:
        logger.warning(
            "encoder %r, which made the embedding, is an object that this process has not seen: nothing finer than the spots is "
            "learned; pass it with encoder= to change that",
            known.spec.encoder,
        )
