"""Accuracy on tissue that a model has not seen: sections or patients are left out in turn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff import _keys
from hisdiff._arguments import checked
from hisdiff._check import one_of, positive
from hisdiff._docs import documented
from hisdiff._runtime import Runtime
from hisdiff._sdata._genes import shared_genes
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._split import group_of
from hisdiff._sdata._stand_in import beside
from hisdiff.pp._genes import chosen_on
from hisdiff.tl._bout import Bout, Terms, embedded, entries_of, refuse_known
from hisdiff.tl._contest import unseen
from hisdiff.tl._folds import Folds, Ledger
from hisdiff.tl._options import N_DRAWS
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._sdata._read import Bound
    from hisdiff.encoders import Encoder
    from hisdiff.tl._bout import LibrarySize
    from hisdiff.tl._contest import Task

SECTION = "section"


@documented
@checked
def cross_validate(
    data: SpatialData | Sequence[SpatialData],
    methods: Sequence[str] | Mapping[str, str | tuple[str, Any]] = ("hisdiff", "ridge"),
    *,
    by: str = SECTION,
    patient_key: str | None = None,
    genes: Sequence[str] | None = None,
    n_seeds: int = 1,
    n_draws: int = N_DRAWS,
    library_size: LibrarySize = "cohort",
    save: str | Path | None = None,
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
    """Measure methods on sections, or patients, that are left out in turn.

    In every fold genes are selected and methods fitted on the remaining sections, and the spots of the section that is left
    out are predicted from its image. Its counts are removed from the object before the
    prediction. The objects are not changed. For new patients, use the accuracy on left-out patients.

    Parameters
    ----------
    data
        Sections with an image and raw counts: one SpatialData with several regions, or a sequence of them.
    methods
        Names, or a mapping of labels to names or to ``(name, config)``, as in :func:`hisdiff.tl.compare`.
    by
        ``"section"``, or a column of ``obs`` with one value for each section, such as ``"patient"``: sections with the
        same value are left out together.
    patient_key
        Column of ``obs`` that names the patient of each section, for the fits (:func:`hisdiff.tl.fit`); None for ``by``, where
        that is a column. In folds that leave one patient it is not used.
    genes
        Genes to model; None to select them in every fold on the remaining sections
        (:func:`hisdiff.pp.select_genes`). A selection that was made on all sections is not used.
    n_seeds
        Number of fits of each method in a fold, with consecutive seeds from ``rng`` on.
    n_draws
        Number of draws of each prediction.
    library_size
        Library size of the predictions: ``"cohort"``, the median of the remaining sections, or
        ``"section"``, that of the left-out section, which is one number from its measurement.
    save
        Folder for intermediate results, from which the same call resumes.
    encoder
        Encoder for sections that are not embedded yet; None for the encoder of the others, else ``"texture"``. To keep the
        embedding, run :func:`hisdiff.pp.embed` first.
    %(place)s
    %(counts_layer)s
    %(mpp)s
    %(rng)s
        It is the first of the seeds.
    %(device)s
    %(progress)s

    Returns
    -------
    The table of :func:`hisdiff.tl.compare`, one row per method, fold and seed, and for the control ``"random spots"``;
    :func:`hisdiff.pl.comparison` shows it. ``fold`` is what was left out, ``section`` the sections in it; metrics of
    several sections are averaged. ``attrs`` hold ``by``, ``folds`` (the sections of each), ``library_size`` and
    ``embed_s``.

    Raises
    ------
    KeyError
        If a section lacks the column ``by``.
    ValueError
        Before any work, if there are not two groups to leave out, a column differs inside a section, two sections of
        different groups share spots, or a method cannot predict a section that it has not seen.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sections = hd.datasets.toy(n_sections=3, size_um=500)
    >>> table = hd.tl.cross_validate(sections, ["ridge"])
    >>> table.groupby("method")["fold"].count().to_dict()
    {'random spots': 3, 'ridge': 3}
    """
    selection = Selection(table_key, image_key, shapes_key, layer, mpp)
    runtime = Runtime.of(device=device, progress=progress, rng=rng)
    one_of(library_size, ("cohort", "section"), "library_size")
    seeds = [runtime.seed + i for i in range(positive(n_seeds, "n_seeds", integer=True))]
    terms = Terms(seeds, positive(n_draws, "n_draws", integer=True), library_size, runtime)
    entries = entries_of(methods, own_counts=False)
    needs = frozenset({"counts"}).union(*(entry.needs & {"image"} for entry in entries))
    ledger = None if save is None else Ledger(save)
    cohort = Cohort.of(beside(open_sections(data, selection, needs=needs)), by, patient_key, genes)

    with Watch() as embedding:
        if any("features" in entry.needs for entry in entries):
            cohort = cohort.embedded(encoder, runtime)
    result = pd.DataFrame(Folds(cohort, entries, terms, by).rows(ledger))
    result.attrs = {
        "by": by,
        "folds": {
            fold: [section.name for section in cohort.sections if section.group == fold] for fold in cohort.folds
        },
        "library_size": library_size,
        "embed_s": round(embedding.seconds, 1),
    }
    return result


@dataclass(frozen=True)
class _Section:
    """A section, and what it is left out with."""

    name: str
    group: str
    patient: str | None
    bound: Bound
    task: Task

    @cached_property
    def digest(self) -> str:
        """Identity of all that a fit or a prediction looks at."""
        table = self.bound.table
        digest = hashlib.sha256(self.task.hashes.tobytes() + self.task.xy.tobytes())
        if _keys.EMBEDDING in table.obsm:
            stored = np.asarray(table.obsm[_keys.EMBEDDING])[self.bound.place.rows]
            digest.update(np.ascontiguousarray(stored).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Cohort:
    """Sections that are left out in turn."""

    sections: list[_Section]
    genes: Sequence[str] | None

    @classmethod
    def of(cls, bounds: Sequence[Bound], by: str, patient_key: str | None, genes: Sequence[str] | None) -> Cohort:
        """Check that leaving sections out in turn makes sense; genes that were selected on all of them are forgotten."""
        names = _distinct([bound.place.name for bound in bounds])

        def column(key: str) -> list[str]:
            return [group_of(bound.table[bound.place.rows], key, name) for bound, name in zip(bounds, names)]

        groups = names if by == SECTION else column(by)
        patient_key = by if patient_key is None and by != SECTION else patient_key
        patients = [None] * len(names) if patient_key is None else column(patient_key)
        if len(set(groups)) < 2:
            raise ValueError(_too_few(by, groups))
        for bound in bounds:
            bound.table.var = bound.table.var.drop(columns=_keys.SELECTED, errors="ignore")
        if genes is not None:
            genes = chosen_on([[bound] for bound in bounds], genes)
        common = sorted(set.intersection(*(set(own) for own in shared_genes([bound.table for bound in bounds]))))
        if not common:
            raise ValueError(f"The {len(bounds)} sections share no gene.")
        sections = [_Section(*of, unseen(of[3], common)) for of in zip(names, groups, patients, bounds)]
        for fold in dict.fromkeys(groups):
            refuse_known(*([s.task for s in sections if (s.group == fold) == out] for out in (False, True)))
        return cls(sections, genes)

    def embedded(self, encoder: str | Encoder | None, runtime: Runtime) -> Cohort:
        """Return the cohort with embedded sections."""
        bounds = embedded([section.bound for section in self.sections], encoder, None, runtime)
        return replace(self, sections=[replace(s, bound=bound) for s, bound in zip(self.sections, bounds)])

    @property
    def folds(self) -> list[str]:
        """What is left out in turn."""
        return list(dict.fromkeys(section.group for section in self.sections))

    def bout(self, fold: str) -> Bout:
        """Return the bout in which a fold is left out."""
        stay, out = ([s.bound for s in self.sections if (s.group == fold) == left] for left in (False, True))
        stay = [b.with_section(replace(b.section, patient=name)) for b, name in zip(stay, self._patients(fold))]
        return Bout.of_unseen(stay, out, chosen_on([[bound] for bound in stay], self.genes))

    def _patients(self, fold: str) -> list[str | None]:
        """Return the patients of the sections that stay in a fold; None where they are of one, whom nobody is left out for."""
        patients = [section.patient for section in self.sections if section.group != fold]
        return patients if len(set(patients)) > 1 else [None] * len(patients)

    def digest(self, fold: str) -> list[list[str | None]]:
        """Return the patients and the identities of the sections that stay in a fold, and the identities of those left out."""
        return [self._patients(fold)] + [
            [s.digest for s in self.sections if (s.group == fold) == left] for left in (False, True)
        ]


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once: objects of their own may call their sections alike."""
    repeated = {name for name in names if list(names).count(name) > 1}
    return [f"{name} ({list(names[:i]).count(name) + 1})" if name in repeated else name for i, name in enumerate(names)]


def _too_few(by: str, groups: Sequence[str]) -> str:
    if by == SECTION:
        return (
            f"There is one section, {groups[0]!r}; to leave sections out in turn, two are needed. What a model knows of itself from "
            f"left-out blocks of one section is in var['hisdiff_cv_pcc'] after hd.tl.fit and hd.tl.predict."
        )
    return (
        f"All {len(groups)} sections have {groups[0]!r} in obs[{by!r}]; to leave groups out in turn, two values are needed. "
        f"by='section' leaves sections out, which says nothing about another {by}."
    )
