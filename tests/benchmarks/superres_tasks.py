"""Tissue whose expression is known more finely than what a method is given: the toy tissue, and merged spots of real sections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from sections import open_section

import hisdiff as hd
from hisdiff._geometry._grid import overlap
from hisdiff._sdata._genes import rows_of
from hisdiff._sdata._provenance import mark_written, written
from hisdiff._sdata._read import open_sections
from hisdiff._sdata._selection import Selection
from hisdiff._section import Locations
from hisdiff.tl._fine import fine_predictor, predict_locations
from hisdiff.tl._predict_fine import with_outline
from hisdiff.tl._tasks import merged

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

    from hisdiff._section import Section
    from hisdiff.models._model import Model

SOURCE = Selection()
TOY_UM, MERGED_UM = 10.0, 16.0
"""Side of the bins that toy tissue is judged on, and of those that spots are made of."""
N_DRAWS = 16


class Remembered:
    """Embeddings of a section, each place computed once: many predictions of one section share them."""

    def __init__(self, features) -> None:
        self._features, self._known = features, {}
        self.spec, self.mean, self.std = features.spec, features.mean, features.std

    def at(self, locations: Locations) -> np.ndarray:
        keys = list(zip(*locations.xy_um.T.tolist(), locations.radius_um.tolist()))
        new = [row for key, row in {key: row for row, key in enumerate(keys)}.items() if key not in self._known]
        if new:
            self._known |= zip([keys[row] for row in new], self._features.at(locations.take(np.array(new))))
        return np.stack([self._known[key] for key in keys])


@dataclass
class Job:
    """A section, what is known of it, and what is to be predicted.

    Attributes
    ----------
    name, sdata, section
        The section with the counts that are known, of the genes of ``genes``.
    targets
        ``(n,)`` locations to predict.
    share
        csr ``(spots, n)``: the part of each target in each known spot.
    truth
        ``(n, G)``, measured counts, or expected ones.
    group
        ``(n,)`` spot that a target lies in, -1 for none.
    weights
        Of neighbours, or None.
    cell_types
        ``(n, 4)`` of the toy tissue, else None.
    """

    name: str
    sdata: SpatialData
    section: Section
    genes: np.ndarray
    targets: Locations
    share: sparse.csr_matrix
    truth: np.ndarray
    group: np.ndarray
    cell_types: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """``(spots, G)`` counts."""
        return self.section.counts.toarray()

    def thinned(self, part: float, seed: int) -> Job:
        """Keep each known count with a probability; the truth is left as it is."""
        return self._knowing(_thinned(self.sdata.tables["table"].X, part, seed))

    def split(self, seed: int) -> Job:
        """Know one half of the molecules of every target, and have the other half for truth, so that they share no noise."""
        table = self.sdata.tables["table"]
        shown = np.random.default_rng(seed).binomial(self.truth.astype(np.int64), 0.5)
        kept = _thinned(table.X, 0.5, seed).toarray()
        whole = np.flatnonzero(self.share.getnnz(axis=1))
        kept[np.ix_(whole, rows_of(self.genes, table.var_names))] = (self.share @ shown)[whole]
        return replace(self._knowing(sparse.csr_matrix(kept)), truth=self.truth - shown)

    def _knowing(self, counts: sparse.csr_matrix) -> Job:
        sdata = self.sdata
        table = sdata.tables["table"].copy()
        table.X = counts
        other = type(sdata)(images=dict(sdata.images), labels=dict(sdata.labels), shapes=dict(sdata.shapes),
                            tables={**dict(sdata.tables), "table": table}, attrs=sdata.attrs)  # fmt: skip
        section = _section(other, self.section.name, self.genes, self.section.features)
        return replace(self, sdata=other, section=section)

    def predicted(self, model: Model, calibrate: str, seed: int, library_size: float | None = None):
        """Return expected counts ``(n, G)`` and draws of them ``(k, n, G)`` as ``hd.tl.predict`` makes them.

        Its parts are called one by one, so that embeddings are computed once for all predictions of a section."""
        section, columns = self.section.with_panel(model.genes), rows_of(self.genes, model.genes)
        size = self.targets.bin_um or MERGED_UM
        field = model.fitted.field(
            section, n_draws=N_DRAWS, n_steps=None, library_size=library_size, seed=seed, device=None, progress=False
        )
        predictor = fine_predictor(
            section, field, size, calibrate=calibrate, units="counts", keep_draws=N_DRAWS, seed=seed
        )
        if self.targets.bin_um is not None:
            found = predictor.bins(self.targets.array_ij)
        else:
            found = predict_locations(predictor, self.targets, show=False)
        return found.mean[:, columns], found.draws[..., columns]


def _thinned(counts, part: float, seed: int) -> sparse.csr_matrix:
    kept = sparse.csr_matrix(counts, copy=True)
    kept.data = np.random.default_rng(seed).binomial(kept.data.astype(np.int64), part).astype(np.float32)
    return kept


def toy_jobs(seed: int, *, size_um: float) -> list[Job]:
    """Return three toy sections; each is to be predicted at the bins of its truth."""
    sections = hd.datasets.toy(seed, n_sections=3, size_um=size_um)
    hd.pp.select_genes(sections, genes=list(sections[0].tables["table"].var_names))
    hd.pp.embed(sections)
    jobs = []
    for i, sdata in enumerate(sections):
        truth = sdata.tables["truth"]
        genes = np.asarray(truth.var_names, dtype=str)
        section = _section(sdata, f"toy{i + 1}", genes)
        targets = Locations.bins(truth.obs[["array_row", "array_col"]].to_numpy(), TOY_UM)
        distance, group = cKDTree(section.spots.xy_um).query(targets.xy_um)
        group = np.where(distance < section.spots.radius_um[0], group, -1)
        share = overlap(section.spots, targets.array_ij, TOY_UM)
        types = truth.obsm["cell_types"].to_numpy()
        jobs.append(Job(f"toy{i + 1}", sdata, section, genes, targets, share, np.asarray(truth.X), group, types))
    return jobs


def merged_jobs(data: Path, names: list[str], sizes: list[int]) -> dict[int, list[Job]]:
    """Return for each size the real sections with n x n spots merged; spots of whole pseudo-spots are to be predicted."""
    sections = [open_section(data, name) for name in names]
    hd.pp.select_genes(sections)
    table = sections[0].tables["table"]
    panel = [str(gene) for gene in table.var_names[table.var["hisdiff_selected"]]]
    dense: dict[str, SpatialData] = {}
    jobs: dict[int, list[Job]] = {}
    for n in sizes:
        jobs[n] = []
        for name, sdata in zip(names, sections):
            (task,) = merged(open_sections(sdata, needs=("counts",)), n, panel, SOURCE)
            coarse = task.bound.place.sdata
            hd.pp.embed(coarse)
            if name not in dense:
                hd.pp.grid(coarse, MERGED_UM)
                dense[name] = coarse
            else:  # the grid does not depend on how spots are merged
                _take_grid(coarse, dense[name])
            section = _section(coarse, name, np.asarray(panel))
            targets = task.spots
            size = (len(section.spots), len(targets))
            share = sparse.csr_matrix((np.ones(len(targets)), (task.parent, np.arange(len(targets)))), shape=size)
            truth = task.counts.toarray()[:, rows_of(panel, task.genes)]
            job = Job(name, coarse, section, np.asarray(panel), targets, share, truth, task.parent)
            jobs[n].append(job)
    return jobs


def _take_grid(sdata: SpatialData, other: SpatialData) -> None:
    for elements, taken in ((other.labels, sdata.labels), (other.images, sdata.images)):
        for key in [key for key in elements if key.startswith("grid_")]:
            taken[key] = elements[key]
            mark_written(sdata, key, written(other, key))


def _section(sdata: SpatialData, name: str, genes: np.ndarray, features=None) -> Section:
    (bound,) = open_sections(sdata, needs=("counts", "features"))
    section = with_outline(bound).with_panel(list(genes))
    return replace(section, name=name, features=features or Remembered(section.features))
