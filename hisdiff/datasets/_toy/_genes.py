"""Genes of the toy tissue: overlapping programmes, the true expression on a fine grid, counts of spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely
from scipy import ndimage, sparse

from hisdiff.datasets._toy._tissue import BASE_UM, CELL_TYPES, Tissue, at_points, enlarge, smooth_noise

if TYPE_CHECKING:
    from numpy.random import Generator

TRUTH_UM = 10.0
"""Side of a bin of the grid that holds the truth."""
SPREAD_UM = 5.0
"""Transcripts of a cell lie around its nucleus with this sd."""
PROGRAMME_SEED = 20240501
"""All toy tissues have the same genes, so that a model of one can be used on another."""

PROGRAMMES = {"TUM": 0.26, "STR": 0.18, "IMM": 0.18, "PRO": 0.10, "HKG": 0.10, "HID": 0.12, "ADI": 0.06}
"""Share of the genes: tumour, stroma, immune, proliferation (tumour of high grade), every cell, hidden, fat."""
MASS = {"tumour": 1.0, "stroma": 1.3, "immune": 0.5, "fat": 8.0}
"""Transcripts of one cell of a type, relative."""
CELL_COUNTS = 110.0
"""Transcripts over all genes that a tumour cell gives, at size factor 1 and 120 genes."""


@dataclass(frozen=True)
class Programmes:
    """What drives the genes; the same for every section.

    Attributes
    ----------
    names, programme
        ``(G,)`` gene names, and the programme each belongs to.
    loading
        ``(len(CELL_TYPES) + 1, G)`` expression per unit of a type's mass; the last row is per um2 of tissue.
    grade, hidden
        ``(G,)`` and ``(3, G)``: log change per sd of the visible grade, and of three fields that nothing shows.
    dispersion
        ``(G,)``: variance of a count = m + dispersion m^2.
    """

    names: np.ndarray
    programme: np.ndarray
    loading: np.ndarray
    grade: np.ndarray
    hidden: np.ndarray
    dispersion: np.ndarray


def make_programmes(n_genes: int) -> Programmes:
    """Return the genes of every toy tissue that has ``n_genes``."""
    rng = np.random.default_rng(PROGRAMME_SEED)
    share = np.array(list(PROGRAMMES.values()))
    sizes = np.floor(share * n_genes).astype(int)
    sizes[0] += n_genes - sizes.sum()
    programme = np.repeat(list(PROGRAMMES), sizes)
    names = np.concatenate([[f"{name}{i + 1:02d}" for i in range(size)] for name, size in zip(PROGRAMMES, sizes)])

    level = np.exp(rng.normal(0, 0.8, n_genes))
    # Overlap: every type has a little of each gene, and each gene a second type that has more of it.
    loading = rng.uniform(0.02, 0.12, (len(CELL_TYPES) + 1, n_genes))
    loading[-1] = 0
    loading[rng.integers(0, 3, n_genes), np.arange(n_genes)] += rng.uniform(0.05, 0.5, n_genes)
    for main, name in enumerate(["TUM", "STR", "IMM", "ADI"]):
        loading[main, programme == name] += 1
    loading[0, programme == "PRO"] += 0.8
    loading[: len(CELL_TYPES), programme == "HKG"] = 0.7
    # Hidden genes follow the area of tissue, not its cells, so that not even cell density predicts them.
    loading[:, programme == "HID"] = 0
    loading[-1, programme == "HID"] = 0.004

    grade = np.where(programme == "PRO", 0.75, 0) + np.where(programme == "TUM", rng.uniform(-0.35, 0.35, n_genes), 0)
    hidden = np.zeros((3, n_genes))
    hidden[0, programme == "HID"] = rng.uniform(0.8, 1.1, (programme == "HID").sum())
    for row, name in ((1, "TUM"), (1, "PRO"), (1, "HKG"), (2, "IMM"), (2, "STR"), (2, "ADI")):
        members = programme == name
        hidden[row, members] = rng.uniform(0.2, 0.95, members.sum()) * rng.choice([-1, 1], members.sum(), p=[0.3, 0.7])
    dispersion = np.exp(rng.normal(np.log(0.2), 0.4, n_genes))
    return Programmes(names, programme, loading * level, grade, hidden, dispersion)


@dataclass(frozen=True)
class Truth:
    """Expected counts of the bins of ``TRUTH_UM`` inside the tissue, and what they come from.

    ``row``, ``col`` place the bins on the grid of ``shape``; ``expected`` is ``(n, G)``, ``composition`` ``(n, 4)`` the
    share of each type in the number of nuclei, ``hidden`` ``(n, 3)`` the fields that the image does not show, ``states``
    ``(n, 3)`` what tissue with states is in.
    """

    shape: tuple[int, int]
    row: np.ndarray
    col: np.ndarray
    expected: np.ndarray
    composition: np.ndarray
    hidden: np.ndarray
    states: np.ndarray | None = None


def make_truth(rng: Generator, tissue: Tissue, programmes: Programmes, size_factor: float) -> Truth:
    """Return the true expression of a section at its size factor."""
    n = round(tissue.size_um / TRUTH_UM)
    shape = (n, n)
    amount = cell_amounts(tissue, n)
    hidden = np.stack([smooth_noise(rng, shape, scale / TRUTH_UM) for scale in (130, 110, 90)], axis=-1)
    row, col = np.nonzero(enlarge(tissue.inside, shape) > 0)
    amount, hidden = amount[row, col], hidden[row, col]
    grade = enlarge(tissue.grade, shape)[row, col]

    area = np.full((len(row), 1), TRUTH_UM**2)
    mass = np.concatenate([amount * list(MASS.values()), area], axis=1)
    change = grade[:, None] * programmes.grade + hidden @ programmes.hidden
    change -= (programmes.grade**2 + (programmes.hidden**2).sum(axis=0)) / 2  # the mean of exp(normal) is then 1
    per_cell = CELL_COUNTS * size_factor / programmes.loading[0].sum()
    expected = per_cell * (mass @ programmes.loading) * np.exp(change)
    nuclei = amount.sum(axis=1, keepdims=True)
    composition = amount / np.where(nuclei > 0, nuclei, 1)
    return Truth(shape, row, col, expected.astype(np.float32), composition.astype(np.float32), hidden)


def cell_amounts(tissue: Tissue, n: int) -> np.ndarray:
    """Return the number of cells of each type in each bin of a grid of ``n`` bins a side, ``(n, n, 4)``."""
    return np.stack([_amount(tissue, kind, n) for kind in CELL_TYPES], axis=-1)


def _amount(tissue: Tissue, kind: str, n: int) -> np.ndarray:
    """Return the number of cells of a type in each bin of the grid."""
    xy = tissue.cells[kind].xy
    number, _, _ = np.histogram2d(xy[:, 1], xy[:, 0], bins=n, range=[[0, tissue.size_um]] * 2)
    # A fat cell is as wide as several bins of the grid.
    spread = SPREAD_UM if kind != "fat" else 20.0
    return ndimage.gaussian_filter(number, spread / TRUTH_UM, mode="constant")


def spot_lattice(tissue: Tissue, pitch_um: float, radius_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centres in um and (row, col) of the spots in tissue, on a hexagonal array counted like Visium's."""
    margin = radius_um + 5
    rows = np.arange(margin, tissue.size_um - margin, pitch_um * np.sqrt(0.75))
    cols = np.arange(margin, tissue.size_um - margin, pitch_um / 2)
    row, col = (a.ravel() for a in np.meshgrid(np.arange(len(rows)), np.arange(len(cols)), indexing="ij"))
    keep = row % 2 == col % 2
    row, col = row[keep], col[keep]
    xy = np.stack([cols[col], rows[row]], axis=1)
    keep = at_points(tissue.inside, xy, BASE_UM) > 0
    return xy[keep], np.stack([row[keep], col[keep]], axis=1)


class Bins(Protocol):
    """Bins of the grid of the truth."""

    @property
    def row(self) -> np.ndarray: ...

    @property
    def col(self) -> np.ndarray: ...


def covered(truth: Bins, xy_um: np.ndarray, radius_um: float) -> sparse.csr_matrix:
    """Return ``(spots, bins)``: the share of each bin of the truth that lies under each spot."""
    corner = np.stack([truth.col, truth.row], axis=1) * TRUTH_UM
    bins = shapely.box(corner[:, 0], corner[:, 1], corner[:, 0] + TRUTH_UM, corner[:, 1] + TRUTH_UM)
    discs = shapely.buffer(shapely.points(xy_um), radius_um, quad_segs=32)
    spot, square = shapely.STRtree(bins).query(discs, predicate="intersects")
    share = shapely.area(shapely.intersection(discs[spot], bins[square])) / TRUTH_UM**2
    return sparse.csr_matrix((share, (spot, square)), shape=(len(xy_um), len(bins)))


def draw_counts(rng: Generator, expected: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Return negative-binomial counts: Poisson counts whose rate varies by gamma noise."""
    shape = 1 / dispersion
    rate = rng.gamma(np.broadcast_to(shape, expected.shape), expected / shape)
    return rng.poisson(rate)
