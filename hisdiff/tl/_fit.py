"""Fit a model on sections with counts."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing, path_of, seed_of
from hisdiff._files import check_writable
from hisdiff._geometry import pitch_of
from hisdiff._log import logger
from hisdiff._sdata._features import embedding_record
from hisdiff._sdata._genes import gene_names, rows_of, shared_genes
from hisdiff._sdata._image import fingerprint
from hisdiff._sdata._locate import on_tissue, resolve_table
from hisdiff._sdata._read import Bound, as_list, read_sections
from hisdiff._settings import settings
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._training._checkpoint import check_place
from hisdiff._training._ood import EmbeddingDistribution
from hisdiff.methods._registry import get as method_named
from hisdiff.models._model import Cohort, Model, spot_hashes
from hisdiff.pp._embed import ensure_embedding
from hisdiff.pp._genes import select_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._section import FeatureSpec, Names, Section
    from hisdiff.methods._protocols import Method


def fit(
    data: SpatialData | Sequence[SpatialData],
    *,
    method: str | Method = "hisdiff",
    config: str | Mapping[str, Any] | Any = "fast",
    validation: SpatialData | Sequence[SpatialData] | None = None,
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

    What is missing is made with its defaults and said in a log line: the choice of genes
    (:func:`hisdiff.pp.select_genes`) and the embedding (:func:`hisdiff.pp.embed`).

    Parameters
    ----------
    data
        Sections with an image and raw counts: one SpatialData or a sequence of them.
    method
        ``"hisdiff"``, ``"istar"``, ``"ridge"``, ``"stage"``, ``"tesla"`` or ``"xfuse"``, the name of one that was
        registered (:func:`hisdiff.methods.register`), or an object that meets :class:`hisdiff.methods.Method`.
    config
        Name of a preset (``"fast"``, and ``"paper"`` for ``hisdiff``), a mapping of options that differ from ``"fast"``,
        or the method's own configuration.
    validation
        Sections that decide when to stop; by default part of the training tissue is held out in turn.
    save
        Folder to save the model in; by default ``settings.cache_dir/models/<id>``. With it the cache is not needed.
    resume
        Go on from the checkpoint that an interrupted call with the same data and arguments left.
    table_key, image_key, shapes_key
        What to use where several could be meant; ``image_key`` may map regions to images.
    layer
        Layer with raw counts, or None for ``X``.
    mpp
        Micrometres per pixel, where an image has no coordinate system ``um``.
    rng
        Seed, or a Generator, of which one number is drawn.
    device
        ``"cpu"``, ``"cuda"``, ...; None for the package's setting.
    progress
        Show progress bars; None for the package's setting.

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
    fitter, seed = method_named(method), seed_of(rng)
    config = config_of(fitter, config)
    where: dict[str, Any] = {"table_key": table_key, "image_key": image_key, "shapes_key": shapes_key, "mpp": mpp}
    folder = _folder_of(save)
    items = as_list(data)
    held_out = [] if validation is None else as_list(validation)
    if any(a is b for a in items for b in held_out):
        raise ValueError("A validation section is among the training sections.")
    for sdata in (*items, *held_out):
        read_sections(sdata, **where, layer=layer, needs=fitter.needs - {"features"})

    panel = _panel(items, table_key, layer)
    if "features" in fitter.needs:
        known = _common_features([*items, *held_out], where)
        ensure_embedding([*items, *held_out], known, where, {"device": device, "progress": progress})
    bounds = [_sections(sdata, panel, where, layer, fitter.needs) for sdata in items]
    training = [bound for group in bounds for bound in group]
    watched = [bound for sdata in held_out for bound in _sections(sdata, panel, where, layer, fitter.needs)]
    _check_embeddings([*training, *watched])

    checkpoint = _checkpoint_of(_run_id([*training, *watched], fitter.name, config, panel, seed))
    if resume and (checkpoint is None or not checkpoint.exists()):
        logger.info("there is no checkpoint of this fit at %s: starting afresh", checkpoint)
    try:
        fitted = fitter.fit(
            [bound.section for bound in training],
            config,
            validation=[bound.section for bound in watched],
            seed=seed,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
            resume=resume and checkpoint is not None and checkpoint.exists(),
        )
    except KeyboardInterrupt:
        if checkpoint is None:
            raise
        logger.warning("interrupted; the same call with resume=True goes on from %s", checkpoint)
        raise
    model = Model(
        fitter.name,
        fitted,
        config.to_dict(),
        _cohort(training),
        ood=_distribution(training),
        modules=GeneModules.of_counts([bound.section.counts for bound in training]),
        seed=seed,
    )
    path = model.save(settings.cache_dir / "models" / model.id if folder is None else folder)
    if checkpoint is not None:
        shutil.rmtree(checkpoint, ignore_errors=True)
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


def _checkpoint_of(run: str) -> Path | None:
    """Return where the checkpoints of a run are kept; None, and a warning, where that cannot be written."""
    folder = settings.cache_dir / "checkpoints" / run
    try:
        check_writable(folder, "A checkpoint")
    except OSError as err:
        logger.warning("%s The fit leaves none: stopped, it starts afresh.", err.strerror)
        return None
    return folder


def config_of(fitter: Method, config: Any) -> Any:
    """Return a method's configuration from the name of a preset, a mapping, or itself."""
    kind = fitter.config_type
    if isinstance(config, kind):
        return config
    if isinstance(config, str):
        return kind.preset(config)
    if hasattr(config, "keys"):
        return kind.from_dict(config)
    raise TypeError(f"config is the name of a preset, a mapping or a {kind.__name__}, not {type(config).__name__}.")


