"""What methods are compared on: spots of a section whose counts are withheld from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hisdiff._keys import COUNTS, LOG2
from hisdiff._log import logger
from hisdiff._sdata._coarsen import N_MEMBERS, coarsen
from hisdiff._sdata._genes import gene_names, rows_of
from hisdiff._sdata._read import open_sections
from hisdiff._section import needed
from hisdiff._stats._accuracy import known_mean, pearson
from hisdiff._stats._metrics import within_groups
from hisdiff._stats._proper import coverage
from hisdiff._stats._resample import with_counting_noise
from hisdiff._stats._scorer import Scorer
from hisdiff._stats._spatial import Layout
from hisdiff.models._cohort import spot_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

    from hisdiff._sdata._bound import Bound
    from hisdiff._sdata._selection import Selection
    from hisdiff._section import Locations, Prediction
    from hisdiff._stats._gene_modules import GeneModules

# Figures of the mean of draws, and those of a single draw.
_ACCURACY = ("pcc_10", "pcc_50", "pcc_200", "pcc_all", "mse", "mae", "ssim")
_STRUCTURE = ("rvd", "coexpression_r", "coexpression_mae", "moran_mae")


@dataclass(frozen=True)
class Task:
    """Spots of one section that are to be predicted, and what was measured there.

    Attributes
    ----------
    name
        Of the section.
    bound
        What a method is given: the section without counts, or the section of its pseudo-spots.
    genes
        ``(G,)`` those of the panel that were measured.
    counts
        csr ``(n, G)``, what was measured.
    spots
        ``(n,)`` where they lie.
    parent
        ``(n,)`` pseudo-spot of each spot, or None where spots were not merged.
    shared
        ``(n, G)`` log2(1 + the spot's part of its pseudo-spot's count), or None.
    modules
        Of ``genes``, on which predictions are scored.
    """

    name: str
    bound: Bound
    genes: np.ndarray
    counts: csr_matrix
    spots: Locations
    parent: np.ndarray | None = None
    shared: np.ndarray | None = None
    modules: GeneModules | None = None

    @property
    def is_finer(self) -> bool:
        """Whether methods are given merged spots, and are to predict the spots inside."""
        return self.parent is not None

    @property
    def units(self) -> str:
        """What to predict in: finer than the measurement, that is expected counts, whose mean is judged as log2(1 + mean)."""
        return COUNTS if self.is_finer else LOG2

    @property
    def measured(self) -> np.ndarray:
        """``(n, G)``, log2(1 + count)."""
        return np.log2(1 + self.counts.toarray())

    @cached_property
    def hashes(self) -> np.ndarray:
        """uint64, one hash for each spot that has any count, by which sections are recognised."""
        return spot_hashes(self.counts, self.genes)

    def scores(
        self, predicted: Prediction, *, n_draws: int, seed: int, interval_factor: np.ndarray | None = None
    ) -> dict[str, float]:
        """Return the metrics of a prediction of the spots in ``units`` with all its draws.

        Parameters
        ----------
        n_draws, seed
            Of the counting noise, see ``judged``.
        interval_factor
            Of each gene of ``predicted``, or None where intervals are not judged.
        """
        columns = rows_of(self.genes, predicted.genes)
        if (columns < 0).any():
            raise ValueError(f"Not all genes of {self.name!r} to be evaluated were predicted.")
        mean, draws = np.asarray(predicted.mean)[:, columns], None
        if predicted.draws is not None and len(predicted.draws) > 1:
            draws = np.stack([np.asarray(draw)[:, columns] for draw in predicted.draws])
        if self.units == COUNTS:
            mean, draws = np.log2(1 + mean), None if draws is None else np.log2(1 + draws)
        found = self.judged(mean, draws, n_draws=n_draws, seed=seed)
        if interval_factor is not None and np.isfinite(interval_factor[columns]).any():
            std = np.asarray(predicted.std)[:, columns]
            inside = coverage(self.measured, mean, std, interval_factor[columns])
            found["coverage_90"] = float(np.nanmean(inside))
        return found

    def judged(self, mean: np.ndarray, draws: np.ndarray | None, *, n_draws: int, seed: int) -> dict[str, float]:
        """Return the metrics of a mean ``(n, G)`` and draws ``(k, n, G)``, None where there is one value only.

        Predictions finer than the spots are expected counts, of every method: where spots were merged, ``n_draws`` draws
        of counts are made of a single value, and one of each draw.
        """
        has_draws = draws is not None
        if self.parent is not None:
            expected = draws if draws is not None else np.broadcast_to(mean, (n_draws, *mean.shape))
            draws = with_counting_noise(expected, seed)
        known = np.isfinite(mean).all(axis=1)
        if not known.any():
            raise ValueError(f"Nothing was predicted at the {len(known)} spots of {self.name!r}.")
        if not known.all():
            logger.warning("%s: %d of %d spots were not predicted", self.name, (~known).sum(), len(known))
        scorer = Scorer(self.counts[known].toarray(), Layout.of(self.spots.xy_um[known]), self.modules)
        mean = mean[known]
        several = [mean] if draws is None else [one[known] for one in draws]
        row: dict[str, float] = {
            "n_spots": int(known.sum()),
            "n_genes": len(self.genes),
            "has_draws": has_draws,
        }
        of_mean, of_one = scorer.metrics(mean), scorer.metrics(several[0])
        floors = scorer.floors()
        for end, scores in scorer.scores(several).items():
            row |= {f"{name}{end}": of_mean[end][name] for name in _ACCURACY}
            row |= {f"{name}{end}": of_one[end][name] for name in _STRUCTURE}
            row[f"draw_pcc_all{end}"] = of_one[end]["pcc_all"]
            row |= {f"{name}{end}": value for name, value in (scores | floors[end]).items()}
        if self.parent is not None:
            parent = self.parent[known]
            for view in scorer.views():
                inside = (within_groups(view(values), parent) for values in (scorer.measured, mean))
                row[f"pcc_within{view.suffix}"] = known_mean(pearson(*inside))
        return row | {"coverage_90": float("nan")}


def unseen(bound: Bound, panel: Sequence[str]) -> Task:
    """Return the task to predict the spots of a section from its image."""
    genes, counts = counts_of(bound, panel)
    blind = replace(bound.section, genes=np.asarray(panel, dtype=str), counts=None, library_size=None)
    spots = needed(bound.section.spots)
    return Task(bound.place.name, bound.with_section(blind), genes, counts, spots)


def merged(group: Sequence[Bound], n: int, panel: Sequence[str], source: Selection) -> list[Task]:
    """Merge n x n spots of the sections of an object; return the task to predict the original spots of each.

    Only spots of pseudo-spots that have all their members are judged.
    """
    coarse = coarsen(group, n)
    table = coarse.sdata.tables[coarse.table_key]
    sizes = table.obs[N_MEMBERS].to_numpy()[:, None]
    tasks = []
    given = open_sections(coarse.sdata, replace(source, layer=None, table_key=coarse.table_key), needs=("counts",))
    for bound, fine in zip(given, group):
        genes, counts = counts_of(fine, panel)
        rows = fine.place.rows
        judged = coarse.complete[rows]
        parent = coarse.parent[rows][judged]
        shared = np.log2(
            1 + table.X[parent][:, rows_of(genes, gene_names(table, like=panel))].toarray() / sizes[parent]
        )
        spots = needed(fine.section.spots).take(np.flatnonzero(judged))
        tasks.append(Task(fine.place.name, bound, genes, counts[judged], spots, parent, shared))
    return tasks


def counts_of(bound: Bound, panel: Sequence[str]) -> tuple[np.ndarray, csr_matrix]:
    """Return the genes of the panel that a section has, and its counts of them."""
    names = gene_names(bound.table, like=panel)
    genes = np.asarray(panel, dtype=str)[rows_of(panel, names) >= 0]
    return genes, needed(bound.section.counts)[:, rows_of(genes, names)]
