"""Several methods on the same sections, genes and embedding, in one table."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._check import listing, positive
from hisdiff._docs import documented
from hisdiff._log import logger
from hisdiff._runtime import Runtime
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._locate import resolve_table
from hisdiff._sdata._read import as_list, open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._stand_in import stand_in
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._resample import random_spots
from hisdiff._training._config import config_from
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._model import shares_spots, spot_hashes
from hisdiff.pp._embed import embed, ensure_embedding
from hisdiff.pp._genes import select_genes
from hisdiff.tl._contest import Task, merged, unseen
from hisdiff.tl._fit import fit
from hisdiff.tl._options import N_DRAWS
from hisdiff.tl._predict import predict
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata import SpatialData

    from hisdiff._sdata._read import Bound
    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model

RANDOM_SPOTS, PSEUDO_SPOT = "random spots", "pseudo-spot"
"""Rows of the table that no method made."""
_STEM = "compared"  # of results that are never written
_PRESETS = {"ridge": "baseline"}  # of methods that are not compared with their default


@documented
def compare(
    train: SpatialData | Sequence[SpatialData],
    test: SpatialData | Sequence[SpatialData],
    methods: Sequence[str] | Mapping[str, str | tuple[str, Any]] | None = None,
    *,
    coarsen: int | None = None,
    n_seeds: int = 3,
    n_draws: int = N_DRAWS,
    encoder: str | Encoder | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    layer: str | None = None,
    mpp: float | None = None,
    rng: int | np.random.Generator = 0,
    device: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Compare methods on measured sections that are withheld from them.

    There are two tasks. **Spots of an unseen section**: methods are fitted on ``train`` and predict the spots of ``test``
    from its image. **Super-resolution of a known section** (``coarsen=2``): in all sections 2 x 2 spots are merged into one
    pseudo-spot with their summed counts and their joint footprint. Methods are fitted on the pseudo-spots, including those of
    ``test``, and predict its original spots. ``tesla`` and ``stage`` interpolate a section from its own counts: they take part
    in the second task only, and are fitted on each section of ``test`` separately.

    All methods get the same genes (``var["hisdiff_selected"]``, or a selection on the training sections) and, if
    they use one, the same embedding. The objects are not changed.

    Parameters
    ----------
    train
        Sections with an image and raw counts: one SpatialData or a sequence of them; it may be empty with ``coarsen``.
    test
        Sections to predict, with measured counts.
    methods
        Names, or a mapping of labels to names or to ``(name, config)``. None for all methods that support the task, with the
        preset ``"baseline"`` of ``ridge``.
    coarsen
        Spots to merge along a side, or None for the spots of an unseen section.
    n_seeds
        Number of fits of each method, with consecutive seeds from ``rng`` on.
    n_draws
        Number of draws of each prediction.
    encoder
        Encoder for sections that are not embedded yet, and with ``coarsen``; None for the encoder of the sections, else
        ``"texture"``.
    %(place)s
    %(counts_layer)s
    %(mpp)s
    %(rng)s
        It is the first of the seeds.
    %(device)s
    %(progress)s

    Returns
    -------
    A frame with one row per method, section and seed. ``method``, ``section``, ``seed``, ``n_spots`` (that were
    judged), ``n_genes``; of the mean, on log2(1 + count): ``pcc_10 pcc_50 pcc_all`` (the first two choose
    their genes by the figure itself), ``mse``, ``mae``, and with ``coarsen`` ``pcc_within``, the part of the
    correlation that lies inside pseudo-spots; of a single draw, or of the one value where a method gives no draws
    (``has_draws``): ``draw_pcc_all``, ``rvd``, ``coexpression_r``, ``coexpression_mae``, ``moran_mae``; all of these also
    with ``_norm``, after scaling every spot to the same total count. ``energy_score`` of the draws, a proper score, lower
    is better; ``coverage_90`` of the interval, at spots of an unseen section. With ``coarsen`` predictions are expected
    counts, of every method, so the noise of counting (Poisson) is put on draws and single values first.
    ``fit_s`` and ``predict_s``, without the embedding; ``peak_gb``, the most memory that the process held meanwhile.
    Two controls need no image: ``"random spots"`` (spots of the training sections drawn at random), or, with
    ``coarsen``, ``"pseudo-spot"`` (each spot gets its part of the pseudo-spot's count). ``attrs`` hold ``coarsen``,
    ``train``, ``test``, ``n_genes`` and ``embed_s``, what the embedding took.

    Raises
    ------
    ValueError
        Before any work, if a section of ``test`` is in the training, a method cannot do the job, or spots have no
        place on an array to merge by.

    Examples
    --------
    >>> import hisdiff as hd
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=500)
    >>> table = hd.tl.compare(train, test, ["ridge"], n_seeds=1)
    >>> list(table["method"])
    ['ridge', 'random spots']
    >>> table = hd.tl.compare([], test, {"nearness and colour": "tesla"}, coarsen=2, n_seeds=1)
    >>> list(table["method"])
    ['nearness and colour', 'pseudo-spot']
    """
    source = Selection(table_key, image_key, shapes_key, layer, mpp)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    positive(n_draws, "n_draws", integer=True)
    seeds = runtime.seed + np.arange(positive(n_seeds, "n_seeds", integer=True))
    entries = _entries(methods, own_counts=coarsen is not None)
    nothing = coarsen is not None and isinstance(train, (list, tuple)) and not train
    learned_from = [] if nothing else as_list(train)
    judged_on = as_list(test)
    if any(a is b for a in learned_from for b in judged_on):
        raise ValueError("A test section is among the training sections: figures there say nothing about new tissue.")
    needs = {"counts"} | ({"image"} & frozenset().union(*(entry.needs for entry in entries)))
    opened = open_sections([*learned_from, *judged_on], source, needs=needs)

    training, testing = [stand_in(sdata) for sdata in learned_from], [stand_in(sdata) for sdata in judged_on]
    panel = _panel(training if coarsen is None else [*training, *testing], source)
    known = [task for sdata in training for task in unseen(sdata, panel, source)]
    tasks = [task for sdata in testing for task in unseen(sdata, panel, source)]
    _refuse_known(known, tasks)
    given, embedded = training, [*training, *testing]
    if coarsen is not None:
        panel = _select(embedded, panel, table_key)
        pairs = [merged(sdata, coarsen, panel, source) for sdata in embedded]
        given = embedded = [coarse.sdata for coarse, _ in pairs]
        tasks = [task for _, found in pairs[len(training) :] for task in found]
        source = replace(source, layer=None)
    learned = [task.counts for sdata in given for task in unseen(sdata, panel, source)]
    modules = GeneModules.of_counts(learned)
    tasks = [replace(task, modules=modules.take(rows_of(task.genes, panel))) for task in tasks]
    with Watch() as embedding:
        if any("features" in entry.needs for entry in entries):
            _embed(embedded, encoder, opened, source, runtime)

    rows = [
        row for entry in entries for seed in seeds for row in _run(entry, given, tasks, seed, n_draws, source, runtime)
    ]
    rows += [_control(task, known, n_draws, seed) for seed in seeds for task in tasks]
    result = pd.DataFrame(rows)
    result.attrs = {
        "coarsen": coarsen,
        "train": [task.name for task in known],
        "test": [task.name for task in tasks],
        "n_genes": len(panel),
        "embed_s": round(embedding.seconds, 1),
    }
    return result


