"""Accuracy on tissue that a model has not seen: sections or patients are left out in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff._arguments import checked
from hisdiff._check import one_of, positive
from hisdiff._docs import documented
from hisdiff._runtime import Runtime
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._shallow_copy import on_copies
from hisdiff.tl._comparison import Terms, entries_of
from hisdiff.tl._folds import Folds, Ledger
from hisdiff.tl._grouped import GroupedSections
from hisdiff.tl._options import N_DRAWS
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder
    from hisdiff.tl._comparison import LibrarySize


@documented
@checked
def cross_validate(
    data: SpatialData | Sequence[SpatialData],
    methods: Sequence[str] | Mapping[str, str | tuple[str, Any]] = ("hisdiff", "ridge"),
    *,
    by: str = "section",
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
    sections = GroupedSections.of(on_copies(open_sections(data, selection, needs=needs)), by, patient_key, genes)

    with Watch() as embedding:
        if any("features" in entry.needs for entry in entries):
            sections = sections.embedded(encoder, runtime)
    result = pd.DataFrame(Folds(sections, entries, terms, by).rows(ledger))
    result.attrs = {
        "by": by,
        "folds": sections.folds,
        "library_size": library_size,
        "embed_s": round(embedding.seconds, 1),
    }
    return result
