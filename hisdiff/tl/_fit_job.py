"""Fit a method on opened sections: brought to one panel, checked, fitted, and described by what they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hisdiff import _keys
from hisdiff._check import listing
from hisdiff._cores import free_memory
from hisdiff._geometry import pitch_of
from hisdiff._log import logger
from hisdiff._sdata._features import embedding_record
from hisdiff._sdata._genes import gene_names, rows_of, shared_genes, symbols_for
from hisdiff._sdata._locate import on_tissue
from hisdiff._sdata._out_of_date import check_embeddings
from hisdiff._sdata._split import group_of
from hisdiff._section import needed
from hisdiff._stats._gene_modules import GeneModules
from hisdiff._training._ood import EmbeddingDistribution
from hisdiff.models._cohort import Cohort, spot_hashes
from hisdiff.models._model import Model
from hisdiff.pp._genes import select_on
from hisdiff.tl._gaps import warn_gaps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hisdiff._runtime import Runtime
    from hisdiff._sdata._bound import Bound
    from hisdiff._section import FeatureSpec, Names, Section
    from hisdiff.methods._protocols import Method

_LEAST_BYTES, _USUAL_BYTES = 12, 50
"""For each spot and gene: counts, targets and residuals in float32; and what fits of thousands of spots and genes took at their peak."""


@dataclass(frozen=True)
class FitJob:
    """A method with its settings, the genes to model, and how the fit runs."""

    method: Method
    config: Any
    panel: Sequence[str]
    runtime: Runtime

    def prepared(self, bounds: Sequence[Bound]) -> list[Bound]:
        """Return sections with their counts of the panel and all that the method needs of them, checked."""
        ready = [_on_panel(bound, self.panel, self.method.needs) for bound in bounds]
        _check_embeddings(ready)
        warn_gaps(ready, None)
        return ready

    def run_id(self, bounds: Sequence[Bound]) -> str:
        """Return the identity of a fit on prepared sections, under which its checkpoints are kept."""
        settings = [self.method.name, self.config.to_dict(), list(self.panel), self.runtime.seed]
        digest = hashlib.sha256(repr(settings).encode())
        for bound in bounds:
            section, spots = bound.section, needed(bound.section.spots)
            digest.update(spot_hashes(needed(section.counts), section.genes).tobytes())
            digest.update(spots.xy_um.tobytes())
            if section.features is not None:
                digest.update(section.features.at(spots).tobytes())
            if section.image is not None:
                digest.update(bound.fingerprint.encode())
            digest.update((section.patient or "").encode())
        return digest.hexdigest()[:12]

    def run(
        self,
        training: Sequence[Bound],
        validation: Sequence[Bound] = (),
        *,
        checkpoint: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """Fit on prepared sections."""
        fitted = self.method.fit(
            [bound.section for bound in training],
            self.config,
            validation=[bound.section for bound in validation],
            seed=self.runtime.seed,
            device=self.runtime.device,
            progress=self.runtime.progress,
            checkpoint=checkpoint,
            resume=resume,
        )
        return Model(
            self.method.name,
            fitted,
            self.config.to_dict(),
            _cohort(training),
            ood=_distribution(training),
            modules=GeneModules.of_counts([needed(bound.section.counts) for bound in training]),
            seed=self.runtime.seed,
        )


def patients_of(bounds: Sequence[Bound], key: str) -> list[str]:
    """Return the patient of each section, after checking that there are several."""
    names = [
        group_of(bound.table[bound.place.rows], key, bound.place.name, "leave patient_key out") for bound in bounds
    ]
    if len(set(names)) < 2:
        raise ValueError(
            f"patient_key={key!r} names one patient, {names[0]!r}, for all {len(names)} section(s): no patient can be left out. "
            f"Leave patient_key out; sections are left out then."
        )
    return names


def _numbered(patients: Sequence[str | int | None]) -> tuple[int, ...] | None:
    """Return the number of each patient, in order of appearance; None where nobody said who they are."""
    known = list(dict.fromkeys(patients))
    return None if None in known else tuple(known.index(patient) for patient in patients)


def _in_order(sections: Sequence[str], patients: Sequence[str | int] | None) -> tuple[int, ...] | None:
    """Return the number of the patient of each section, in the order of their names."""
    if patients is None:
        return None
    order = sorted(range(len(sections)), key=lambda i: sections[i])
    return _numbered([patients[i] for i in order])


def other_data(model: Model, bounds: Sequence[Bound], patients: Sequence[str] | None = None) -> list[str]:
    """Return in what the sections that a model was fitted on differ from opened ones, in words; nothing is computed."""
    panel, known, different = model.genes.tolist(), model.cohort, []
    for bound in bounds:
        if _keys.SELECTED in bound.table.var:
            selected = gene_names(bound.table, like=panel)[bound.table.var[_keys.SELECTED].to_numpy(dtype=bool)]
            if set(selected) != set(panel):
                different.append(f"{len(panel)} genes, {len(selected)} others are selected in {bound.place.name!r}")
    sections = [_on_panel(bound, panel, frozenset({"features"})).section for bound in bounds]
    spots = np.unique(np.concatenate([spot_hashes(needed(of.counts), of.genes) for of in sections]))
    if len(known.spots) and not np.array_equal(spots, known.spots):
        again = np.isin(spots, known.spots).sum()
        different.append(f"{len(known.spots)} spots with counts, of which {again} are among the {len(spots)} given")
    before, now = _in_order(known.sections, known.patients), _in_order([of.name for of in sections], patients)
    if not different and before != now:
        told = ["sections" if some is None else f"{len(set(some))} patients" for some in (before, now)]
        different.append(f"{told[0]} were left out in turn, now {told[1]}")
    for found in {of.features.spec for of in sections if of.features is not None} - {known.features}:
        if known.features is not None:
            different.append(f"embedding {_named(known.features)}, the sections have {_named(found)}")
    return different


def _named(spec: FeatureSpec) -> str:
    return f"{spec.encoder} {spec.revision}, patch {spec.patch_um:g} um"


def selected_panel(groups: Sequence[list[Bound]], *, as_published: bool = False) -> list[str]:
    """Return the selected genes; select them where no object has a selection.

    Parameters
    ----------
    groups
        Sections by object: those of one object share a table.
    as_published
        Whether a selection that is still to be made follows the published code.
    """
    tables = [group[0].table for group in groups]
    names = shared_genes(tables)
    if not any(_keys.SELECTED in table.var for table in tables):
        logger.info("no genes are selected yet: running hd.pp.select_genes")
        select_on(groups, names, reference_compat=as_published)
    panels = {
        tuple(sorted(own[table.var[_keys.SELECTED].to_numpy(dtype=bool)]))
        for table, own in zip(tables, names)
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
    for group, table in zip(groups, tables):
        missing = np.asarray(panel)[rows_of(panel, gene_names(table, like=panel)) < 0]
        if len(missing):
            raise ValueError(
                f"Section {group[0].place.name!r} lacks {len(missing)} selected genes, such as {listing(missing, 4)}; select on all sections."
            )
    return panel


def _on_panel(bound: Bound, panel: Names, needs: frozenset[str]) -> Bound:
    """Return a section with its counts of the panel."""
    section = _on_tissue(bound).renamed(gene_names(bound.table, like=panel)).with_panel(panel).in_order_of_place()
    # An embedding that the method does not look at is no condition for using the model later.
    return bound.with_section(section if "features" in needs else replace(section, features=None))


def _on_tissue(bound: Bound) -> Section:
    """Return the section without the spots that do not lie on tissue, which teach nothing of it."""
    kept = on_tissue(bound.table)[bound.place.rows]
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


def check_memory(bounds: Sequence[Bound], n_genes: int) -> None:
    """Raise where the expression of all spots, in the forms that a fit holds, is larger than the memory that is free; warn where it may be."""
    n_spots, free = sum(int(on_tissue(bound.table)[bound.place.rows].sum()) for bound in bounds), free_memory()
    least, usual = (each * n_spots * n_genes for each in (_LEAST_BYTES, _USUAL_BYTES))
    what = f"Fitting {n_genes:,} genes on {n_spots:,} spots takes"
    remedy = (
        f"and {free / 1e9:.3g} GB are free. Select fewer genes (hd.pp.select_genes; about {int(free / (_USUAL_BYTES * max(n_spots, 1))):,} fit), "
        f"or fit on fewer sections."
    )
    if least > free:
        raise ValueError(f"{what} at least {least / 1e9:.3g} GB of memory, {remedy}")
    if usual > free:
        logger.warning("%s about %.3g GB of memory, %s", what, usual / 1e9, remedy)


def _check_embeddings(bounds: Sequence[Bound]) -> None:
    specs = {b.section.name: b.section.features.spec for b in bounds if b.section.features is not None}
    if len(set(specs.values())) > 1:
        listed = "; ".join(f"{name}: {_named(spec)}" for name, spec in specs.items())
        raise ValueError(
            f"The sections were embedded differently ({listed}); embed all of them with one call of hd.pp.embed."
        )
    check_embeddings(bounds)


def _cohort(training: Sequence[Bound]) -> Cohort:
    sections = [bound.section for bound in training]
    counts, spots = [needed(section.counts) for section in sections], [needed(section.spots) for section in sections]
    spec = sections[0].features.spec if sections[0].features is not None else None
    record = {} if spec is None else needed(embedding_record(training[0].table))
    return Cohort(
        sections=tuple(section.name for section in sections),
        features=spec,
        licence=str(record.get("licence", "none needed")),
        derivatives={"yes": True, "no": False, "unknown": None}[str(record.get("derivatives", "yes"))],
        mpp=tuple(float(bound.place.mpp) for bound in training),
        pitch_um=_median([pitch_of(some.xy_um) for some in spots]),
        radius_um=float(np.median(np.concatenate([some.radius_um for some in spots]))),
        library_size=2.0 ** _median([section.log2_size for section in sections]),
        expression=np.mean([_shares(some) for some in counts if some.sum() > 0], axis=0),
        symbols=symbols_for(training[0].table, sections[0].genes),
        patients=_numbered([section.patient for section in sections]),
        spots=np.unique(np.concatenate([spot_hashes(some, sections[0].genes) for some in counts])),
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
    sections = [bound.section for bound in training]
    return EmbeddingDistribution.fit(np.concatenate([needed(s.features).at(needed(s.spots)) for s in sections]))
