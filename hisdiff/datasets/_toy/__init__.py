"""A small synthetic tissue with a known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff._arguments import checked
from hisdiff._check import positive, seed_of
from hisdiff._keys import ARRAY_COL, ARRAY_ROW, BIN_UM, INSTANCE_KEY, REGION_KEY, SPATIAL, STEM, TRUTH_TABLE
from hisdiff._sdata._read import open_sections
from hisdiff._section import needed
from hisdiff.datasets._toy._genes import (
    TRUTH_UM,
    Programmes,
    Truth,
    cell_amounts,
    covered,
    draw_counts,
    make_programmes,
    make_truth,
    spot_lattice,
)
from hisdiff.datasets._toy._paint import Stain, paint
from hisdiff.datasets._toy._states import STATES, Law
from hisdiff.datasets._toy._tissue import CELL_TYPES, Tissue, enlarge, make_tissue
from hisdiff.io._build import levels_of, section
from hisdiff.io._scale import check_mpp

if TYPE_CHECKING:
    from spatialdata import SpatialData

PITCH_UM = 100.0
RADIUS_UM = 27.5
GENES = (60, 300)
SMALLEST_UM = 300.0
SMALLEST_WITH_STATES_UM = 800.0
SIZE_STEP_UM = 20.0
"""A multiple of the pitch of every grid that the tissue is laid out on."""


@overload
def toy(
    seed: int = ...,
    *,
    n_sections: None = ...,
    size_um: float = ...,
    mpp: float = ...,
    n_genes: int = ...,
    states: bool = ...,
) -> SpatialData: ...
@overload
def toy(
    seed: int = ...,
    *,
    n_sections: int = ...,
    size_um: float = ...,
    mpp: float = ...,
    n_genes: int = ...,
    states: bool = ...,
) -> list[SpatialData]: ...
@checked
def toy(
    seed: int = 0,
    *,
    n_sections: int | None = None,
    size_um: float = 1600.0,
    mpp: float = 0.5,
    n_genes: int = 120,
    states: bool = False,
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
    states
        Whether cells are also in states that differ from region to region and that the image does not show, so that the law of
        expression given the image is far from normal: two subclones of the tumour (``TUM`` and ``PRO`` genes), immune cells
        that are active or not (``IMM``), a gradient that stroma follows (``STR``). They take the place of the hidden fields, but for
        that of the ``HID`` genes. Needs a ``size_um`` of at least 800. :func:`hisdiff.datasets.toy_draws` draws from the law.

    Returns
    -------
    One section, or a list: image ``toy_image``, spots ``toy`` (55 um wide, 100 um apart, hexagonal), table ``"table"`` of
    counts, labels ``toy_truth`` (bins of 10 um inside the tissue) and table ``"truth"`` with their expected counts at the
    section's library size: the expected count of a spot is the sum over its footprint by area, and the counts are
    negative-binomial around it. ``tables["truth"].obsm["cell_types"]`` has the share of each cell type,
    ``obsm["hidden"]`` the fields that the image does not show, ``uns["toy"]["size_factor"]`` it relative to the first section's, and
    ``var["programme"]`` the programme of each gene; with states, ``obsm["states"]`` has those of the section, ``obsm["cells"]``
    the number of cells of each type and ``obs["grade"]`` the grade of the tumour. In a list the sections are called ``toy1``, ``toy2``, ...

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=400)
    >>> sorted(sdata.tables)
    ['table', 'truth']
    >>> train, test = hd.datasets.toy(n_sections=2, size_um=400)

    See Also
    --------
    toy_draws
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
    if states and size_um < SMALLEST_WITH_STATES_UM:
        raise ValueError(
            f"With states=True size_um is at least {SMALLEST_WITH_STATES_UM:g}, to hold regions in different states, not {size_um:g}."
        )
    programmes = make_programmes(n_genes)
    if n_sections is None:
        return _section("toy", seed, 0, programmes, size_um, mpp, states)
    positive(n_sections, "n_sections", integer=True)
    return [_section(f"toy{i + 1}", seed, i, programmes, size_um, mpp, states) for i in range(n_sections)]


@checked
def toy_draws(sdata: SpatialData, n_draws: int = 16, *, rng: int | np.random.Generator = 0) -> np.ndarray:
    """Draw counts of a toy tissue with states from their law given the image: no prediction can have a better score.

    The law is given all that the image can show: how many cells of each type lie where, the grade of the tumour, and the library
    size of the section. Random are the states, the hidden field, and the noise of counting.

    Parameters
    ----------
    sdata
        Of :func:`hisdiff.datasets.toy` with ``states=True``.
    n_draws
        Number of draws.
    rng
        Seed of the draws.

    Returns
    -------
    float32 ``(n_draws, n_spots, n_genes)``, in the order of ``tables["table"]``. States are shared by all spots of a draw.

    Raises
    ------
    ValueError
        If the tissue is without states.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sdata = hd.datasets.toy(size_um=800, states=True)
    >>> hd.datasets.toy_draws(sdata, 2).shape == (2, *sdata.tables["table"].shape)
    True
    """
    table = sdata.tables.get(TRUTH_TABLE)
    if table is None or "states" not in table.obsm:
        raise ValueError(
            f"The law of expression is known of tissue made by hd.datasets.toy(states=True); table {TRUTH_TABLE!r} of this object "
            f"{'has no states' if table is not None else 'is missing'}."
        )
    (bound,) = open_sections(sdata)
    spots, genes = needed(bound.section.spots), table.n_vars
    row, col = (table.obs[name].to_numpy() for name in (ARRAY_ROW, ARRAY_COL))
    settings = table.uns["toy"]
    law = Law(
        (int(settings["n_bins"]),) * 2, row, col, table.obsm["cells"].to_numpy(), table.obs["grade"].to_numpy(),
        make_programmes(genes), float(settings["size_factor"]),
    )  # fmt: skip
    generator = np.random.default_rng(seed_of(rng))
    share = covered(law, spots.xy_um, float(np.median(spots.radius_um)))
    draws = np.empty((n_draws, len(spots), genes), dtype=np.float32)
    for draw in draws:
        draw[:] = draw_counts(generator, share @ law.draw(generator)[2], law.programmes.dispersion)
    return draws


def _section(
    name: str, seed: int, index: int, programmes: Programmes, size_um: float, mpp: float, states: bool
) -> SpatialData:
    # A stream each, so that one part can change without another following.
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    for_tissue, for_stain, for_image, for_truth, for_counts = (np.random.default_rng(stream) for stream in streams)
    size_um = round(size_um / SIZE_STEP_UM) * SIZE_STEP_UM
    tissue = make_tissue(for_tissue, size_um)
    stain, size_factor = Stain(), 1.0
    if index > 0:
        stain, size_factor = stain.shifted(for_stain), float(np.exp(for_stain.uniform(np.log(0.4), np.log(1.6))))
    law = _law(tissue, programmes, size_factor) if states else None
    truth = make_truth(for_truth, tissue, programmes, size_factor) if law is None else law.truth(for_truth)
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
    if law is not None:
        _add_law(sdata, truth, law)
    return sdata


def _law(tissue: Tissue, programmes: Programmes, size_factor: float) -> Law:
    n = round(tissue.size_um / TRUTH_UM)
    row, col = np.nonzero(enlarge(tissue.inside, (n, n)) > 0)
    cells, grade = cell_amounts(tissue, n)[row, col], enlarge(tissue.grade, (n, n))[row, col]
    return Law((n, n), row, col, cells, grade, programmes, size_factor)


def _add_law(sdata: SpatialData, truth: Truth, law: Law) -> None:
    """Note in the table of the truth what its law is made of."""
    table = sdata.tables[TRUTH_TABLE]
    table.obsm["states"] = pd.DataFrame(truth.states, index=table.obs_names, columns=list(STATES))
    table.obsm["cells"] = pd.DataFrame(law.cells, index=table.obs_names, columns=list(CELL_TYPES))
    table.obs["grade"] = law.grade
    table.uns["toy"] = {**table.uns["toy"], "n_bins": law.shape[0]}


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