def _panel(items: Sequence[SpatialData], table_key: str | None, layer: str | None) -> list[str]:
    """Return the selected genes, which are chosen here where no section has a choice."""
    tables = [sdata.tables[resolve_table(sdata, table_key)] for sdata in items]
    if not any(_keys.SELECTED in table.var for table in tables):
        logger.info("no genes are selected yet: running hd.pp.select_genes")
        select_genes(items, table_key=table_key, layer=layer)
    panels = {
        tuple(sorted(names[table.var[_keys.SELECTED].to_numpy(dtype=bool)]))
        for table, names in zip(tables, shared_genes(tables))
        if _keys.SELECTED in table.var
    }
    if len(panels) > 1:
        sizes = sorted(len(panel) for panel in panels)
        raise ValueError(
            f"The sections have different selections of genes ({sizes} genes); run hd.pp.select_genes on all of them together."
        )
    panel = list(panels.pop())
    if not panel:
        raise ValueError(f"No gene is selected: var[{_keys.SELECTED!r}] is all False.")
    for sdata, table in zip(items, tables):
        missing = np.asarray(panel)[rows_of(panel, gene_names(table, like=panel)) < 0]
        if len(missing):
            raise ValueError(
                f"Section {next(iter(sdata.images), '')!r} lacks {len(missing)} selected genes, such as {listing(missing, 4)}; select on all sections."
            )
    return panel


def _common_features(items: Sequence[SpatialData], where: Mapping[str, Any]) -> FeatureSpec | None:
    """Return the spec of the first embedding that is there, for sections that have none yet."""
    for sdata in items:
        for bound in read_sections(sdata, **where):
            if bound.section.features is not None:
                return bound.section.features.spec
    return None


def _sections(
    sdata: SpatialData, panel: Names, where: Mapping[str, Any], layer: str | None, needs: frozenset[str]
) -> list[Bound]:
    found = []
    for bound in read_sections(sdata, **where, layer=layer, needs=needs):
        section = (
            _on_tissue(bound).renamed(gene_names(bound.place.table, like=panel)).with_panel(panel).in_order_of_place()
        )
        # An embedding that the method does not look at is no condition for using the model later.
        found.append(Bound(section if "features" in needs else replace(section, features=None), bound.place))
    return found


