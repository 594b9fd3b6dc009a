"""The parts of folders that Space Ranger writes: counts, positions, scale factors and images, each named when it fails."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hisdiff._check import listing
from hisdiff._keys import ARRAY_COL, ARRAY_ROW, IN_TISSUE, SPATIAL
from hisdiff._log import logger
from hisdiff._sdata._counts import read_counts
from hisdiff.io._build import without_noise
from hisdiff.io._features import genes_of
from hisdiff.io._mtx import read_mtx
from hisdiff.io._orient import check_orientation, fits_size, turned
from hisdiff.io._raster import decode, open_raster
from hisdiff.io._spots import check_finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anndata import AnnData

    from hisdiff._json import Plain
    from hisdiff.io._raster import Raster

COUNTS = "filtered_feature_bc_matrix.h5"
MATRIX = "filtered_feature_bc_matrix"
SCALE_FACTORS = "scalefactors_json.json"
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
WITHOUT_HEADER = "tissue_positions_list"
"""Positions of versions before 2, which have no header."""
COLUMNS = [IN_TISSUE, ARRAY_ROW, ARRAY_COL, "pxl_row_in_fullres", "pxl_col_in_fullres"]
REDUCED = (("tissue_hires_image", "tissue_hires_scalef"), ("tissue_lowres_image", "tissue_lowres_scalef"))
"""Reduced images, finest first, and their scale factors."""
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PACKED = ".gz"
"""Files come packed from GEO."""


def folder_of(path: str | Path) -> Path:
    """Return a folder that exists."""
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {path}.")
    return path


def name_of(path: Path) -> str:
    """Return what a run is called: its folder, which is above the one that is always called outs."""
    path = path.resolve()
    return path.parent.name if path.name == "outs" else path.name


def contents(folder: Path) -> str:
    """Write what a folder holds, for messages."""
    return (
        listing(sorted(file.name for file in folder.iterdir())) if folder.is_dir() else "nothing, as it does not exist"
    )


def check_arguments(function: str, unknown: Mapping[str, Any], hints: Mapping[str, str]) -> None:
    """Raise where an argument of spatialdata-io's reader is passed that this reader has no use for."""
    for name in unknown:
        raise TypeError(
            f"{function}() takes no argument {name!r}. {hints.get(name, 'See its documentation for those it takes.')}"
        )


# Counts


def counts_file_of(path: Path, given: str | Path | None, name: str = COUNTS) -> Path:
    """Return the file or folder of counts: the one that is named, else the only one there is."""
    if given is not None:
        file = path / given
        if not file.exists():
            raise FileNotFoundError(f"{path} has no {str(given)!r}; it has {contents(path)}.")
        return file
    found = sorted(path.glob(f"*{name}")) or sorted(f for f in path.glob(f"*{MATRIX}") if f.is_dir())
    found = found or sorted(path.glob("*matrix.mtx*"))
    if not found:
        raise FileNotFoundError(
            f"{path} has no {name!r} and no folder {MATRIX!r}; it has {contents(path)}. Other counts are named with counts_file=."
        )
    if len(found) > 1 and path / name not in found:
        raise ValueError(
            f"{path} has several counts files, {listing(f.name for f in found)}; choose one with counts_file=."
        )
    return path / name if path / name in found else found[0]


