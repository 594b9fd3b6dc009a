"""Folders in the layouts of Space Ranger and Xenium, written from sections of the toy tissue."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import spatialdata as sd
import tifffile
import zarr
from PIL import Image
from scipy import sparse
from scipy.spatial import cKDTree

NAMES = {"TUM05": "ERBB2", "IMM03": "CD74"}
"""Genes of the toy tissue that bear the names of the pages' examples."""
HIRES = 0.25


def write_10x(path: Path, counts: np.ndarray, barcodes: list[str], genes: list[str]) -> None:
    """Write counts as the h5 file of 10x Genomics."""
    matrix = sparse.csr_matrix(counts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data.astype(np.int32), matrix.indices, matrix.indptr
        group["shape"] = np.array([len(genes), len(barcodes)])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(genes))], dtype="S")
        features["name"] = np.array(genes, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(genes), dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(genes), dtype="S")
        file.attrs["library_ids"] = np.array(["library"], dtype="S")


def genes_of(sdata: sd.SpatialData) -> list[str]:
    """Return the genes of a toy section, of which two have the names of the examples."""
    return [NAMES.get(gene, gene) for gene in sdata.tables["table"].var_names]


def write_slide(sdata: sd.SpatialData, path: Path) -> np.ndarray:
    """Write the image as a tiled TIFF that states its 0.5 um per pixel, and return its pixels."""
    (pyramid,) = sdata.images.values()
    pixels = sd.get_pyramid_levels(pyramid, n=0).transpose("y", "x", "c").to_numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(256, 256),
        compression="zlib",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return pixels


def _write_space_ranger(
    folder: Path, pixels: np.ndarray, counts: np.ndarray, positions: pd.DataFrame, genes: list[str], factors: dict
) -> None:
    write_10x(folder / "filtered_feature_bc_matrix.h5", counts, list(positions["barcode"]), genes)
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    size = [round(side * HIRES) for side in pixels.shape[1::-1]]
    hires = Image.fromarray(pixels).resize(size)
    hires.save(spatial / "tissue_hires_image.png")
    hires.resize([side // 4 for side in size]).save(spatial / "tissue_lowres_image.png")
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": HIRES / 4}
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors | scales))


def visium(sdata: sd.SpatialData, folder: Path) -> None:
    """Write the spots as a folder of Visium, and the slide beside it."""
    pixels, table = write_slide(sdata, folder.parent / "slide.tif"), sdata.tables["table"]
    col_row = table.obsm["spatial"]
    positions = pd.DataFrame(
        {
            "barcode": table.obs_names,
            "in_tissue": 1,
            "array_row": table.obs["array_row"].to_numpy(),
            "array_col": table.obs["array_col"].to_numpy(),
            "pxl_row_in_fullres": col_row[:, 1],
            "pxl_col_in_fullres": col_row[:, 0],
        }
    )
    factors = {"spot_diameter_fullres": 130.0, "fiducial_diameter_fullres": 210.0}
    _write_space_ranger(folder, pixels, table.X, positions, genes_of(sdata), factors)
    positions.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)


def _at(sdata: sd.SpatialData, xy_px: np.ndarray, area_um2: float) -> np.ndarray:
    """Draw the counts of small locations from the truth nearest to them."""
    truth = sdata.tables["truth"]
    expected = np.asarray(truth.X)[cKDTree(truth.obsm["spatial"]).query(xy_px)[1]] * (area_um2 / 100)
    return np.random.default_rng(0).poisson(expected)


def visium_hd(sdata: sd.SpatialData, folder: Path, bin_um: int = 16, mpp: float = 0.5) -> None:
    """Write a square of bins inside the tissue as a folder of Visium HD, with the slide where Space Ranger leaves it."""
    pixels = write_slide(sdata, folder / "microscope_image" / "slide.tif")
    side = bin_um / mpp
    row, col = (a.ravel() for a in np.indices([int(n // side) for n in pixels.shape[:2]]))
    xy = (np.stack([col, row], axis=1) + 0.5) * side
    tissue = sdata.tables["truth"].obsm["spatial"]
    inside = cKDTree(tissue).query(xy)[0] < side
    inside &= (np.abs(xy - tissue.mean(axis=0)) < 7 * side).all(axis=1)
    row, col, xy = row[inside], col[inside], xy[inside]
    name = f"{bin_um:03d}um"
    barcodes = [f"s_{name}_{i:05d}_{j:05d}-1" for i, j in zip(row, col)]
    positions = pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": 1,
            "array_row": row,
            "array_col": col,
            "pxl_row_in_fullres": xy[:, 1],
            "pxl_col_in_fullres": xy[:, 0],
        }
    )
    factors = {"spot_diameter_fullres": side, "bin_size_um": float(bin_um), "microns_per_pixel": mpp}
    bins = folder / "binned_outputs" / f"square_{name}"
    counts = _at(sdata, xy, bin_um**2)
    _write_space_ranger(bins, pixels, counts, positions, genes_of(sdata), factors | {"regist_target_img_scalef": 0.1})
    positions.to_parquet(bins / "spatial" / "tissue_positions.parquet")
    with h5py.File(folder / "feature_slice.h5", "w") as file:
        layout = json.dumps({"file_format": "1.0", "transform": np.eye(3).ravel().tolist()})
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})


def xenium(sdata: sd.SpatialData, folder: Path, n_cells: int = 120, mpp: float = 0.5) -> None:
    """Write cells at random places of the tissue as a folder of Xenium, with the slide as its H&E image."""
    rng, pixel_um = np.random.default_rng(0), 0.2125
    pixels = write_slide(sdata, folder / "section_he_image.ome.tif")
    tissue = sdata.tables["truth"].obsm["spatial"]
    px = tissue[rng.choice(len(tissue), n_cells, replace=False)]
    px = np.clip(px, 20, np.array(pixels.shape[1::-1]) - 20)
    um = px * mpp
    cells = [f"cell{i:04d}" for i in range(n_cells)]
    write_10x(folder / "cell_feature_matrix.h5", _at(sdata, px, 100.0), cells, genes_of(sdata))
    pd.DataFrame(
        {"cell_id": cells, "x_centroid": um[:, 0], "y_centroid": um[:, 1], "cell_area": 100.0, "nucleus_area": 40.0}
    ).to_parquet(folder / "cells.parquet")
    corners = np.array([[-5, -5], [5, -5], [5, 5], [-5, 5], [-5, -5]])
    vertices = (um[:, None] + corners).reshape(-1, 2)
    pd.DataFrame({"cell_id": np.repeat(cells, 5), "vertex_x": vertices[:, 0], "vertex_y": vertices[:, 1]}).to_parquet(
        folder / "cell_boundaries.parquet"
    )
    (folder / "experiment.xenium").write_text(
        json.dumps({"pixel_size": pixel_um, "analysis_sw_version": "xenium-1.0.1", "region_name": "r"})
    )
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        zarr.create_group(store)
    to_xenium_px = np.diag([mpp / pixel_um, mpp / pixel_um, 1])
    pd.DataFrame(to_xenium_px).to_csv(folder / "section_he_imagealignment.csv", header=False, index=False)
