"""A comparison: methods are given the same sections and predict the same spots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._log import logger
from hisdiff._sdata._bound import by_object
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._out_of_date import check_embeddings
from hisdiff._section import Prediction, library_size_of, needed
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._stats._resample import random_spots
from hisdiff._training._config import config_from
from hisdiff._workers import spread
from hisdiff.methods._registry import get as method_named
from hisdiff.methods._registry import names as method_names
from hisdiff.models._cohort import shares_spots
from hisdiff.pp._embed import embed_on, ensure_embedding
from hisdiff.pp._genes import chosen_on
from hisdiff.tl._fit_job import FitJob, check_memory
from hisdiff.tl._options import PredictOptions
from hisdiff.tl._predict_fine import predict_inside
from hisdiff.tl._tasks import Task, counts_of, merged, unseen
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import FeatureSpec, Section
    from hisdiff.encoders import Encoder
    from hisdiff.models._model import Model

RANDOM_SPOTS, PSEUDO_SPOT = "random spots", "pseudo-spot"
"""Rows of the table that no method made."""
LibrarySize = Literal["section", "cohort"]
Rows = list[dict[str, str | float]]
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


@dataclass(frozen=True)
class Comparison:
    """What methods are given, and the spots that they are to predict.

    Attributes
    ----------
    given
        Sections that methods are fitted on, with their counts.
    tasks
        Spots to predict; counts of sections that were not seen are withheld from the methods.
    known
        Spots of the training sections.
    panel
        Genes that all methods model.
    """

    given: list[Bound]
    tasks: list[Task]
    known: list[Task]
    panel: list[str]

    @classmethod
    def of_unseen(cls, training: Sequence[Bound], testing: Sequence[Bound], panel: Sequence[str]) -> Comparison:
        """Compare on the spots of sections that are not seen."""
        panel = _in_order(panel, training[0])
        known, tasks = ([unseen(bound, panel) for bound in bounds] for bounds in (training, testing))
        refuse_known(known, tasks)
        return cls(list(training), tasks, known, panel)._with_modules()

    @classmethod
    def of_merged(cls, training: Sequence[Bound], testing: Sequence[Bound], n: int, source: Selection) -> Comparison:
        """Compare on the spots inside of n x n merged ones."""
        both = [*training, *testing]
        panel = _shared_panel(both)
        known = [unseen(bound, panel) for bound in training]
        refuse_known(known, [unseen(bound, panel) for bound in testing])
        every = [task for group in by_object(both) for task in merged(group, n, panel, source)]
        tasks = every[len(training) :]
        return cls([task.bound for task in every], tasks, known, panel)._with_modules()

    def _with_modules(self) -> Comparison:
        modules = GeneModules.of_counts([counts_of(bound, self.panel)[1] for bound in self.given])
        tasks = [replace(task, modules=modules.take(rows_of(task.genes, self.panel))) for task in self.tasks]
        return replace(self, tasks=tasks)

    def embedded(self, encoder: str | Encoder | None, known: FeatureSpec | None, runtime: Runtime) -> Comparison:
        """Return the comparison with embedded sections; see ``embedded``."""
        before = list({id(bound): bound for bound in (*self.given, *(task.bound for task in self.tasks))}.values())
        after = {id(bound): made for bound, made in zip(before, embedded(before, encoder, known, runtime))}
        tasks = [replace(task, bound=after[id(task.bound)]) for task in self.tasks]
        return replace(self, given=[after[id(bound)] for bound in self.given], tasks=tasks)

    def rows(self, entries: Sequence[Entry], terms: Terms) -> Rows:
        """Run all methods with all seeds and return one row for each and each task, then those of the control."""
        fits = [(entry, seed) for entry in entries for seed in terms.seeds]
        work: Callable[[tuple[Entry, int]], Rows] = partial(self.of_fit, terms)
        done = dict(spread(work, fits, "the comparison"))
        return [row for number in range(len(fits)) for row in done[number]] + self.controls(terms)

    def of_fit(self, terms: Terms, fit: tuple[Entry, int]) -> Rows:
        """Run a method with a seed and return a row for each task."""
        return self.run(*fit, terms)

    def controls(self, terms: Terms) -> Rows:
        """Return a row of what needs no image for each seed and each task."""
        return [_control(task, self.known, terms.n_draws, seed) for seed in terms.seeds for task in self.tasks]

    def run(self, entry: Entry, seed: int, terms: Terms) -> Rows:
        """Fit a method and predict every task: together, or each section on its own counts."""
        runtime = replace(terms.runtime, seed=seed)
        job = FitJob(method_named(entry.name), entry.config, sorted(self.panel), runtime)

        def fitted(bounds: Sequence[Bound]) -> tuple[Model, Watch]:
            if "features" in job.method.needs:
                check_memory(bounds, len(job.panel))
            with Watch() as watch:
                model = job.run(job.prepared(bounds))
            return model, watch

        together = None if entry.own_counts else fitted(self.given)
        rows: Rows = []
        for task in self.tasks:
            model, fitting = together or fitted([task.bound])
            with Watch() as predicting:
                predicted = predicted_by(model, task, terms, runtime)
            # Intervals are those of spots: finer predictions are expected counts, without the noise of counting.
            knows = None if task.is_finer else model.calibration
            factor = None if knows is None else knows.interval_factor
            metrics = task.scores(predicted, n_draws=terms.n_draws, seed=seed, interval_factor=factor)
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


def embedded(
    bounds: Sequence[Bound], encoder: str | Encoder | None, known: FeatureSpec | None, runtime: Runtime
) -> list[Bound]:
    """Embed sections of stand-ins: with ``encoder``, or where it is None those that lack an embedding, like the ``known`` one.

    An embedding that cannot be used is an error before any method is fitted.
    """
    made = ensure_embedding(bounds, known, runtime) if encoder is None else embed_on(bounds, encoder, runtime)
    check_embeddings(made)
    return made


def _in_order(panel: Sequence[str], bound: Bound) -> list[str]:
    """Return the genes of a panel in the order of a section's table."""
    names, chosen = gene_names(bound.table, like=panel), set(panel)
    return [str(name) for name in names if name in chosen]


