"""The public layout of the HER2-positive breast tumour sections (legacy Spatial Transcriptomics arrays)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from hisdiff._arguments import checked
from hisdiff._check import listing, present
from hisdiff._geometry import array_mpp
from hisdiff._keys import ARRAY_COL, ARRAY_ROW
from hisdiff._log import logger
from hisdiff._sdata._counts import read_counts
from hisdiff.io._build import section as build_section
from hisdiff.io._features import genes_of, unique_genes
from hisdiff.io._orient import turned
from hisdiff.io._raster import open_raster
from hisdiff.io._scale import Source, settle_mpp

if TYPE_CHECKING:
    from spatialdata import SpatialData

PITCH_UM = 200.0
RADIUS_UM = 50.0
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


@checked
def her2st(path: str | Path, section: str, *, mpp: float | None = None, orient: str | None = None) -> SpatialData:
    """Read one section of the HER2-positive breast tumour study, in that study's own layout.

    Parameters
    ----------
    path
        Folder that holds ``ST-cnts/``, ``ST-imgs/`` and ``ST-spotfiles/``.
    section
        Name of a section, such as ``"C2"``: a letter for the patient and a number.
    mpp
        Micrometres per pixel; None for that of the array's pitch. A value that the spots contradict is an error.
    orient
        Transformation of the image; see :func:`visium`. The folder has no second image to compare it with.

    Returns
    -------
    An object with the image ``{section}_image`` (uint8, multi-scale), spots ``{section}`` of 100 um, and the table
    ``"table"`` of raw counts. ``obs_names`` are ``{section}_{x}x{y}``, ``obs["array_col"]`` is x and
    ``obs["array_row"]`` is y on the capture array. Micrometres per pixel come from the array's pitch of 200 um by least
    squares. Spots outside the tissue, and those with counts but no position or the reverse, are left out.

    Raises
    ------
    FileNotFoundError
        If a folder or the image is not there.
    KeyError
        If there is no such section.
    ValueError
        If a file cannot be read, ``mpp`` contradicts the array, or many spots lie off the image.

    References
    ----------
    Andersson et al. (2021), Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions, Nature Communications 12, 6012.

    Examples
    --------
    >>> import hisdiff as hd
    >>> sections = [hd.io.her2st("her2st", name) for name in ("C2", "C3")]  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    for folder in ("ST-cnts", "ST-imgs", "ST-spotfiles"):
        if not (path / folder).is_dir():
            raise FileNotFoundError(
                f"{path} has no folder {folder!r}; the layout is ST-cnts/, ST-imgs/ and ST-spotfiles/."
            )
    counts_of = {file.name.split(".")[0]: file for file in sorted((path / "ST-cnts").glob("*.tsv*"))}
    spots_of = {file.name.split("_")[0]: file for file in sorted((path / "ST-spotfiles").glob("*_selection.tsv*"))}
    present(section, sorted(counts_of.keys() & spots_of.keys()), f"section in {path}:")

    spots = _read_spots(spots_of[section])
    counts = _read_counts(counts_of[section])
    shared = counts.obs_names[counts.obs_names.isin(spots.index)]
    left_out = (counts.n_obs - len(shared), len(spots) - len(shared))
    if any(left_out):
        reasons = zip(left_out, ("without a position in tissue", "without counts"))
        logger.info("%s: left out spots: %s", section, ", ".join(f"{n} {reason}" for n, reason in reasons if n))
    if len(shared) == 0:
        raise ValueError(f"{counts_of[section]} and {spots_of[section]} have no spot in common.")
    spots, counts = spots.loc[shared], counts[shared].copy()
    counts.obs_names = [f"{section}_{spot}" for spot in shared]
    counts.obs[ARRAY_ROW] = spots["y"].to_numpy()
    counts.obs[ARRAY_COL] = spots["x"].to_numpy()

    xy_px = spots[["pixel_x", "pixel_y"]].to_numpy()
    array = Source(
        "the pitch of the array (200 um)",
        array_mpp(xy_px, spots[["new_x", "new_y"]].to_numpy(), PITCH_UM),
        of_spots=True,
    )
    raster = turned(open_raster(_image_file(path / "ST-imgs" / section[0] / section)), orient)
    mpp = settle_mpp([array, *raster.sources], f"section {section!r}", mpp)
    return build_section(section, raster.levels, mpp, genes_of(counts, section), xy_px, radius_um=RADIUS_UM)


def _read_spots(file: Path) -> pd.DataFrame:
    """Return the spots under tissue, named by their array position."""
    spots = pd.read_csv(file, sep="\t")
    needed = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"]
    missing = [column for column in needed if column not in spots]
    if missing:
        raise ValueError(f"{file} lacks the columns {listing(missing)}; it has {listing(spots.columns)}.")
    if "selected" in spots:
        spots = spots[spots["selected"] != 0]
    return spots.set_index(spots["x"].astype(str) + "x" + spots["y"].astype(str))


def _read_counts(file: Path) -> ad.AnnData:
    # Line by line: pandas takes ten times as long for so many columns, and renames repeated genes without a word.
    try:
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be unpacked: {error}. Is the file complete?") from error
    header, *lines = text.splitlines()
    genes = header.split("\t")[1:]
    spots, rows = [], []
    for line in lines:
        spot, *values = line.split("\t")
        if len(values) != len(genes):
            raise ValueError(f"{file} has {len(values)} counts for spot {spot!r} but {len(genes)} genes.")
        spots.append(spot)
        rows.append(sparse.csr_matrix(np.array(values, dtype=np.float32)))
    var = pd.DataFrame(index=unique_genes(genes, str(file)))
    counts = ad.AnnData(sparse.vstack(rows, format="csr"), obs=pd.DataFrame(index=spots), var=var)
    counts.X = read_counts(counts, None, what=str(file))
    return counts


def _image_file(folder: Path) -> Path:
    images = sorted(file for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(images) != 1:
        raise FileNotFoundError(
            f"{folder} has to hold one image, but there are {len(images)}: {listing(f.name for f in images)}."
        )
    return images[0]