@dataclass(frozen=True)
class _Entry:
    """A method that takes part."""

    label: str
    name: str
    config: Any

    @property
    def needs(self) -> frozenset[str]:
        return method_named(self.name).needs | method_named(self.name).needs_to_predict

    @property
    def own_counts(self) -> bool:
        """Whether the method refines the counts of the section itself, and learns nothing for others."""
        return "counts" in method_named(self.name).needs_to_predict


def _entries(methods: Any, *, own_counts: bool) -> list[_Entry]:
    """Check methods and their settings; with ``own_counts`` those take part that refine a section's own counts."""
    if methods is None:
        able = [_Entry(name, name, _PRESETS.get(name, "fast")) for name in method_names()]
        methods = {e.label: (e.name, e.config) for e in able if own_counts or not e.own_counts}
    if isinstance(methods, str):
        methods = [methods]
    if not hasattr(methods, "items"):
        if len(set(methods)) < len(methods):
            raise ValueError(f"A method is named twice in {listing(methods)}; give a mapping of labels to methods.")
        methods = {name: name for name in methods}
    if not methods:
        raise ValueError("There is no method to compare: methods is empty.")
    entries = []
    for label, value in methods.items():
        name, config = (value, "fast") if isinstance(value, str) else value
        entry = _Entry(str(label), name, config_from(method_named(name).config_type, config))
        if label in (RANDOM_SPOTS, PSEUDO_SPOT):
            raise ValueError(f"The label {label!r} is that of a control; choose another.")
        if entry.own_counts and not own_counts:
            raise ValueError(
                f"Method {name!r} refines the counts of a section, so it cannot predict one that it has not seen; "
                f"coarsen=2 compares methods on a known section."
            )
        entries.append(entry)
    return entries


