"""A Xenium folder, made here in small, with an H&E image that is turned against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from spatialdata.transformations import get_transformation

import hisdiff as hd

PIXEL_UM = 0.2125
HE_MPP = 0.34
TURN = np.deg2rad(90)
HE_SIZE = (700, 900)
CELLS = 30


def he_to_um() -> np.ndarray:
    """Matrix from pixels of the H&E image to um: another pixel size, a quarter turn, a shift."""
    rotation = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    shift = np.array([[1, 0, 260], [0, 1, 15], [0, 0, 1.0]])
    return shift @ rotation @ np.diag([HE_MPP, HE_MPP, 1])


@pytest.fixture
def folder(tmp_path: Path, write_10x: Callable[..., None]) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "xen"
    folder.mkdir()
    cells = [f"cell{i:03d}" for i in range(CELLS)]
    write_10x(folder / "cell_feature_matrix.h5", rng.poisson(2, (CELLS, 4)), cells, list("ABCD"))
    he_px = rng.uniform(50, 650, (CELLS, 2))
    um = np.c_[he_px, np.ones(CELLS)] @ he_to_um()[:2].T
    pd.DataFrame(
        {"cell_id": cells, "x_centroid": um[:, 0], "y_centroid": um[:, 1], "cell_area": 36.0, "nucleus_area": 20.0}
    ).to_parquet(folder / "cells.parquet")
    corners = np.array([[-3, -3], [3, -3], [3, 3], [-3, 3], [-3, -3]])
    vertices = (um[:, None] + corners).reshape(-1, 2)
    pd.DataFrame({"cell_id": np.repeat(cells, 5), "vertex_x": vertices[:, 0], "vertex_y": vertices[:, 1]}).to_parquet(
        folder / "cell_boundaries.parquet"
    )
    (folder / "experiment.xenium").write_text(
        json.dumps({"pixel_size": PIXEL_UM, "analysis_sw_version": "xenium-1.0.1", "region_name": "r"})
    )
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        zarr.create_group(store)
    tifffile.imwrite(folder / "x_he_image.ome.tif", np.full((*HE_SIZE, 3), 210, np.uint8), photometric="rgb")
    to_xenium_px = np.diag([1 / PIXEL_UM, 1 / PIXEL_UM, 1]) @ he_to_um()
    pd.DataFrame(to_xenium_px).to_csv(folder / "x_he_imagealignment.csv", header=False, index=False)
    np.save(tmp_path / "he_px.npy", he_px)
    return folder


def matrix(element: object, system: str) -> np.ndarray:
    return get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))


def test_cells_lie_where_they_are_on_the_turned_image(folder: Path) -> None:
    sdata = hd.io.xenium(folder)
    expected = np.load(folder.parent / "he_px.npy")
    table = sdata.tables["table"]
    np.testing.assert_allclose(table.obsm["spatial"], expected)
    np.testing.assert_allclose(sdata.shapes["xen"].loc[table.obs["instance_id"]].centroid.get_coordinates(), expected)
    assert sdata.shapes["xen"].geometry.area.to_numpy() == pytest.approx(36 / HE_MPP**2)
    assert list(table.obs["instance_id"]) == [f"cell{i:03d}" for i in range(CELLS)]


def test_the_scale_is_that_of_the_alignment(folder: Path) -> None:
    sdata = hd.io.xenium(folder, name="tumour")
    for element in (sdata.images["tumour_image"], sdata.shapes["tumour"]):
        np.testing.assert_allclose(matrix(element, "um"), np.diag([HE_MPP, HE_MPP, 1]), rtol=1e-9)
        np.testing.assert_allclose(matrix(element, "global"), np.eye(3))


def test_counts_are_raw_and_sparse(folder: Path) -> None:
    table = hd.io.xenium(folder).tables["table"]
    assert (table.X.format, table.X.dtype, table.shape) == ("csr", np.float32, (CELLS, 4))


def test_without_an_image_the_remedy_is_named(folder: Path) -> None:
    (folder / "x_he_image.ome.tif").rename(folder / "other.tif")
    with pytest.raises(FileNotFoundError, match="0 H&E images.*he_image_file="):
        hd.io.xenium(folder)
    sdata = hd.io.xenium(folder, he_image_file=folder / "other.tif", alignment_file=folder / "x_he_imagealignment.csv")
    assert "xen_image" in sdata.images


def test_without_an_alignment_the_pixels_are_taken_to_agree(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "x_he_imagealignment.csv").unlink()
    with pytest.raises(ValueError, match="lie outside the image"):
        hd.io.xenium(folder)
    assert "no alignment file" in caplog.text


def test_a_stretched_alignment_is_refused(folder: Path) -> None:
    pd.DataFrame(np.diag([1.0, 2.0, 1.0])).to_csv(folder / "x_he_imagealignment.csv", header=False, index=False)
    with pytest.raises(ValueError, match=r"alignment of x_he_image.ome.tif is stretched"):
        hd.io.xenium(folder)


@pytest.mark.parametrize("file", ["experiment.xenium", "cells.parquet"])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"no '{file}'"):
        hd.io.xenium(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        hd.io.xenium(tmp_path / "gone")


def test_without_outlines_cells_are_circles_of_their_area(folder: Path) -> None:
    (folder / "cell_boundaries.parquet").unlink()
    sdata = hd.io.xenium(folder)
    assert sdata.shapes["xen"]["radius"].to_numpy() == pytest.approx(np.sqrt(36 / np.pi) / HE_MPP)
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], np.load(folder.parent / "he_px.npy"))


@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_keypoints_are_fitted(folder: Path, sep: str) -> None:
    (folder / "x_he_imagealignment.csv").unlink()
    points = np.array([[0, 0], [500, 40], [100, 600], [420, 380.0]])
    fixed = (np.c_[points, np.ones(4)] @ he_to_um()[:2].T) / PIXEL_UM
    frame = pd.DataFrame(
        {"fixedX": fixed[:, 0], "fixedY": fixed[:, 1], "alignmentX": points[:, 0], "alignmentY": points[:, 1]}
    )
    frame.to_csv(folder / "keypoints.csv", index=False, sep=sep)
    sdata = hd.io.xenium(folder, alignment_file=folder / "keypoints.csv")
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], np.load(folder.parent / "he_px.npy"))


def test_broken_files_are_named(folder: Path) -> None:
    (folder / "x_he_imagealignment.csv").write_text("1,2\n3")
    with pytest.raises(ValueError, match="x_he_imagealignment.csv"):
        hd.io.xenium(folder)
    (folder / "experiment.xenium").write_text('{"pixel_size": ')
    with pytest.raises(ValueError, match="experiment.xenium is not valid JSON"):
        hd.io.xenium(folder)


def test_arguments_of_another_reader_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(TypeError, match="no argument 'cells_as_circles'"):
        hd.io.xenium(folder, cells_as_circles=True)
