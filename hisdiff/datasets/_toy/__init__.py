"""A small synthetic tissue with a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff._arguments import checked
from hisdiff._check import positive
from hisdiff._keys import ARRAY_COL, ARRAY_ROW, BIN_UM, INSTANCE_KEY, REGION_KEY, SPATIAL, STEM, TRUTH_TABLE
from hisdiff.datasets._toy._genes import (
    TRUTH_UM,
    Programmes,
    Truth,
    covered,
    draw_counts,
    make_programmes,
    make_truth,
    spot_lattice,
)
from hisdiff.datasets._toy._paint import Stain, paint
from hisdiff.datasets._toy._tissue import CELL_TYPES, make_tissue
from hisdiff.io._build import levels_of, section
from hisdiff.io._scale import check_mpp

if TYPE_CHECKING:
    from spatialdata import SpatialData

PITCH_UM = 100.0
RADIUS_UM = 27.5
GENES = (60, 300)
SMALLEST_UM = 300.0
SIZE_STEP_UM = 20.0
"""A multiple of the pitch of every grid that the tissue is laid out on."""


@overload
def toy(
    seed: int = ..., *, n_sections: None = ..., size_um: float = ..., mpp: float = ..., n_genes: int = ...
) -> SpatialData: ...
@overload
def toy(
    seed: int = ..., *, n_sections: int = ..., size_um: float = ..., mpp: float = ..., n_genes: int = ...
) -> list[SpatialData]: ...
@checked
def toy(
    seed: int = 0, *, n_sections: int | None = None, size_um: float = 1600.0, mpp: float = 0.5, n_genes: int = 120
) -> SpatialData | list[SpatialData]:
    """Make a small synthetic tissue that looks like H&E, with spots, counts and the truth behind them.

    Tumour nests, stroma with fibres, lymphocyte aggregates and fat are placed at random and painted cell by cell. The
    cells express overlapping programmes of genes, given by the first letters of a gene's name: ``TUM`` tumour, ``STR``
    stroma, ``IMM`` immune, ``ADI`` fat, ``PRO`` tumour of high grade (large pale nuclei), ``HKG`` every cell, and
    ``HID``, which follows a hidden field that is not visible in the image. ``TUM``, ``STR`` and ``IMM`` genes partly follow
    hidden fields, so that no method can predict them completely.

    Parameters
    ----------
    seed
        Determines tissue, stain, library size and counts. The genes and their programmes are the same for every seed.
    n_sections
        None for one section, or the length of a list of sections. Stain and library size of the first are the same
        for every seed; the others differ in stain (colour and strength, white level) and library size (0.4 to 1.6 times).
    size_um
        Side of the image, at least 300, rounded to 20. The default has about 180 spots.
    mpp
        Micrometres per pixel of the image.
    n_genes
        60 to 300.

    Returns
    -------
    One section, or a list: image ``toy_image``, spots ``toy`` (55 um wide, 100 um apart, hexagonal), table ``"table"`` of
    counts, labels ``toy_truth`` (bins of 10 um inside the tissue) and table ``"truth"`` with their expected counts at the
    section's library size: the expected count of a spot is the sum over its footprint by area, and the counts are
    negative-binomial around it. ``tables["truth"].obsm["cell_types"]`` has the share of each cell type,
    ``obsm["hidden"]`` the fields that the image does not show, ``uns["toy"]["size_factor"]`` it relative to the first section's, and
    ``var["programme"]`` the programme of each gene. In a list the sections are called ``toy1``, ``toy2``, ...

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> sorted(sdata.tables)
    ['table', 'truth']
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=400)
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed is an integer, not {type(seed).__name__} {seed!r}.")
    if seed < 0:
        raise ValueError(f"seed has to be zero or above, not {seed}.")
    positive(size_um, "size_um")
    check_mpp(mpp, "toy")
    positive(n_genes, "n_genes", integer=True)
    if not GENES[0] <= n_genes <= GENES[1]:
        raise ValueError(f"n_genes is between {GENES[0]} and {GENES[1]}, not {n_genes}.")
    if size_um < SMALLEST_UM:
        raise ValueError(f"size_um is at least {SMALLEST_UM:g}, to hold some spots, not {size_um:g}.")
    programmes = make_programmes(n_genes)
    if n_sections is None:
        return _section("toy", seed, 0, programmes, size_um, mpp)
    positive(n_sections, "n_sections", integer=True)
    return [_section(f"toy{i + 1}", seed, i, programmes, size_um, mpp) for i in range(n_sections)]


