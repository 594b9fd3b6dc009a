"""Embeddings that other programs computed."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import geopandas as gpd
import h5py
import numpy as np
import pytest
import shapely
import spatialdata as sd
from spatialdata.models import ShapesModel, TableModel

import hisdiff as hd

SIDE_PX = 64
DIM = 5


@pytest.fixture
def section(make_section) -> sd.SpatialData:
    return make_section()  # 800 x 800 px of 1 um, spots 100 um apart from (150, 150) on


@pytest.fixture
def corners() -> np.ndarray:
    """Upper left corners of tiles that cover the image."""
    return np.stack(np.meshgrid(*[np.arange(0, 800, SIDE_PX)] * 2), axis=-1).reshape(-1, 2)


def values_at(xy: np.ndarray) -> np.ndarray:
    """Return embeddings that are linear in place."""
    return np.column_stack([xy, xy.sum(axis=1), np.ones((len(xy), DIM - 3))]).astype(np.float32)


def trident(folder: Path, corners: np.ndarray, **attrs: float) -> Path:
    file = folder / "features_uni_v1" / "slide.h5"
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as h5:
        h5["features"] = values_at(corners + SIDE_PX / 2)
        h5["coords"] = corners
        size = {"level0_width": 800, "level0_height": 800, "patch_size": 256, "patch_size_level0": SIDE_PX}
        h5["coords"].attrs.update({**size, **attrs})
    return file


def embedding(sdata: sd.SpatialData) -> np.ndarray:
    return sdata.tables["table"].obsm["hisdiff_embedding"]


def test_a_spot_has_the_tiles_it_touches(section, corners, tmp_path: Path) -> None:
    hd.io.features(section, trident(tmp_path, corners))
    xy = section.tables["table"].obsm["spatial"]
    np.testing.assert_allclose(embedding(section)[:, :2], xy, atol=SIDE_PX / 2)
    np.testing.assert_allclose(embedding(section)[:, 3:], 1, rtol=1e-6)
    record = section.tables["table"].uns["hisdiff"]["embedding"]
    assert (record["encoder"], record["revision"], record["patch_um"]) == ("uni_v1", "external", SIDE_PX)
    assert record["mpp"] == pytest.approx(SIDE_PX / 256)
    np.testing.assert_allclose(record["sections"]["s1"]["mean"][:2], 400, atol=SIDE_PX)


@pytest.mark.parametrize(
    "stated",
    [
        {"patch_size": SIDE_PX // 2, "target_magnification": 10, "level0_magnification": 20},
        {"patch_size": SIDE_PX // 4, "patch_level": 1, "downsample": np.array([4.0, 4.0])},
    ],
    ids=["magnifications", "CLAM"],
)
def test_the_side_of_a_patch_is_found_in_what_is_stated(make_section, corners, tmp_path: Path, stated: dict) -> None:
    read = []
    for number, attrs in enumerate([{}, {"patch_size_level0": 0, **stated}]):
        one = make_section()
        hd.io.features(one, trident(tmp_path / str(number), corners, **attrs))
        read.append(embedding(one))
    np.testing.assert_array_equal(*read)


def test_models_are_fitted_on_it(make_section, tmp_path: Path) -> None:
    sections = [make_section(f"s{i}", seed=i) for i in range(3)]
    for i, one in enumerate(sections):
        vectors = np.column_stack([one.tables["table"].X.toarray(), np.full(36, i)])
        hd.io.features(one, vectors, encoder="mine")
    hd.pp.select_genes(sections[:2])
    model = hd.tl.fit(sections[:2], method="ridge")
    hd.tl.predict(sections[2], model)
    assert hd.tl.evaluate(sections[2], layer="ridge").attrs["summary"]["mean"]["pcc_all"] > 0.8
    other = make_section("s4", seed=4)
    hd.io.features(other, np.zeros((36, 13)), encoder="another")
    with pytest.raises(ValueError, match="another"):
        hd.tl.predict(other, model)


def test_a_table_of_tiles_is_taken_over(section, corners, tmp_path: Path) -> None:
    tiles = ShapesModel.parse(gpd.GeoDataFrame(geometry=shapely.box(*corners.T, *(corners + SIDE_PX).T)))
    table = ad.AnnData(values_at(corners + SIDE_PX / 2))
    table.obs["library_id"], table.obs["tile_id"] = "tiles", np.arange(len(corners))
    table.obs["library_id"] = table.obs["library_id"].astype("category")
    table = TableModel.parse(table, region="tiles", region_key="library_id", instance_key="tile_id")
    store = sd.SpatialData(shapes={"tiles": tiles}, tables={"uni2_tiles": table})
    hd.io.features(section, store)
    first = embedding(section).copy()
    assert section.tables["table"].uns["hisdiff"]["embedding"]["encoder"] == "uni2"
    store.write(tmp_path / "slide.zarr")
    hd.io.features(section, tmp_path / "slide.zarr", key="uni2_tiles")
    np.testing.assert_array_equal(embedding(section), first)


def test_arrays_follow_the_rows_and_objects_the_names(section, tmp_path: Path) -> None:
    table = section.tables["table"]
    vectors = np.random.default_rng(0).normal(size=(table.n_obs, DIM))
    np.save(tmp_path / "a.npy", vectors)
    hd.io.features(section, tmp_path / "a.npy")
    np.testing.assert_allclose(embedding(section), vectors, rtol=1e-6)
    named = ad.AnnData(vectors)
    named.obs_names = table.obs_names
    hd.io.features(section, named[::-1].copy())
    np.testing.assert_allclose(embedding(section), vectors, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "attrs", "message"),
    [
        (lambda corners: corners * 4, {"level0_width": 3200}, "of an image of 3200 x 800 px, but 's1_image' has 800 x 800"),
        (lambda corners: corners * 4, {"level0_width": 0}, r"The tiles lie from .* to \(3072, 3072\) px"),
        (lambda corners: corners[corners.sum(axis=1) < 300], {}, "spots of 's1' lie in no tile"),
        (lambda corners: corners, {"patch_size_level0": 0}, "does not say how large its patches are"),
    ],
)  # fmt: skip
def test_coordinates_that_do_not_fit_are_refused(section, corners, tmp_path: Path, change, attrs, message) -> None:
    with pytest.raises(ValueError, match=message):
        hd.io.features(section, trident(tmp_path, change(corners), **attrs))
    assert "hisdiff_embedding" not in section.tables["table"].obsm


def test_bad_values_and_files_are_refused(section, tmp_path: Path) -> None:
    n = section.tables["table"].n_obs
    for bad, message in (
        (np.zeros((n - 1, 3)), "one row for each of the 36"),
        (np.full((n, 3), np.nan), "36 of 36 embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            hd.io.features(section, bad)
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        hd.io.features(section, tmp_path / "gone.h5")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="pickles"):
        hd.io.features(section, tmp_path / "a.pt")
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.h5 cannot be read"):
        hd.io.features(section, tmp_path / "a.h5")
    with pytest.raises(TypeError, match="or an array or an AnnData or a SpatialData, not dict"):
        hd.io.features(section, {"a": 1})
