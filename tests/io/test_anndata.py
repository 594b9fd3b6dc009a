"""An AnnData and its image."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import spatialdata
from PIL import Image
from scipy import sparse
from spatialdata.transformations import get_transformation

import hisdiff as hd

SIZE = (1300, 1500)


@pytest.fixture
def slide() -> np.ndarray:
    return np.full((*SIZE, 3), 200, dtype=np.uint8)


def mpp_of(element: object) -> float:
    return get_transformation(element, "um").to_affine_matrix(("x", "y"), ("x", "y"))[0, 0]


def scale_factors(adata: ad.AnnData, diameter_px: float, library: str = "a") -> ad.AnnData:
    adata.uns.setdefault("spatial", {})[library] = {"scalefactors": {"spot_diameter_fullres": diameter_px}}
    return adata


def test_a_visium_array_gives_scale_and_radius(spots: ad.AnnData, slide: np.ndarray) -> None:
    sdata = hd.io.from_anndata(spots, slide, name="s1")
    assert mpp_of(sdata.images["s1_image"]) == pytest.approx(0.5)
    assert mpp_of(sdata.shapes["s1"]) == pytest.approx(0.5)
    assert sdata.shapes["s1"].radius.iloc[0] == pytest.approx(55)
    table = sdata.tables["table"]
    np.testing.assert_array_equal(table.X.toarray(), spots.X)
    np.testing.assert_array_equal(table.obsm["spatial"], spots.obsm["spatial"])
    assert list(table.obs["instance_id"]) == list(spots.obs_names)


def test_the_input_is_left_as_it_was(spots: ad.AnnData, slide: np.ndarray) -> None:
    before = spots.copy()
    sdata = hd.io.from_anndata(spots, slide)
    assert list(spots.obs.columns) == list(before.obs.columns)
    assert "spatialdata_attrs" not in spots.uns
    assert isinstance(spots.X, np.ndarray)
    sdata.tables["table"].obsm["spatial"][:] = 0
    np.testing.assert_array_equal(spots.obsm["spatial"], before.obsm["spatial"])


def test_image_as_file_numpy_and_dask_in_both_orders(spots: ad.AnnData, slide: np.ndarray, tmp_path: Path) -> None:
    slide[:, ::2] = 10
    Image.fromarray(slide).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), slide, slide.transpose(2, 0, 1), da.from_array(slide)]
    for image in images:
        element = hd.io.from_anndata(spots, image).images["section_image"]
        np.testing.assert_array_equal(element["scale0"]["image"].to_numpy(), slide.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["csc", "int", "float64", "bool-free dense"])
def test_any_matrix_of_counts_becomes_csr_float32(spots: ad.AnnData, slide: np.ndarray, kind: str) -> None:
    expected = spots.X.copy()
    spots.X = {
        "csc": sparse.csc_matrix(expected), "int": expected.astype(np.int64), "float64": expected.astype(np.float64),
    }.get(kind, expected)  # fmt: skip
    counts = hd.io.from_anndata(spots, slide).tables["table"].X
    assert (counts.format, counts.dtype) == ("csr", np.float32)
    np.testing.assert_array_equal(counts.toarray(), expected)


def test_counts_can_come_from_a_layer(spots: ad.AnnData, slide: np.ndarray) -> None:
    spots.layers["counts"] = spots.X.copy()
    spots.X = np.log1p(spots.X)
    with pytest.raises(ValueError, match=r"not whole numbers.*layers: \['counts'\]"):
        hd.io.from_anndata(spots, slide)
    table = hd.io.from_anndata(spots, slide, layer="counts").tables["table"]
    np.testing.assert_array_equal(table.X.toarray(), spots.layers["counts"])
    with pytest.raises(KeyError, match="'raw'"):
        hd.io.from_anndata(spots, slide, layer="raw")


def test_repeated_genes_are_numbered(spots: ad.AnnData, slide: np.ndarray) -> None:
    spots.var_names = ["A", "B", "A", "C", "D"]
    assert list(hd.io.from_anndata(spots, slide).tables["table"].var_names) == ["A", "B", "A-1", "C", "D"]


class TestScale:
    def test_without_an_array_the_spot_diameter_or_mpp_is_needed(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        del spots.obs["array_row"]
        with pytest.raises(ValueError, match="pass mpp="):
            hd.io.from_anndata(spots, slide)
        with pytest.raises(ValueError, match="pass spot_diameter_um="):
            hd.io.from_anndata(spots, slide, mpp=0.5)
        sdata = hd.io.from_anndata(spots, slide, mpp=0.5, spot_diameter_um=100)
        assert sdata.shapes["section"].radius.iloc[0] == pytest.approx(100)
        scale_factors(spots, 200)
        sdata = hd.io.from_anndata(spots, slide, spot_diameter_um=100)
        assert mpp_of(sdata.images["section_image"]) == pytest.approx(0.5)
        assert hd.io.from_anndata(spots, slide, mpp=0.4).shapes["section"].radius.iloc[0] == pytest.approx(100)

    def test_a_square_array_is_not_taken_for_visium(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        row, col = (a.ravel() * 2 for a in np.meshgrid(np.arange(6), np.arange(6), indexing="ij"))
        spots = spots[: len(row)].copy()
        spots.obs["array_row"], spots.obs["array_col"] = row, col
        spots.obsm["spatial"] = np.stack([col, row], axis=1) * 50.0 + 100
        with pytest.raises(ValueError, match="pass mpp="):
            hd.io.from_anndata(spots, slide)

    def test_a_tag_that_contradicts_the_spots_is_refused_unless_mpp_is_given(
        self, spots: ad.AnnData, slide: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        import tifffile

        tifffile.imwrite(
            tmp_path / "a.tif", slide, photometric="rgb", resolution=(4e4, 4e4), resolutionunit="CENTIMETER"
        )
        with pytest.raises(
            ValueError, match=r"contradict each other.*0\.5 um by the pitch.*0\.25 um by the resolution tags"
        ):
            hd.io.from_anndata(spots, tmp_path / "a.tif")
        sdata = hd.io.from_anndata(spots, tmp_path / "a.tif", mpp=0.5)
        assert mpp_of(sdata.images["section_image"]) == pytest.approx(0.5)
        assert "says 0.25 um per pixel; the given 0.5 is used" in caplog.text
        del spots.obs["array_row"]
        sdata = hd.io.from_anndata(spots, tmp_path / "a.tif", spot_diameter_um=55)
        assert mpp_of(sdata.images["section_image"]) == pytest.approx(0.25)

    def test_a_hires_image_taken_for_the_full_one_is_caught_by_its_size(self, spots: ad.AnnData) -> None:
        with pytest.raises(ValueError, match=r"lie outside the image, which is 200 x 150 px.*hires"):
            hd.io.from_anndata(spots, np.full((150, 200, 3), 200, np.uint8))

    def test_coordinates_of_the_hires_image_are_caught_by_the_spot_diameter(
        self, spots: ad.AnnData, slide: np.ndarray
    ) -> None:
        scale_factors(spots, 130)  # Space Ranger's theoretical 65 um
        hd.io.from_anndata(spots, slide)
        spots.obsm["spatial"] = spots.obsm["spatial"] * 0.1
        with pytest.raises(ValueError, match="not those of the full-resolution image"):
            hd.io.from_anndata(spots, slide)

    def test_an_mpp_that_contradicts_the_array_is_refused(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"mpp=0.25 contradicts the spots.*0.5 um"):
            hd.io.from_anndata(spots, slide, mpp=0.25)
        assert mpp_of(hd.io.from_anndata(spots, slide, mpp=0.51).images["section_image"]) == 0.51

    def test_a_coarse_image_is_said(self, spots: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
        spots.obsm["spatial"] = spots.obsm["spatial"] / 10
        hd.io.from_anndata(spots, np.full((150, 200, 3), 200, np.uint8))
        assert "single cells cannot be seen" in caplog.text


class TestBadInput:
    def test_positions_are_needed(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        del spots.obsm["spatial"]
        with pytest.raises(ValueError, match="no 'spatial'"):
            hd.io.from_anndata(spots, slide)

    def test_positions_have_two_columns_without_nan(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        spots.obsm["spatial"][0] = np.nan
        with pytest.raises(ValueError, match="1 of 36 spots .* no position"):
            hd.io.from_anndata(spots, slide, mpp=0.5, spot_diameter_um=55)
        spots.obsm["spatial"] = spots.obsm["spatial"][:, :1]
        with pytest.raises(ValueError, match=r"is \(n, 2\)"):
            hd.io.from_anndata(spots, slide)

    def test_types_are_checked(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        with pytest.raises(TypeError, match="adata is an AnnData, not dict"):
            hd.io.from_anndata({}, slide)
        with pytest.raises(TypeError, match="path or an array, not list"):
            hd.io.from_anndata(spots, [1, 2])
        with pytest.raises(ValueError, match="one channel|red, green and blue"):
            hd.io.from_anndata(spots, slide[..., 0])

    @pytest.mark.parametrize("value", [-1, 0.5, np.nan])
    def test_values_that_are_no_counts_are_refused(self, spots: ad.AnnData, slide: np.ndarray, value: float) -> None:
        spots.X[2, 1] = value
        with pytest.raises(ValueError, match="raw counts are needed"):
            hd.io.from_anndata(spots, slide)

    def test_several_sections_in_one_table_are_refused(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        scale_factors(scale_factors(spots, 100), 100, "b")
        with pytest.raises(ValueError, match=r"several sections \(\['a', 'b'\]"):
            hd.io.from_anndata(spots, slide)

    def test_repeated_spots_are_refused(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        spots.obs_names = ["a"] * spots.n_obs
        with pytest.raises(ValueError, match="obs_names of adata are not unique"):
            hd.io.from_anndata(spots, slide)

    def test_counts_in_raw_are_pointed_to(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        spots.raw = spots.copy()
        spots.X = np.log1p(spots.X)
        with pytest.raises(ValueError, match=r"adata\.raw\.to_adata\(\)"):
            hd.io.from_anndata(spots, slide)
        assert hd.io.from_anndata(spots.raw.to_adata(), slide).tables["table"].shape == spots.shape


class TestObjectsOfTheField:
    def test_a_table_of_antibodies_or_controls_alone_is_refused(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        spots.var["feature_types"] = "Antibody Capture"
        with pytest.raises(ValueError, match="section has no gene expression"):
            hd.io.from_anndata(spots, slide)
        spots.var["feature_types"] = "Gene Expression"
        spots.var_names = [f"BLANK_{i}" for i in range(5)]
        with pytest.raises(ValueError, match="no gene expression.*'BLANK_0'"):
            hd.io.from_anndata(spots, slide)

    def test_what_measures_no_gene_is_left_out(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        spots.var_names = ["ERCC1", "ERCC-00002", "NegProbe-WTX", "CD3_TotalSeqB", "ADTRP"]
        assert list(hd.io.from_anndata(spots, slide).tables["table"].var_names) == ["ERCC1", "ADTRP"]

    def test_positions_of_a_data_frame_go_by_the_names_of_its_columns(
        self, spots: ad.AnnData, slide: np.ndarray
    ) -> None:
        xy = spots.obsm["spatial"]
        spots.obsm["spatial"] = pd.DataFrame(xy[:, ::-1], index=spots.obs_names, columns=["y", "x"])
        np.testing.assert_array_equal(hd.io.from_anndata(spots, slide).tables["table"].obsm["spatial"], xy)

    def test_columns_and_keys_of_any_name_are_cleaned_and_kept(
        self, spots: ad.AnnData, slide: np.ndarray, tmp_path: Path
    ) -> None:
        spots.obs["Cell type"], spots.obs["cell type"], spots.obs["region"] = "a", "b", "cortex"
        spots.uns["a b"] = {"x/y": 1}
        spots.obs.index.name = "spot/name"
        sdata = hd.io.from_anndata(spots, slide)
        sdata.write(tmp_path / "s.zarr")
        table = sdata.tables["table"]
        assert (table.obs["Cell_type"] == "a").all()
        assert (table.obs["region_1"] == "cortex").all()
        assert sdata.attrs["hisdiff"]["names"] == {
            "obs/Cell_type": "Cell type", "obs/cell_type_1": "cell type", "obs/region_1": "region", "uns/a_b": "a b",
        }  # fmt: skip
        assert "Cell type" in spots.obs

    def test_values_that_no_store_holds_become_text_or_are_left_out(
        self, spots: ad.AnnData, slide: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        n = spots.n_obs
        spots.obs["day"] = pd.date_range("2024-01-01", periods=n)
        spots.obs["area"] = pd.array([1.5, None] * (n // 2) + [2.0] * (n % 2), dtype="Float64")
        spots.obs["notes"] = [["a"]] * n
        spots.uns["run"] = {"by": len, "on": pd.Timestamp("2024-01-01"), "file": tmp_path, "genes": pd.Series(["A"])}
        sdata = hd.io.from_anndata(spots, slide)
        assert "uns['run']['by']" in caplog.text
        sdata.write(tmp_path / "s.zarr")
        table = spatialdata.read_zarr(tmp_path / "s.zarr").tables["table"]
        assert table.obs["day"].iloc[0].startswith("2024-01-01")
        assert table.obs["notes"].iloc[0] == "['a']"
        np.testing.assert_array_equal(table.obs["area"].iloc[:2], [1.5, np.nan])
        assert set(table.uns["run"]) == {"on", "file", "genes"}

    def test_the_image_in_uns_is_used_where_none_is_given(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 130.0}
        images = {"hires": (slide[::10, ::10] / np.float32(255))}
        spots.uns["spatial"] = {"is_single": True, "lib": {"images": images, "scalefactors": factors}}
        sdata = hd.io.from_anndata(spots)
        assert mpp_of(sdata.images["section_image"]) == pytest.approx(5)
        assert mpp_of(sdata.shapes["section"]) == pytest.approx(0.5)
        del spots.uns["spatial"]
        with pytest.raises(ValueError, match="There is no image"):
            hd.io.from_anndata(spots)

    def test_a_lazy_object_is_read(self, spots: ad.AnnData, slide: np.ndarray, tmp_path: Path) -> None:
        from anndata.experimental import read_lazy

        spots.write_h5ad(tmp_path / "a.h5ad")
        table = hd.io.from_anndata(read_lazy(tmp_path / "a.h5ad"), slide).tables["table"]
        np.testing.assert_array_equal(table.X.toarray(), spots.X)

    def test_an_interleaved_array_is_not_taken_for_visium(self, spots: ad.AnnData, slide: np.ndarray) -> None:
        square = spots.obs[["array_col", "array_row"]].to_numpy() * 32.0 + 100  # square, every other place empty
        spots.obsm["spatial"] = square
        with pytest.raises(ValueError, match="pass mpp="):
            hd.io.from_anndata(spots, slide)
        sdata = hd.io.from_anndata(spots, slide, mpp=4.4, spot_diameter_um=100)
        assert {"array_row", "array_col"} <= set(sdata.tables["table"].obs)