def _on_tissue(bound: Bound) -> Section:
    """Return the section without the spots that do not lie on tissue, which teach nothing of it."""
    kept = on_tissue(bound.place.table)[bound.place.rows]
    if kept.all():
        return bound.section
    if not kept.any():
        raise ValueError(
            f"No spot of {bound.place.name!r} is on the tissue: obs[{_keys.IN_TISSUE!r}] is 0 for all of them."
        )
    logger.info(
        "%s: %d of %d spots are off the tissue (obs[%r]) and are not fitted on",
        bound.place.name, (~kept).sum(), len(kept), _keys.IN_TISSUE,
    )  # fmt: skip
    return bound.section.take(kept)


def _check_embeddings(bounds: Sequence[Bound]) -> None:
    specs = {b.section.name: b.section.features.spec for b in bounds if b.section.features is not None}
    if len(set(specs.values())) > 1:
        told = "; ".join(
            f"{name}: {spec.encoder} {spec.revision}, patch {spec.patch_um:g} um" for name, spec in specs.items()
        )
        raise ValueError(
            f"The sections were embedded differently ({told}); embed all of them with one call of hd.pp.embed."
        )
    for bound in bounds:
        values = bound.section.features.at(bound.section.spots) if bound.section.features is not None else np.zeros(1)
        if not np.isfinite(values).all():
            raise ValueError(
                f"The embedding of {bound.section.name!r} has NaN or infinite values; run hd.pp.embed on it again."
            )


def _run_id(bounds: Sequence[Bound], method: str, config: Any, panel: Sequence[str], seed: int) -> str:
    digest = hashlib.sha256(repr([method, config.to_dict(), list(panel), seed]).encode())
    for bound in bounds:
        digest.update(spot_hashes(bound.section.counts, bound.section.genes).tobytes())
        digest.update(bound.section.spots.xy_um.tobytes())
        if bound.section.features is not None:
            digest.update(bound.section.features.at(bound.section.spots).tobytes())
        if bound.section.image is not None:
            digest.update(fingerprint(bound.section.image).encode())
    return digest.hexdigest()[:12]


def _cohort(training: Sequence[Bound]) -> Cohort:
    sections: list[Section] = [bound.section for bound in training]
    spec = sections[0].features.spec if sections[0].features is not None else None
    record = {} if spec is None else embedding_record(training[0].place.table)
    return Cohort(
        sections=tuple(section.name for section in sections),
        features=spec,
        licence=str(record.get("licence", "none needed")),
        derivatives={"yes": True, "no": False, "unknown": None}[str(record.get("derivatives", "yes"))],
        mpp=tuple(float(bound.place.mpp) for bound in training),
        pitch_um=_median([pitch_of(section.spots.xy_um) for section in sections]),
        radius_um=float(np.median(np.concatenate([section.spots.radius_um for section in sections]))),
        library_size=2.0 ** _median([section.log2_size for section in sections]),
        expression=np.mean([_shares(section.counts) for section in sections if section.counts.sum() > 0], axis=0),
        spots=np.unique(np.concatenate([spot_hashes(section.counts, section.genes) for section in sections])),
    )


def _median(values: Sequence[float]) -> float:
    """Return the median over the sections that have a value: one spot has no pitch, and no count no library size."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return float(np.median(known)) if len(known) else float("nan")


def _shares(counts: Any) -> np.ndarray:
    """Return the part that each gene of the panel has in all counts of a section, ``(G,)``."""
    total = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    return total / total.sum()


def _distribution(training: Sequence[Bound]) -> EmbeddingDistribution | None:
    if training[0].section.features is None:
        return None
    return EmbeddingDistribution.fit(np.concatenate([b.section.features.at(b.section.spots) for b in training]))
