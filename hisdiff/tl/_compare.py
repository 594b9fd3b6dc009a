"""Several methods on the same sections, genes and embedding, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from hisdiff._arguments import checked
from hisdiff._check import one_of, positive
from hisdiff._docs import documented
from hisdiff._runtime import Runtime
from hisdiff._sdata._bound import as_list, by_object
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._sdata._shallow_copy import on_copies
from hisdiff._workers import check_stores
from hisdiff.tl._comparison import Comparison, Terms, entries_of
from hisdiff.tl._fit_job import selected_panel
from hisdiff.tl._options import N_DRAWS
from hisdiff.tl._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from spatialdata import SpatialData

    from hisdiff.encoders import Encoder
    from hisdiff.tl._comparison import LibrarySize


@documented
@checked
def compare(
    train: SpatialData | Sequence[SpatialData],
    test: SpatialData | Sequence[SpatialData],
    methods: Sequence[str] | Mapping[str, str | tuple[str, Any]] | None = None,
    *,
    coarsen: int | None = None,
    n_seeds: int = 3,
    n_draws: int = N_DRAWS,
    library_size: LibrarySize = "section",
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
    library_size
        What spots of an unseen section are predicted at: ``"section"``, the section's own median total count, the one
        number that is used of its counts; or ``"cohort"``, that of the training sections.
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
    judged), ``n_genes``; of the mean, on log2(1 + count): ``pcc_10 pcc_50 pcc_200 pcc_all`` (all but the last choose
    their genes by the figure itself), ``mse``, ``mae``, ``ssim``, and with ``coarsen`` ``pcc_within``, the part of the
    correlation that lies inside pseudo-spots; of a single draw, or of the one value where a method gives no draws
    (``has_draws``): ``draw_pcc_all``, ``rvd``, ``coexpression_r``, ``coexpression_mae``, ``moran_mae``; all of these also
    with ``_norm``, after scaling every spot to the same total count. ``energy_score``, ``module_crps`` and
    ``module_energy_score`` of the draws, proper scores, lower is better, the last two on the modules of the training sections'
    genes; ``_centered``: with each section's mean taken out; ``_floor``: what counting noise alone would leave, see
    :func:`hisdiff.tl.evaluate`. ``coverage_90`` of the interval, at spots of an unseen section. With ``coarsen`` predictions are expected
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
    one_of(library_size, ("section", "cohort"), "library_size")
    seeds = [runtime.seed + i for i in range(positive(n_seeds, "n_seeds", integer=True))]
    terms = Terms(seeds, positive(n_draws, "n_draws", integer=True), library_size, runtime)
    entries = entries_of(methods, own_counts=coarsen is not None)
    nothing = coarsen is not None and isinstance(train, (list, tuple)) and not train
    learned_from = [] if nothing else as_list(train)
    judged_on = as_list(test)
    if any(a is b for a in learned_from for b in judged_on):
        raise ValueError("A test section is among the training sections: metrics there say nothing about new tissue.")
    needs = frozenset({"counts"}).union(*(entry.needs & {"image"} for entry in entries))
    opened = on_copies(open_sections([*learned_from, *judged_on], source, needs=needs))
    n_training = sum(len(group) for group in by_object(opened)[: len(learned_from)])
    training, testing = opened[:n_training], opened[n_training:]
    if coarsen is None:
        comparison = Comparison.of_unseen(training, testing, selected_panel(by_object(training)))
    else:
        comparison = Comparison.of_merged(training, testing, coarsen, source)
    check_stores("hd.tl.compare", {sdata.path for sdata in (*learned_from, *judged_on)})
    with Watch() as embedding:
        if any("features" in entry.needs for entry in entries):
            specs = [bound.section.features.spec for bound in opened if bound.section.features is not None]
            comparison = comparison.embedded(encoder, specs[0] if specs else None, runtime)
    result = pd.DataFrame(comparison.rows(entries, terms))
    result.attrs = {
        "coarsen": coarsen,
        "train": [task.name for task in comparison.known],
        "test": [task.name for task in comparison.tasks],
        "n_genes": len(comparison.panel),
        "library_size": library_size,
        "embed_s": round(embedding.seconds, 1),
    }
    return result
