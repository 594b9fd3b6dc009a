"""Folders of ``matrix.mtx``: of Cell Ranger, STARsolo or GEO, packed or not, by whatever prefix."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd
from scipy.io import mmread
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from pathlib import Path

_FEATURES = ("features.tsv", "genes.tsv")
_COLUMNS = ("gene_ids", "symbols", "feature_types")


def read_mtx(folder: Path, prefix: str = "") -> ad.AnnData:
    """Return barcodes x features; features go by their symbols, where the file has them beside ids."""
    matrix = csr_matrix(mmread(_part(folder, prefix, "matrix.mtx")).T)
    features = _lines(_part(folder, prefix, *_FEATURES)).iloc[:, : len(_COLUMNS)]
    features.columns = _COLUMNS[: features.shape[1]]
    barcodes = _lines(_part(folder, prefix, "barcodes.tsv"))[0]
    if matrix.shape != (len(barcodes), len(features)):
        raise ValueError(
            f"the matrix has {matrix.shape[0]} barcodes and {matrix.shape[1]} features, the lists beside it have {len(barcodes)} and "
            f"{len(features)}"
        )
    names = features["symbols" if "symbols" in features else "gene_ids"].to_numpy()
    var = features.drop(columns="symbols", errors="ignore").set_index(pd.Index(names))
    return ad.AnnData(matrix, obs=pd.DataFrame(index=barcodes.to_numpy()), var=var)


def _part(folder: Path, prefix: str, *names: str) -> Path:
    for name in names:
        for file in (folder / f"{prefix}{name}.gz", folder / f"{prefix}{name}"):
            if file.exists():
                return file
    there = sorted(file.name for file in folder.iterdir())
    raise FileNotFoundError(f"{folder} has no {prefix}{names[0]} and no {prefix}{names[0]}.gz; it has {there[:10]}.")


def _lines(file: Path) -> pd.DataFrame:
    return pd.read_csv(
        file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding="utf-8-sig"
    )
