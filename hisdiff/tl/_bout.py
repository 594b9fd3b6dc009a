"""One bout of a comparison: methods are given the same sections and predict the same spots."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._locate import resolve_table
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._stand_in import without_counts
from hisdiff._section import library_size_of, needed
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._resample import random_spots
from hisdiff._training._config import config_from
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._cohort import shares_spots
from hisdiff.pp._embed import embed, ensure_embedding
from hisdiff.pp._genes import select_genes
from hisdiff.tl._contest import Task, merged, unseen
from hisdiff.tl._fit import fit
from hisdiff.tl._predict import predict
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spatialdata import SpatialData

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import FeatureSpec
    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model

RANDOM_SPOTS, PSEUDO_SPOT = "random spots", "pseudo-spot"
"""Rows of the table that no method made."""
LibrarySize = Literal["section", "cohort"]
Rows = list[dict[str, Any]]
_STEM = "compared"  # of results that are never written
_PRESETS = {"ridge": "baseline"}  # of methods that are not compared with their default


@dataclass(frozen=True)
class Entry:
    """A method that takes part."""

    label: str
    name: str
    config: Any

    @property
    def needs(self) -> frozenset[str]:
        """What a section must have, to be fitted or predicted."""
        return method_named(self.name).needs | method_named(self.name).needs_to_predict

    @property
    def own_counts(self) -> bool:
        """Whether the method refines the counts of the section itself, and learns nothing for others."""
        return "counts" in method_named(self.name).needs_to_predict


def entries_of(methods: Any, *, own_counts: bool) -> list[Entry]:
    """Check methods and their settings; with ``own_counts`` those take part that refine a section's own counts."""
    if methods is None:
        able = [Entry(name, name, _PRESETS.get(name, "fast")) for name in method_names()]
        methods = {e.label: (e.name, e.config) for e in able if own_counts or not e.own_counts}
    if isinstance(methods, str):
        methods = [methods]
    if not hasattr(methods, "items"):
        if len(set(methods)) < len(methods):
            raise ValueError(f"A method is named twice in {listing(methods)}; give a mapping of labels to methods.")
        methods = {name: name for name in methods}
    if not methods:
        raise ValueError("There is no method to compare: methods is empty.")
    return [_entry(str(label), value, own_counts) for label, value in methods.items()]


def _entry(label: str, value: Any, own_counts: bool) -> Entry:
    name, config = (value, "fast") if isinstance(value, str) else value
    entry = Entry(label, name, config_from(method_named(name).config_type, config))
    if label in (RANDOM_SPOTS, PSEUDO_SPOT):
        raise ValueError(f"The label {label!r} is that of a control; choose another.")
    if entry.own_counts and not own_counts:
        raise ValueError(
            f"Method {name!r} refines the counts of a section, so it cannot predict one that it has not seen; "
            f"hd.tl.compare with coarsen=2 compares methods on a known section."
        )
    return entry


@dataclass(frozen=True)
class Terms:
    """How methods are run.

    Attributes
    ----------
    seeds
        One fit of each method for each.
    n_draws
        Of each prediction.
    library_size
        What sections that were not seen are predicted at: their own, or the cohort's, which looks at none of their
        counts.
    runtime
        Where to compute.
    """

    seeds: Sequence[int]
    n_draws: int
    library_size: LibrarySize
    runtime: Runtime

    @property
    def run(self) -> dict[str, Any]:
        """Keyword arguments of fit and predict."""
        return {"device": self.runtime.device, "progress": self.runtime.progress}


@dataclass(frozen=True)
class Bout:
    """What methods are given, and the spots that they are to predict.

    Attributes
    ----------
    given
        Objects that methods are fitted on.
    tasks
        Spots to predict; counts of sections that were not seen are kept from the methods.
    known
        Spots of the training sections.
    panel
        Genes that all methods model.
    source
        How the objects are read.
    """

    given: list[SpatialData]
    tasks: list[Task]
    known: list[Task]
    panel: list[str]
    source: Selection

    @classmethod
    def of_unseen(cls, training: Sequence[SpatialData], testing: Sequence[SpatialData], source: Selection) -> Bout:
        """Make a bout on the spots of sections that are not seen, from stand-ins of the objects."""
        panel = _panel(training, source)
        known = [task for sdata in training for task in unseen(sdata, panel, source)]
        tasks = [task for sdata in testing for task in unseen(sdata, panel, source)]
        refuse_known(known, tasks)
        return cls(list(training), tasks, known, panel, source)._with_modules()

    @classmethod
    def of_merged(
        cls, training: Sequence[SpatialData], testing: Sequence[SpatialData], n: int, source: Selection
    ) -> Bout:
        """Make a bout on the spots inside of n x n merged ones, from stand-ins of the objects."""
        both = [*training, *testing]
        panel = _panel(both, source)
        known = [task for sdata in training for task in unseen(sdata, panel, source)]
        refuse_known(known, [task for sdata in testing for task in unseen(sdata, panel, source)])
        panel = _select(both, panel, source.table_key)
        pairs = [merged(sdata, n, panel, source) for sdata in both]
        tasks = [task for _, found in pairs[len(training) :] for task in found]
        return cls(
            [coarse.sdata for coarse, _ in pairs], tasks, known, panel, replace(source, layer=None)
        )._with_modules()

    def _with_modules(self) -> Bout:
        counts = [task.counts for sdata in self.given for task in unseen(sdata, self.panel, self.source)]
        modules = GeneModules.of_counts(counts)
        tasks = [replace(task, modules=modules.take(rows_of(task.genes, self.panel))) for task in self.tasks]
        return replace(self, tasks=tasks)

    def rows(
        self,
        entries: Sequence[Entry],
        terms: Terms,
        keep: Callable[[Entry, int, Callable[[], Rows]], Rows] | None = None,
    ) -> Rows:
        """Run all methods with all seeds and return one row for each and each task, then those of the control.

        ``keep(entry, seed, run)`` may answer with rows that it has kept instead of running.
        """
        rows = []
        for entry in entries:
            for seed in terms.seeds:
                run = lambda entry=entry, seed=seed: self._run(entry, seed, terms)  # noqa: E731
                rows += run() if keep is None else keep(entry, seed, run)
        return rows + [_control(task, self.known, terms.n_draws, seed) for seed in terms.seeds for task in self.tasks]

    def _run(self, entry: Entry, seed: int, terms: Terms) -> Rows:
        """Fit a method and predict every task: together, or each section on its own counts."""

        def fitted(items: Sequence[SpatialData], **region: str) -> tuple[Model, Watch]:
            options: dict[str, Any] = {**asdict(self.source), **region, **terms.run}
            with tempfile.TemporaryDirectory() as folder, Watch() as watch:
                model = fit(items, method=entry.name, config=entry.config, save=f"{folder}/model", rng=seed, **options)
            return model, watch

        together = None if entry.own_counts else fitted(self.given)
        rows = []
        for task in self.tasks:
            model, fitting = together or fitted([task.sdata], shapes_key=task.where["shapes_key"])
            with Watch() as predicting:
                told = _predicted(task, model, seed, terms)
            # Intervals are those of spots: finer predictions are expected counts, without the noise of counting.
            knows = None if task.parent is not None else model.calibration
            factor = None if knows is None else knows.interval_factor
            metrics = task.scores(told, n_draws=terms.n_draws, seed=seed, interval_factor=factor)
            time = {"fit_s": fitting.seconds, "predict_s": predicting.seconds}
            peak = max(fitting.peak_gb, predicting.peak_gb)
            rows.append({"method": entry.label, "section": task.name, "seed": seed, **metrics, **time, "peak_gb": peak})
            logger.info("%s, %s, seed %d: PCC %.3f", entry.label, task.name, seed, metrics["pcc_all"])
        return rows