def named(folder: Path, names: Iterable[str], prefix: str, choose: str) -> Path | None:
    """Return the file of one of the usual names, packed or not, with or without the prefix of a sample; None where there is none.

    Parameters
    ----------
    names
        The first one that is there counts.
    prefix
        Of the counts file: a folder may hold several samples.
    choose
        How one of several is chosen, for the error.

    Raises
    ------
    ValueError
        If there are several, none of them of that prefix.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
        found = {
            file: file.name.removesuffix(PACKED).removesuffix(name).rstrip("_.-")
            for file in sorted([*folder.glob(f"*{name}"), *folder.glob(f"*{name}{PACKED}")])
        }
        own = [file for file, of in found.items() if of == prefix]
        own = own or [file for file, of in found.items() if of.startswith(prefix) or prefix.startswith(of)]
        if found and not own:
            raise ValueError(
                f"{folder} has {listing(f.name for f in found)}, of another sample than {prefix!r}; choose one with {choose}."
            )
        if len(own) > 1:
            raise ValueError(
                f"{folder} has several files {name}, {listing(f.name for f in own)}; choose one with {choose}."
            )
        if own:
            return own[0]
    return None


def prefix_of(file: Path) -> str:
    """Return what stands before the usual name of a counts file."""
    for usual in (COUNTS, MATRIX, "matrix.mtx.gz", "matrix.mtx"):
        if file.name.endswith(usual):
            return file.name.removesuffix(usual).rstrip("_.-")
    return ""


def read_matrix(file: Path, what: str, genome: str | None = None) -> AnnData:
    """Return raw counts of gene expression from a 10x h5 file, a folder of ``matrix.mtx``, or such a file itself."""
    import scanpy as sc

    try:
        with without_noise():
            if file.is_dir():
                table = read_mtx(file)
            elif ".mtx" in file.name:
                table = read_mtx(file.parent, file.name.partition("matrix.mtx")[0])
            else:
                table = sc.read_10x_h5(file, gex_only=False)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, EOFError, IndexError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as 10x counts: {error}. Is the file complete?") from error
    if not table.obs_names.is_unique:
        repeated = table.obs_names[table.obs_names.duplicated()]
        raise ValueError(f"{file} has {len(repeated)} barcodes more than once, such as {listing(repeated, 3)}.")
    table = genes_of(table, what, genome)
    table.X = read_counts(table, None, what=str(file), argument=None)
    return table


# Positions


def positions_file_of(folder: Path, given: Path | None = None, prefix: str = "") -> Path:
    """Return the file of positions: the one that is given, else that of the sample with the prefix of the counts."""
    if given is not None:
        if not given.exists():
            raise FileNotFoundError(f"There is no {given}.")
        return given
    file = named(folder, POSITIONS, prefix, "tissue_positions_file=")
    if file is None:
        raise FileNotFoundError(
            f"{folder} has no tissue_positions.csv, tissue_positions_list.csv or tissue_positions.parquet; it has {contents(folder)}."
        )
    return file


def read_positions(file: Path) -> pd.DataFrame:
    """Return the positions of barcodes: ``in_tissue``, array and full-resolution pixels."""
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file, header=None, dtype=str, sep=None, engine="python", encoding="utf-8-sig")
    except (OSError, ValueError, EOFError, csv.Error, zlib.error) as error:
        raise ValueError(f"{file} cannot be read: {error}. Is the file complete?") from error
    if file.suffix != ".parquet":
        table = _with_header(table, file)
    missing = [column for column in ("barcode", *COLUMNS) if column not in table]
    if missing:
        raise ValueError(f"{file} lacks the columns {listing(missing)}; it has {listing(table.columns)}.")
    table = table.set_index("barcode")
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise ValueError(f"{file} has {len(repeated)} barcodes more than once, such as {listing(repeated, 3)}.")
    return table[COLUMNS]


def _with_header(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    header = table.iloc[0].astype(str).str.strip().str.lower()
    if IN_TISSUE in header.tolist():
        table.columns = header
        table = table.iloc[1:]
    elif WITHOUT_HEADER not in file.name:
        raise ValueError(
            f"{file} has no header, barcode,{','.join(COLUMNS)}; only {WITHOUT_HEADER}.csv of Space Ranger 1 is written without one. Rename it "
            "if it is that."
        )
    elif table.shape[1] != 1 + len(COLUMNS):
        raise ValueError(
            f"{file} has {table.shape[1]} columns; {1 + len(COLUMNS)} are expected: barcode, {', '.join(COLUMNS)}."
        )
    else:
        table.columns = ["barcode", *COLUMNS]
    flags = table[IN_TISSUE].replace({"True": "1", "TRUE": "1", "False": "0", "FALSE": "0"})
    try:
        return table.assign(**{IN_TISSUE: flags}).astype(dict.fromkeys(COLUMNS, float))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file} has values that are not numbers: {error}.") from error


def place(table: AnnData, positions: pd.DataFrame, file: Path, what: str) -> AnnData:
    """Return the spots that have a position, in full-resolution pixels in ``obsm["spatial"]``."""
    known = positions.reindex(table.obs_names)
    xy_px = known[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)
    there = np.isfinite(xy_px).all(axis=1)
    if not there.any():
        raise ValueError(
            f"No barcode of the counts of {what} has a position in {file}: the counts have {listing(table.obs_names, 3)}, the positions "
            f"{listing(positions.index, 3)}. Do they belong together?"
        )
    if not there.all():
        logger.warning("%s: left out %d spots without a position.", what, (~there).sum())
        table, known, xy_px = table[there].copy(), known[there], xy_px[there]
    for column in COLUMNS[:3]:
        values = known[column].to_numpy(dtype=float)
        table.obs[column] = values.astype(np.int64) if np.isfinite(values).all() else values
    check_finite(xy_px, f"{what} ({file})")
    table.obsm[SPATIAL] = xy_px
    return table


# Scale and images


def read_json(file: Path, what: str = "the scale of the section") -> Plain:
    """Return a JSON file that holds a mapping."""
    if not file.exists():
        raise FileNotFoundError(f"There is no {file}, which has {what}; the folder has {contents(file.parent)}.")
    try:
        text = gzip.decompress(file.read_bytes()) if file.suffix == PACKED else file.read_bytes()
        values = json.loads(text.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is not valid JSON: {error}. Is the file complete?") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no mapping of names to values but a {type(values).__name__}.")
    return values


def number(values: Mapping[str, Any], key: str, file: Path) -> float:
    """Return a number above zero of a JSON file."""
    try:
        value = float(values[key])
    except KeyError:
        raise ValueError(f"{file} lacks {key!r}; it has {listing(values)}.") from None
    except (TypeError, ValueError):
        raise ValueError(f"{file} has {values[key]!r} for {key!r}; a number is needed.") from None
    if not np.isfinite(value) or value <= 0:
        raise ValueError(f"{file} has {value:g} for {key!r}; a number above zero is needed.")
    return value


def choose_image(
    fullres: Path | None,
    folders: Iterable[Path],
    factors: Mapping[str, Any],
    factors_file: Path,
    orient: str | None,
    prefix: str = "",
) -> tuple[Raster, float]:
    """Return the image and how many full-resolution pixels one of its pixels is wide.

    Parameters
    ----------
    fullres
        The full-resolution image, which is compared with the reduced one in ``folders``; None for the finest reduced one.
    prefix
        Of the counts file, where a folder holds several samples.
    """
    folders = list(folders)
    reduced = _reduced(folders, prefix)
    if fullres is not None:
        raster = turned(open_raster(fullres), orient)
        if reduced is not None:
            file, key = reduced
            _check_same(raster, file, number(factors, key, factors_file), fullres)
        return raster, 1.0
    if reduced is None:
        raise FileNotFoundError(
            f"{folders[0]} has neither {REDUCED[0][0]}.png nor {REDUCED[1][0]}.png, and no full-resolution image is given; pass "
            "fullres_image_file=, the image that Space Ranger was run with."
        )
    file, key = reduced
    scale = number(factors, key, factors_file)
    logger.info(
        "No full-resolution image is given, so %s is used, at 1 / %.3g of the resolution; pass fullres_image_file= to see "
        "single cells.",
        file.name,
        1 / scale,
    )
    return turned(open_raster(file), orient), 1 / scale


def _reduced(folders: Iterable[Path], prefix: str) -> tuple[Path, str] | None:
    places = [place for folder in folders for place in (folder, folder / "spatial")]
    for stem, key in REDUCED:
        for place in places:
            found = named(place, [f"{stem}{suffix}" for suffix in IMAGES], prefix, "counts_file=, or name one alike")
            if found is not None:
                return found, key
    return None


def _check_same(raster: Raster, reduced: Path, scale: float, path: Path) -> None:
    reference = np.moveaxis(decode(reduced), 0, -1)
    if not fits_size(raster, reference, scale):
        height, width = (side / scale for side in reference.shape[:2])
        raise ValueError(
            f"{path} is {raster.size[1]} x {raster.size[0]} px, but by the scale factors the full-resolution image is "
            f"about {width:.0f} x {height:.0f}. It is a reduced image, or that of another section."
        )
    check_orientation(raster, reference, str(path))


def given_image(path: Path, fullres: str | Path | None) -> Path | None:
    """Return the image that is given, by itself or by its name in the folder."""
    if fullres is None:
        return None
    file = Path(fullres).expanduser()
    return path / file if not file.exists() and (path / file).exists() else file