def _shared_panel(bounds: Sequence[Bound]) -> list[str]:
    """Return the selected genes that all sections have; where none are selected, choose them on these."""
    groups = by_object(bounds)
    tables = [group[0].table for group in groups]
    chosen = next((table for table in tables if _keys.SELECTED in table.var), None)
    panel: Sequence[str] = (
        chosen_on(groups) if chosen is None else gene_names(chosen)[chosen.var[_keys.SELECTED].to_numpy(dtype=bool)]
    )
    common = set(panel).intersection(*(gene_names(table, like=panel) for table in tables))
    return [str(gene) for gene in panel if gene in common]


def predicted_by(model: Model, task: Task, terms: Terms, runtime: Runtime) -> Prediction:
    """Predict the spots of a task."""
    if task.is_finer:
        return _predicted_finer(model, task, terms.n_draws, runtime)
    section, library_size = task.bound.section, model.cohort.library_size
    own = library_size_of(task.counts)
    if terms.library_size == "section" and own is not None:
        library_size = own * model.cohort.missing_factor(np.isin(model.genes, task.genes))
    return model.fitted.predict(
        section,
        needed(section.spots),
        n_draws=terms.n_draws,
        keep_draws=terms.n_draws,
        units=task.units,
        library_size=library_size,
        seed=section.seed(runtime.seed),
        device=runtime.device,
        progress=runtime.progress,
    )


def _predicted_finer(model: Model, task: Task, n_draws: int, runtime: Runtime) -> Prediction:
    """Predict the spots that were merged, as ``hd.tl.predict(at=)`` does."""
    options = PredictOptions.of(
        finer=True,
        n_draws=n_draws,
        n_steps=None,
        keep_draws=n_draws,
        units=task.units,
        library_size=None,
        calibrate=None,
        table=None,
    )
    bound = task.bound.with_section(_on_panel(task.bound, model.genes))
    return predict_inside(bound, task.spots, model, options, runtime)


def _on_panel(bound: Bound, genes: np.ndarray) -> Section:
    return bound.section.renamed(gene_names(bound.table, like=genes)).with_panel(genes)


def _control(task: Task, known: Sequence[Task], n_draws: int, seed: int) -> dict[str, str | float]:
    """Return the metrics of what needs no image."""
    if task.shared is not None:
        label, mean, draws = PSEUDO_SPOT, task.shared, None
    else:
        spots = np.concatenate([other.measured[:, rows_of(task.genes, other.genes)] for other in known])
        draws = random_spots(spots, len(task.spots), n_draws, seed)
        label, mean, draws = RANDOM_SPOTS, draws.mean(axis=0), draws if n_draws > 1 else None
    metrics = task.judged(mean, draws, n_draws=n_draws, seed=seed)
    return {"method": label, "section": task.name, "seed": seed, **metrics}
