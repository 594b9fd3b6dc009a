"""Small files in the layouts that the readers know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import folders
import numpy as np
import pandas as pd
import pytest
import tifffile


@pytest.fixture
def pixels() -> np.ndarray:
    """An image (y, x, 3) on which every place looks different from its neighbours, 300 x 400."""
    y, x = np.mgrid[:300, :400]
    return np.stack([x * 255 // 400, y * 255 // 300, (x + y) * 255 // 700], axis=-1).astype(np.uint8)


@pytest.fixture
def write_10x() -> Callable[..., None]:
    """Write counts as the h5 file of 10x Genomics."""
    return folders.write_10x


@pytest.fixture
def spots() -> ad.AnnData:
    """Visium spots at 0.5 um per pixel: 100 um apart, on an image of 400 x 300 times 2.5 um."""
    row, col = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(12), indexing="ij"))
    keep = row % 2 == col % 2
    row, col = row[keep], col[keep]
    adata = ad.AnnData(
        np.random.default_rng(0).poisson(3, (len(row), 5)).astype(np.float32),
        obs=pd.DataFrame({"array_row": row, "array_col": col}, index=[f"spot{i}" for i in range(len(row))]),
        var=pd.DataFrame(index=list("ABCDE")),
    )
    adata.obsm["spatial"] = np.stack([col * 50, row * 50 * np.sqrt(3)], axis=1) / 0.5 + 150
    return adata


@pytest.fixture
def hest_folder(tmp_path: Path, spots: ad.AnnData) -> Path:
    """A folder in the layout of HEST-1k with one sample, SPA148, at 0.5 um per pixel."""
    folder = tmp_path / "hest"
    for part in ("st", "wsis", "metadata"):
        (folder / part).mkdir(parents=True)
    scale = {"scalefactors": {"spot_diameter_fullres": 200.0, "tissue_downscaled_fullres_scalef": 0.05}}
    spots.uns["spatial"] = {"ST": {**scale, "images": {"downscaled_fullres": np.zeros((65, 75, 3), np.uint8)}}}
    spots.write_h5ad(folder / "st" / "SPA148.h5ad")
    full = np.full((1300, 1500, 3), 210, np.uint8)
    with tifffile.TiffWriter(folder / "wsis" / "SPA148.tif") as tif:
        tif.write(full, subifds=1, tile=(256, 256), photometric="rgb", compression="zlib")
        tif.write(full[::2, ::2], subfiletype=1, tile=(256, 256), photometric="rgb", compression="zlib")
    metadata = {
        "id": "SPA148", "st_technology": "Spatial Transcriptomics", "pixel_size_um_estimated": 0.5,
        "pixel_size_um_embedded": 0.46, "spot_diameter": 100.0, "inter_spot_dist": 200.0, "species": "Homo sapiens",
    }  # fmt: skip
    (folder / "metadata" / "SPA148.json").write_text(json.dumps(metadata))
    return folder
