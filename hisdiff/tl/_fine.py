"""Predict expression finer than the spots: bins of a grid, or any shapes, in agreement with the spots measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.preprocessing import normalize

from hisdiff import _keys
from hisdiff._geometry._grid import BLOCK, bins_touching, block_slices, by_block, overlap
from hisdiff._keys import fine_draw
from hisdiff._log import logger, progress
from hisdiff._prediction._agreement import Agreement
from hisdiff._prediction._cohort_model import UNCERTAINTY
from hisdiff._prediction._draws import DrawAccumulator
from hisdiff._prediction._noise import BlockNoise
from hisdiff._section import Locations, Prediction, needed
from hisdiff._stats._counting import log_moments
from hisdiff._stream import Output, run
from hisdiff._training._calibration import Dispersion
from hisdiff.tl._tiles import each_tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from hisdiff._prediction._agreement import Blend, Factors
    from hisdiff._section import Section
    from hisdiff.methods._protocols import Field

R = TypeVar("R")

# Values of one array of a tile: fifty MB for the dozen arrays that are alive at a time, and enough tiles for all cores.
_TILE_VALUES, _ALIVE = 1e6, 12
# Values of a chunk on disk: some 4 MB, so that one gene of a large table is read quickly.
_CHUNK_VALUES = 2**20
# Purpose of the noise of factors; those of a method's own draws are small numbers.
_FACTORS = 1000
# Bins a footprint or a shape is made of, across: enough for its outline, few enough to be quick.
_BINS_ACROSS = 3
_FINEST_UM, _COARSEST_UM = 4.0, 16.0


@dataclass(frozen=True)
class FinePredictor:
    """What is needed to predict any bins of a section.

    Attributes
    ----------
    field
        Expected expression anywhere in the section.
    agreement, mean_factors, draw_factors
        How bins are brought into agreement with measured spots; None where they are not.
    expected, pooled
        ``(n, G)`` predicted in the footprints of measured spots, and ``(G,)`` part of each gene in the factor that all share.
    resolution_um
        Side of a bin.
    units, keep_draws
        See ``hd.tl.predict``.
    """

    field: Field
    resolution_um: float
    units: str
    keep_draws: int
    agreement: Agreement | None = None
    mean_factors: Factors | None = None
    draw_factors: tuple[Factors, ...] = ()
    expected: np.ndarray | None = None
    pooled: np.ndarray | None = None

    def is_closed_form(self, *, of_shapes: bool) -> bool:
        """Whether the spread of bins, or of shapes, is known without draws."""
        return _closed_form(self.field, of_shapes=of_shapes, calibrated=self.agreement is not None) is not None

    def bins(self, ij: np.ndarray) -> Prediction:
        """Predict bins ``(n, 2)``, (row, column)."""
        return self._summarize(Locations.bins(ij, self.resolution_um), None)

    def locations(self, where: Locations) -> Prediction:
        """Predict locations with a footprint, as the sums over the bins in it, by area."""
        bins = bins_of(where, self.resolution_um)
        if where.z_um is not None:  # one level: see _sdata._at
            bins = replace(bins, z_um=np.full(len(bins), where.z_um[0]))
        return self._summarize(bins, overlap(where, needed(bins.array_ij), self.resolution_um))

    def n_draws(self, *, of_shapes: bool) -> int:
        """Return how many draws are made: where mean and spread are known in closed form, no more than are kept."""
        exact = _closed_form(self.field, of_shapes=of_shapes, calibrated=self.agreement is not None)
        return self.field.n_draws if exact is None else self.keep_draws

    def _summarize(self, bins: Locations, share: Any) -> Prediction:
        area = self.resolution_um**2 / self.field.footprint_um2
        blend = None if self.agreement is None else self.agreement.blend(bins)

        def finished(rates: np.ndarray, factors: Factors | None) -> np.ndarray:
            counts = rates * np.float32(area)
            if blend is not None and factors is not None:
                counts = blend(counts, factors)
            return counts if share is None else share @ counts

        obs = {} if share is not None else self._uncertainty(bins)
        exact = _closed_form(self.field, of_shapes=share is not None, calibrated=self.agreement is not None)
        n_draws = self.n_draws(of_shapes=share is not None)
        draws = DrawAccumulator(self.units, self.keep_draws)
        for index, rates in zip(range(n_draws), self.field.draws(bins)):
            draws.add_counts(finished(rates, self.draw_factors[index] if self.draw_factors else None))
        known = self.units == _keys.COUNTS or exact is not None
        expected = self.field.mean(bins) if known else None
        if expected is None:
            return replace(draws.result(self.field.genes), obs=obs)
        mean = finished(expected, self.mean_factors).astype(np.float32)
        if exact is None:
            return replace(draws.result(self.field.genes), mean=mean, obs=obs)
        std = self._std(bins, blend, share) * np.float32(area)
        if self.units == _keys.LOG2:
            mean, variance = log_moments(mean, std)
            std = np.sqrt(variance)
        kept = draws.result(self.field.genes).draws if n_draws else None
        return Prediction(mean, std, self.field.genes, self.units, kept, obs, self.field.n_draws)

    def _std(self, bins: Locations, blend: Blend | None, share: Any) -> np.ndarray:
        """Return the spread of the counts of a footprint's area at bins, or of their sums over shapes.

        In agreement with measured spots where there are any.
        """
        field: Any = self.field  # one that knows it in closed form
        known, agree = None, lambda spread: np.asarray(spread, dtype=np.float32)
        if blend is not None and self.agreement is not None and self.mean_factors is not None:
            known = self.agreement.certainty(needed(self.expected), needed(self.pooled), bins, blend)
            factors = replace(self.mean_factors, missing=None)
            agree = lambda spread: blend(spread.astype(np.float32), factors)  # noqa: E731
        if not hasattr(field, "std_parts"):
            return agree(field.std(bins))
        weights = None if share is None else normalize(share.tocsr(), norm="l1", axis=1)
        total = np.zeros(1, dtype=np.float32)
        for part in field.std_parts(bins, known, weights):
            std = agree(part.std)
            total = total + part.kept * np.square(std if share is None else share @ std)
        return np.sqrt(total, dtype=np.float32)

    def _uncertainty(self, bins: Locations) -> dict[str, np.ndarray]:
        """Return the uncertainty at bins, where the method gives one."""
        uncertainty = getattr(self.field, "uncertainty", None)
        return {} if uncertainty is None else {UNCERTAINTY: uncertainty(bins)}


def _closed_form(field: Field, *, of_shapes: bool, calibrated: bool) -> Callable[..., np.ndarray] | None:
    """Return the function that gives the sd of draws in closed form; None where it has to be taken from draws."""
    if of_shapes and not hasattr(field, "std_parts"):
        return None
    if calibrated and not hasattr(field, "given_counts"):
        return None
    return getattr(field, "std", None)


def fine_predictor(
    section: Section,
    field: Field,
    resolution_um: float,
    *,
    calibrate: str,
    units: str,
    keep_draws: int,
    seed: int,
    of_shapes: bool = True,
) -> FinePredictor:
    """Prepare predictions of a section's bins, or of shapes; where it was measured, the factors of its spots are found first."""
    plain = FinePredictor(field, resolution_um, units, keep_draws)
    dispersion = field.dispersion
    if calibrate == "none" or section.counts is None or field.fitted_to_section or section.spots is None:
        return plain
    if dispersion is None:
        dispersion = Dispersion(gene=np.ones(len(field.genes)), spot=np.ones(()))
    counts, lacking = _on_panel(section, field.genes)
    measured = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() > 0)
    if not len(measured):
        return plain
    spots, counts = section.spots.take(measured), counts if len(measured) == counts.shape[0] else counts[measured]
    if hasattr(field, "given_counts"):
        field = field.given_counts(measured)
    agreement = Agreement(spots, counts, dispersion, exact=calibrate == "exact", lacking=lacking)
    if calibrate == "exact" and (n_close := len(agreement.closer_than(resolution_um))):
        logger.warning(
            "%s: %d of %d spots share bins of %g um with others; such bins follow both, so that they do not add up to "
            "either count exactly",
            section.name, n_close, len(spots), resolution_um,
        )  # fmt: skip
    n_draws = field.n_draws if _closed_form(field, of_shapes=of_shapes, calibrated=True) is None else keep_draws
    sums = _footprint_sums(spots, field, resolution_um, n_draws)
    noise = BlockNoise.at(seed, section.spots)
    mean = sums[0] if np.isfinite(sums[0]).any() else sums[1:].mean(axis=0)
    of_mean = agreement.factors(mean)
    factors = []
    for draw, predicted in enumerate(sums[1:]):
        normal = None if calibrate == "exact" else noise.normal(draw, _FACTORS, measured, 1 + counts.shape[1])
        factors.append(agreement.factors(predicted, normal, of_mean))
    return FinePredictor(
        field, resolution_um, units, keep_draws, agreement, of_mean, tuple(factors), mean, agreement.pooled(mean)
    )