def refuse_known(known: Sequence[Task], tasks: Sequence[Task]) -> None:
    """Raise where spots of a test section are among those of a training section, whole or cropped."""
    for other in known:
        for task in tasks:
            if shares_spots(other.hashes, task.counts, task.genes):
                raise ValueError(
                    f"Test section {task.name!r} is in the training: it shares spots with {other.name!r}, and metrics "
                    f"there say nothing about new tissue."
                )


def embed_all(
    items: Sequence[SpatialData],
    encoder: str | Encoder | None,
    known: FeatureSpec | None,
    source: Selection,
    runtime: Runtime,
) -> None:
    """Embed stand-ins: with ``encoder``, or where it is None those that lack an embedding, like the ``known`` one."""
    if encoder is not None:
        where = {name: value for name, value in asdict(source).items() if name != "layer"}
        embed(list(items), encoder, **where, device=runtime.device, progress=runtime.progress)
        return
    ensure_embedding(open_sections(items, source), known, runtime)


def _panel(items: Sequence[SpatialData], source: Selection) -> list[str]:
    """Return the selected genes; where none are selected, choose them on these (copies of) objects."""
    tables = [sdata.tables[resolve_table(sdata, source.table_key)] for sdata in items]
    chosen = [table for table in tables if _keys.SELECTED in table.var]
    if not chosen:
        select_genes(list(items), table_key=source.table_key, layer=source.layer)
        chosen = tables
    return list(gene_names(chosen[0])[chosen[0].var[_keys.SELECTED].to_numpy(dtype=bool)])


def _select(items: Sequence[SpatialData], panel: Sequence[str], table_key: str | None) -> list[str]:
    """Select the genes of a panel that all (copies of) objects have, so that every method gets the same; return them."""
    named = [gene_names(sdata.tables[resolve_table(sdata, table_key)], like=panel) for sdata in items]
    shared = [gene for gene in panel if all(gene in names for names in map(set, named))]
    for sdata, names in zip(items, named):
        sdata.tables[resolve_table(sdata, table_key)].var[_keys.SELECTED] = np.isin(names, shared)
    return shared


def _predicted(task: Task, model: Model, seed: int, terms: Terms) -> Any:
    """Predict a task; a section that was not seen goes without its counts."""
    options = {"n_draws": terms.n_draws, "keep_draws": terms.n_draws, "units": task.units, "rng": seed, **terms.run}
    sdata = task.sdata
    if task.parent is None:
        sdata = without_counts(sdata, needed(resolve_table(sdata, task.where["table_key"])))
        options["library_size"] = model.cohort.library_size
        own = library_size_of(task.counts)
        if terms.library_size == "section" and own is not None:
            options["library_size"] = own * model.cohort.missing_factor(np.isin(model.genes, task.genes))
    return predict(sdata, model, **task.where, **options, key_added=_STEM, inplace=False)


def _control(task: Task, known: Sequence[Task], n_draws: int, seed: int) -> dict[str, Any]:
    """Return the metrics of what needs no image."""
    if task.shared is not None:
        label, mean, draws = PSEUDO_SPOT, task.shared, None
    else:
        spots = np.concatenate([other.measured[:, rows_of(task.genes, other.genes)] for other in known])
        draws = random_spots(spots, len(task.rows), n_draws, seed)
        label, mean, draws = RANDOM_SPOTS, draws.mean(axis=0), draws if n_draws > 1 else None
    metrics = task.judged(mean, draws, n_draws=n_draws, seed=seed)
    return {"method": label, "section": task.name, "seed": seed, **metrics}