def _panel(items: Sequence[SpatialData], source: Selection) -> list[str]:
    """Return the selected genes; where none are selected, choose them on these (copies of) objects."""
    tables = [sdata.tables[resolve_table(sdata, source.table_key)] for sdata in items]
    chosen = [table for table in tables if _keys.SELECTED in table.var]
    if not chosen:
        select_genes(items, table_key=source.table_key, layer=source.layer)
        chosen = tables
    return list(gene_names(chosen[0])[chosen[0].var[_keys.SELECTED].to_numpy(dtype=bool)])


def _select(items: Sequence[SpatialData], panel: Sequence[str], table_key: str | None) -> list[str]:
    """Select the genes of a panel that all (copies of) objects have, so that every method gets the same; return them."""
    named = [gene_names(sdata.tables[resolve_table(sdata, table_key)], like=panel) for sdata in items]
    shared = [gene for gene in panel if all(gene in names for names in map(set, named))]
    for sdata, names in zip(items, named):
        sdata.tables[resolve_table(sdata, table_key)].var[_keys.SELECTED] = np.isin(names, shared)
    return shared


def _refuse_known(known: Sequence[Task], tasks: Sequence[Task]) -> None:
    """Raise where spots of a test section are among those of a training section, whole or cropped."""
    for other in known:
        spots = spot_hashes(other.counts, other.genes)
        for task in tasks:
            if shares_spots(spots, task.counts, task.genes):
                raise ValueError(
                    f"Test section {task.name!r} is in the training: it shares spots with {other.name!r}, and figures "
                    f"there say nothing about new tissue."
                )


def _embed(
    items: Sequence[SpatialData],
    encoder: str | Encoder | None,
    originals: Sequence[Bound],
    source: Selection,
    runtime: Runtime,
) -> None:
    if encoder is not None:
        where = {name: value for name, value in asdict(source).items() if name != "layer"}
        embed(items, encoder, **where, device=runtime.device, progress=runtime.progress)
        return
    specs = [bound.section.features.spec for bound in originals if bound.section.features is not None]
    ensure_embedding(open_sections(items, source), specs[0] if specs else None, runtime)


def _run(
    entry: _Entry,
    given: Sequence[SpatialData],
    tasks: Sequence[Task],
    seed: int,
    n_draws: int,
    source: Selection,
    runtime: Runtime,
) -> list[dict[str, Any]]:
    """Fit a method and predict every task: together, or each section on its own counts."""
    run = {"device": runtime.device, "progress": runtime.progress}

    def fitted(items: Sequence[SpatialData], **region: str) -> tuple[Model, Watch]:
        options: dict[str, Any] = {**asdict(source), **region, **run}
        with tempfile.TemporaryDirectory() as folder, Watch() as watch:
            model = fit(items, method=entry.name, config=entry.config, save=f"{folder}/model", rng=seed, **options)
        return model, watch

    together = None if entry.own_counts else fitted(given)
    options: dict[str, Any] = {"n_draws": n_draws, "keep_draws": n_draws, "rng": seed, **run}
    rows = []
    for task in tasks:
        model, fitting = together or fitted([task.sdata], shapes_key=task.where["shapes_key"])
        with Watch() as predicting:
            told = predict(task.sdata, model, **task.where, **options, units=task.units, key_added=_STEM, inplace=False)
        # Intervals are those of spots: finer predictions are expected counts, without the noise of counting.
        knows = None if task.parent is not None else model.calibration
        factor = None if knows is None else knows.interval_factor
        figures = task.scores(told, n_draws=n_draws, seed=seed, interval_factor=factor)
        time = {"fit_s": fitting.seconds, "predict_s": predicting.seconds}
        peak = max(fitting.peak_gb, predicting.peak_gb)
        rows.append({"method": entry.label, "section": task.name, "seed": seed, **figures, **time, "peak_gb": peak})
        logger.info("%s, %s, seed %d: PCC %.3f", entry.label, task.name, seed, figures["pcc_all"])
    return rows


def _control(task: Task, known: Sequence[Task], n_draws: int, seed: int) -> dict[str, Any]:
    """Return the figures of what needs no image."""
    if task.shared is not None:
        label, mean, draws = PSEUDO_SPOT, task.shared, None
    else:
        spots = np.concatenate([other.measured[:, rows_of(task.genes, other.genes)] for other in known])
        draws = random_spots(spots, len(task.rows), n_draws, seed)
        label, mean, draws = RANDOM_SPOTS, draws.mean(axis=0), draws if n_draws > 1 else None
    figures = task.judged(mean, draws, n_draws=n_draws, seed=seed)
    return {"method": label, "section": task.name, "seed": seed, **figures}
