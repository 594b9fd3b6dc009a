"""Sections in groups that a cross-validation leaves out in turn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hisdiff import _keys
from hisdiff._sdata._genes import shared_genes
from hisdiff._sdata._split import group_of
from hisdiff.pp._genes import chosen_on
from hisdiff.tl._comparison import Comparison, embedded, refuse_known
from hisdiff.tl._tasks import unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff.encoders import Encoder
    from hisdiff.tl._tasks import Task

SECTION = "section"


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
        digest = hashlib.sha256(self.task.hashes.tobytes() + self.task.spots.xy_um.tobytes())
        if _keys.EMBEDDING in table.obsm:
            stored = np.asarray(table.obsm[_keys.EMBEDDING])[self.bound.place.rows]
            digest.update(np.ascontiguousarray(stored).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class GroupedSections:
    """Sections that are left out in turn."""

    sections: list[_Section]
    genes: Sequence[str] | None

    @classmethod
    def of(
        cls, bounds: Sequence[Bound], by: str, patient_key: str | None, genes: Sequence[str] | None
    ) -> GroupedSections:
        """Check that leaving sections out in turn makes sense; genes that were selected on all of them are forgotten."""
        names = _distinct([bound.place.name for bound in bounds])

        def column(key: str, remedy: str) -> list[str]:
            return [group_of(bound.table[bound.place.rows], key, name, remedy) for bound, name in zip(bounds, names)]

        groups = names if by == SECTION else column(by, f"use by={SECTION!r}")
        patient_key = by if patient_key is None and by != SECTION else patient_key
        patients = [None] * len(names) if patient_key is None else column(patient_key, "leave patient_key out")
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

    def embedded(self, encoder: str | Encoder | None, runtime: Runtime) -> GroupedSections:
        """Return the same with embedded sections."""
        bounds = embedded([section.bound for section in self.sections], encoder, None, runtime)
        return replace(self, sections=[replace(s, bound=bound) for s, bound in zip(self.sections, bounds)])

    @property
    def folds(self) -> dict[str, list[str]]:
        """What is left out in turn, and the names of the sections in it."""
        groups: dict[str, list[str]] = {}
        for section in self.sections:
            groups.setdefault(section.group, []).append(section.name)
        return groups

    def comparison(self, fold: str) -> Comparison:
        """Return the comparison in which a fold is left out."""
        stay, out = ([s.bound for s in self.sections if (s.group == fold) == left] for left in (False, True))
        stay = [b.with_section(replace(b.section, patient=name)) for b, name in zip(stay, self._patients(fold))]
        return Comparison.of_unseen(stay, out, chosen_on([[bound] for bound in stay], self.genes))

    def _patients(self, fold: str) -> list[str | None]:
        """Return the patients of the sections that stay in a fold; None where all are of one patient."""
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