def _section(name: str, seed: int, index: int, programmes: Programmes, size_um: float, mpp: float) -> SpatialData:
    # A stream each, so that one part can change without another following.
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    for_tissue, for_stain, for_image, for_truth, for_counts = (np.random.default_rng(stream) for stream in streams)
    size_um = round(size_um / SIZE_STEP_UM) * SIZE_STEP_UM
    tissue = make_tissue(for_tissue, size_um)
    stain, size_factor = Stain(), 1.0
    if index > 0:
        stain, size_factor = stain.shifted(for_stain), float(np.exp(for_stain.uniform(np.log(0.4), np.log(1.6))))
    truth = make_truth(for_truth, tissue, programmes, size_factor)
    xy_um, array = spot_lattice(tissue, PITCH_UM, RADIUS_UM)
    expected = covered(truth, xy_um, RADIUS_UM) @ truth.expected

    counts = ad.AnnData(
        sparse.csr_matrix(draw_counts(for_counts, expected, programmes.dispersion), dtype=np.float32),
        obs=pd.DataFrame(
            {ARRAY_ROW: array[:, 0], ARRAY_COL: array[:, 1]}, index=[f"{name}_{col}x{row}" for row, col in array]
        ),
        var=_var(programmes),
    )
    levels = levels_of(paint(for_image, tissue, mpp, stain))
    sdata = section(name, levels, mpp, counts, xy_um / mpp, radius_um=RADIUS_UM)
    _add_truth(sdata, f"{name}_truth", truth, programmes, mpp, size_factor)
    return sdata


def _var(programmes: Programmes) -> pd.DataFrame:
    return pd.DataFrame({"programme": pd.Categorical(programmes.programme)}, index=programmes.names)


def _add_truth(
    sdata: SpatialData, name: str, truth: Truth, programmes: Programmes, mpp: float, size_factor: float
) -> None:
    from spatialdata.models import Labels2DModel, TableModel
    from spatialdata.transformations import Scale

    instance = np.arange(1, len(truth.row) + 1)
    grid = np.zeros(truth.shape, dtype=np.int32)
    grid[truth.row, truth.col] = instance
    to_um = Scale([TRUTH_UM, TRUTH_UM], axes=("x", "y"))
    to_px = Scale([TRUTH_UM / mpp, TRUTH_UM / mpp], axes=("x", "y"))
    sdata.labels[name] = Labels2DModel.parse(grid, dims=("y", "x"), transformations={"global": to_px, "um": to_um})
    index = [f"{name}_{col}x{row}" for row, col in zip(truth.row, truth.col)]
    obs = pd.DataFrame({ARRAY_ROW: truth.row, ARRAY_COL: truth.col, INSTANCE_KEY: instance}, index=index)
    obs[REGION_KEY] = pd.Categorical([name] * len(obs))
    table = ad.AnnData(truth.expected, obs=obs, var=_var(programmes))
    table.obsm[SPATIAL] = (np.stack([truth.col, truth.row], axis=1) + 0.5) * TRUTH_UM / mpp
    table.obsm["cell_types"] = pd.DataFrame(truth.composition, index=index, columns=list(CELL_TYPES))
    table.obsm["hidden"] = truth.hidden
    table.uns["toy"] = {"size_factor": size_factor}
    table.uns[STEM] = {BIN_UM: TRUTH_UM}
    sdata.tables[TRUTH_TABLE] = TableModel.parse(table, region=name, region_key=REGION_KEY, instance_key=INSTANCE_KEY)