def _on_panel(section: Section, genes: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
    """Return a section's counts in the order of a panel, and which genes it lacks, ``(G,)``."""
    counts = needed(section.counts)
    where = {gene: i for i, gene in enumerate(section.genes)}
    columns = np.array([where.get(gene, -1) for gene in genes])
    if np.array_equal(columns, np.arange(counts.shape[1])):
        return csr_matrix(counts), columns < 0
    there = np.flatnonzero(columns >= 0)
    place = csr_matrix((np.ones(len(there), counts.dtype), (columns[there], there)), (counts.shape[1], len(genes)))
    return csr_matrix(counts @ place), columns < 0


def _footprint_sums(spots: Locations, field: Field, resolution_um: float, n_draws: int) -> np.ndarray:
    """Return what is predicted in the footprints of spots: expectation and draws, ``(1 + draws, n, G)``."""
    area = resolution_um**2 / field.footprint_um2
    sums = np.full((1 + n_draws, len(spots), len(field.genes)), np.nan, dtype=np.float32)
    groups = list(groups_of(spots, resolution_um, len(field.genes)))

    def work(k: int) -> np.ndarray:
        some = spots.take(groups[k])
        bins = bins_of(some, resolution_um)
        share = overlap(some, needed(bins.array_ij), resolution_um) * area
        out = np.full((1 + n_draws, len(some), len(field.genes)), np.nan, dtype=np.float32)
        expected = field.mean(bins)
        if expected is not None:
            out[0] = share @ expected
        for draw, rates in zip(range(n_draws), field.draws(bins)):
            out[1 + draw] = share @ rates
        return out

    how = {"draws": n_draws > 0, "forget": False}  # bins around the spots need the same
    for k, of_group in _of_groups(field, spots, groups, resolution_um, work, "predicting spots", **how):
        sums[:, groups[k]] = of_group
    return sums


def _of_groups(
    field: Field,
    where: Locations,
    groups: Sequence[np.ndarray],
    resolution_um: float,
    work: Callable[[int], R],
    what: str,
    **how: Any,
) -> Iterator[tuple[int, R]]:
    """Yield the number of each group of locations and what ``work`` makes of it, as they are done."""
    bins = lambda rows: bins_of(where.take(rows), resolution_um)  # noqa: E731
    needs = int(_ALIVE * 4 * _TILE_VALUES)
    yield from each_tile(field, groups, bins, work, range(len(groups)), what, needs_bytes=needs, **how)


def bins_of(where: Locations, resolution_um: float) -> Locations:
    """Return the bins that any of the footprints touches, in the order of blocks."""
    return Locations.bins(by_block(bins_touching(where, resolution_um)), resolution_um)


def groups_of(where: Locations, resolution_um: float, n_genes: int) -> Iterator[np.ndarray]:
    """Yield rows of locations that lie together, few enough for one tile."""
    most = max(1, _TILE_VALUES / n_genes)
    block = np.floor(where.xy_um[:, ::-1] / (resolution_um * BLOCK)).astype(np.int64)
    order = np.lexsort((np.arange(len(where)), block[:, 1], block[:, 0]))
    size = np.ceil((2 * where.radius_um[order] / resolution_um + 1) ** 2)
    tile = (np.cumsum(size) // most).astype(np.int64)
    for number in np.unique(tile):
        yield order[tile == number]


def tiles_of(ij: np.ndarray, n_genes: int) -> list[slice]:
    """Return runs of whole blocks of bins, few enough for one tile each."""
    most = max(1, _TILE_VALUES / n_genes)
    tiles: list[slice] = []
    for block in block_slices(ij):
        if tiles and block.stop - tiles[-1].start <= most:
            tiles[-1] = slice(tiles[-1].start, block.stop)
        else:
            tiles.append(block)
    return tiles


def outputs_of(n_bins: int, n_genes: int, keep_draws: int) -> dict[str, Output]:
    """Return the arrays that bins fill, by name: ``"mean"``, ``"std"`` and the draws that are kept."""
    one = Output((n_bins, n_genes), (max(1, min(_CHUNK_VALUES // n_genes, n_bins)), n_genes), fill=float("nan"))
    return dict.fromkeys(("mean", "std", *(fine_draw(i) for i in range(keep_draws))), one)


def predict_bins(
    predictor: FinePredictor,
    where: Locations,
    folder: Path | None,
    plan: Mapping[str, Any],
    *,
    show: bool | None,
) -> Prediction:
    """Predict the bins of a grid tile by tile, into ``folder`` or into memory (see ``hisdiff._stream.run``)."""
    ij = needed(where.array_ij)
    n_genes = len(predictor.field.genes)
    outputs = outputs_of(len(where), n_genes, predictor.keep_draws)
    has_uncertainty = getattr(predictor.field, "uncertainty", None) is not None
    if has_uncertainty:
        outputs[UNCERTAINTY] = Output((len(where), 1), (max(1, min(_CHUNK_VALUES, len(where))), 1), fill=float("nan"))
    tiles = tiles_of(ij, n_genes)

    def work(k: int) -> dict[str, np.ndarray]:
        part = predictor.bins(ij[tiles[k]])
        kept = {fine_draw(i): draw for i, draw in enumerate(part.draws if part.draws is not None else ())}
        extra = {UNCERTAINTY: part.obs[UNCERTAINTY][:, None]} if has_uncertainty else {}
        return {"mean": part.mean, "std": part.std, **kept, **extra}

    regions = [{name: (rows, slice(0, output.shape[1])) for name, output in outputs.items()} for rows in tiles]
    needs = int(_ALIVE * 4 * n_genes * max((rows.stop - rows.start for rows in tiles), default=0))

    def each(work: Callable[[int], R], todo: Sequence[int], what: str) -> Iterator[tuple[int, R]]:
        return each_tile(
            predictor.field, tiles, lambda rows: where.take(rows), work, todo, what,
            draws=predictor.n_draws(of_shapes=False) > 0, needs_bytes=needs, show=show,
        )  # fmt: skip

    desc = f"predicting {len(where):,} bins"
    made = run(folder, plan, outputs, regions, work, desc=desc, progress=show, unit="tiles", each=each)
    draws = [made[fine_draw(i)] for i in range(predictor.keep_draws)]
    obs = {UNCERTAINTY: np.asarray(made[UNCERTAINTY])[:, 0]} if has_uncertainty else {}
    return Prediction(made["mean"], made["std"], predictor.field.genes, predictor.units, draws or None, obs)


def predict_locations(predictor: FinePredictor, where: Locations, *, show: bool | None) -> Prediction:
    """Predict many locations, group by group."""
    n_genes = len(predictor.field.genes)
    mean = np.full((len(where), n_genes), np.nan, dtype=np.float32)
    std = mean.copy()
    kept = np.full((predictor.keep_draws, len(where), n_genes), np.nan, dtype=np.float32)
    groups = list(groups_of(where, predictor.resolution_um, n_genes))
    desc, draws = f"predicting {len(where):,} locations", predictor.n_draws(of_shapes=True) > 0

    def work(k: int) -> Prediction:
        return predictor.locations(where.take(groups[k]))

    with progress(desc=desc, total=len(groups), enabled=show, unit="groups") as bar:
        for k, part in _of_groups(
            predictor.field, where, groups, predictor.resolution_um, work, desc, draws=draws, show=show
        ):
            mean[groups[k]], std[groups[k]] = part.mean, part.std
            if part.draws is not None:
                kept[:, groups[k]] = part.draws
            bar.update()
    return Prediction(mean, std, predictor.field.genes, predictor.units, kept if len(kept) else None)


def resolution_for(where: Locations, mpp: float) -> float:
    """Return the side of bins, in um, that outline footprints well: a third of their width, 4 to 16 um."""
    width = 2 * float(np.median(where.radius_um))
    return max(min(max(width / _BINS_ACROSS, _FINEST_UM), _COARSEST_UM), mpp)
