"""Folders of Space Ranger, made here in small."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite
from spatialdata.transformations import get_transformation

import hisdiff as hd

FULL = (1300, 1500)
HIRES_SCALE = 0.1


def mpp_of(element: object) -> float:
    return get_transformation(element, "um").to_affine_matrix(("x", "y"), ("x", "y"))[0, 0]


def write_images(folder: Path, full: Path) -> None:
    pixels = np.full((*FULL, 3), 220, dtype=np.uint8)
    pixels[:, 700:] = 90
    full.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(full, pixels, photometric="rgb", tile=(256, 256), compression="zlib")
    folder.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(pixels).resize((150, 130))
    small.save(folder / "tissue_hires_image.png")
    small.resize((45, 39)).save(folder / "tissue_lowres_image.png")


@pytest.fixture
def outs(tmp_path: Path, spots: ad.AnnData, write_10x: Callable[..., None]) -> Path:
    """A Visium folder at 0.5 um per pixel."""
    folder = tmp_path / "run7" / "outs"
    write_10x(folder / "filtered_feature_bc_matrix.h5", spots.X, list(spots.obs_names), list(spots.var_names))
    write_images(folder / "spatial", tmp_path / "slide.tif")
    positions = pd.DataFrame(
        {
            "barcode": spots.obs_names, "in_tissue": 1, "array_row": spots.obs["array_row"].to_numpy(),
            "array_col": spots.obs["array_col"].to_numpy(), "pxl_row_in_fullres": spots.obsm["spatial"][:, 1],
            "pxl_col_in_fullres": spots.obsm["spatial"][:, 0],
        }
    )  # fmt: skip
    positions.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    factors = {
        "spot_diameter_fullres": 130.0, "fiducial_diameter_fullres": 210.0, "tissue_hires_scalef": HIRES_SCALE,
        "tissue_lowres_scalef": 0.03,
    }  # fmt: skip
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    return folder


class TestVisium:
    def test_the_full_image_is_read_lazily_at_the_scale_of_the_array(self, outs: Path, spots: ad.AnnData) -> None:
        sdata = hd.io.visium(outs, fullres_image_file=outs.parents[1] / "slide.tif")
        assert list(sdata.images) == ["run7_image"]
        element = sdata.images["run7_image"]
        assert element["scale0"]["image"].shape == (3, *FULL)
        assert len(element["scale0"]["image"].data.chunks[1]) > 1
        assert mpp_of(element) == pytest.approx(0.5)
        # 55 um wide, although the scale factors describe a spot of 65.
        assert sdata.shapes["run7"].radius.iloc[0] == pytest.approx(55)
        table = sdata.tables["table"]
        np.testing.assert_array_equal(table.X.toarray(), spots.X)
        np.testing.assert_allclose(table.obsm["spatial"], spots.obsm["spatial"])
        assert list(table.var_names) == list("ABCDE")
        assert {"array_row", "array_col", "in_tissue"} <= set(table.obs)

    def test_without_it_the_hires_image_stands_in_at_its_own_scale(
        self, outs: Path, spots: ad.AnnData, caplog: pytest.LogCaptureFixture
    ) -> None:
        sdata = hd.io.visium(outs, dataset_id="s")
        assert mpp_of(sdata.images["s_image"]) == pytest.approx(5)
        assert mpp_of(sdata.shapes["s"]) == pytest.approx(0.5)
        np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], spots.obsm["spatial"])
        assert "No full-resolution image is given, so tissue_hires_image.png is used" in caplog.text

    def test_a_hires_image_given_as_the_full_one_is_refused(self, outs: Path) -> None:
        with pytest.raises(ValueError, match=r"150 x 130 px, but .* about 1500 x 1300"):
            hd.io.visium(outs, fullres_image_file=outs / "spatial" / "tissue_hires_image.png")

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ("spatial/scalefactors_json.json", "scalefactors_json.json, which has the scale"),
            ("spatial/tissue_positions.csv", "no tissue_positions.csv"),
            ("filtered_feature_bc_matrix.h5", "no 'filtered_feature_bc_matrix.h5'"),
            ("spatial/tissue_*_image.png", "pass fullres_image_file="),
        ],
    )
    def test_a_missing_file_is_named(self, outs: Path, file: str, message: str) -> None:
        for there in outs.glob(file):
            there.unlink()
        with pytest.raises(FileNotFoundError, match=message):
            hd.io.visium(outs)

    def test_a_missing_folder_or_image_is_named(self, outs: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no folder"):
            hd.io.visium(outs / "gone")
        with pytest.raises(FileNotFoundError, match="no image file"):
            hd.io.visium(outs, fullres_image_file=outs / "gone.tif")

    def test_broken_json_is_named(self, outs: Path) -> None:
        (outs / "spatial/scalefactors_json.json").write_text('{"spot_diameter')
        with pytest.raises(ValueError, match=r"scalefactors_json.json is not valid JSON"):
            hd.io.visium(outs)

    def test_a_prefix_of_the_files_names_the_section(self, outs: Path) -> None:
        counts = outs / "filtered_feature_bc_matrix.h5"
        counts.rename(outs / "V1_Breast_filtered_feature_bc_matrix.h5")
        assert list(hd.io.visium(outs).shapes) == ["V1_Breast"]

    def test_samples_of_geo_lie_beside_each_other_packed(self, outs: Path, spots: ad.AnnData) -> None:
        geo = outs.parent / "geo"
        geo.mkdir()
        for sample, moved in (("GSM1_S_1", 0), ("GSM2_S_2", 40)):
            counts = outs / "filtered_feature_bc_matrix.h5"
            (geo / f"{sample}_{counts.name}").write_bytes(counts.read_bytes())
            for file in (outs / "spatial").iterdir():
                content = file.read_bytes()
                if file.suffix == ".csv":
                    table = pd.read_csv(file)
                    table["pxl_col_in_fullres"] += moved
                    content = table.astype({"in_tissue": bool}).to_csv(index=False).encode()
                (geo / f"{sample}_{file.name}.gz").write_bytes(gzip.compress(content))
        sdata = hd.io.visium(geo, counts_file="GSM2_S_2_filtered_feature_bc_matrix.h5")
        table = sdata.tables["table"]
        np.testing.assert_allclose(table.obsm["spatial"][:, 0], spots.obsm["spatial"][:, 0] + 40)
        assert set(table.obs["in_tissue"]) == {1}
        assert sdata.images["GSM2_S_2_image"]["scale0"]["image"].shape == (3, 130, 150)
        (geo / "GSM2_S_2_tissue_positions.csv.gz").unlink()
        with pytest.raises(ValueError, match="of another sample than 'GSM2_S_2'"):
            hd.io.visium(geo, counts_file="GSM2_S_2_filtered_feature_bc_matrix.h5")

    def test_spots_without_a_position_are_left_out(self, outs: Path, caplog: pytest.LogCaptureFixture) -> None:
        file = outs / "spatial" / "tissue_positions.csv"
        file.write_text("\n".join(file.read_text().splitlines()[:-2]))
        assert hd.io.visium(outs).tables["table"].n_obs == 34
        assert "left out 2 spots without a position" in caplog.text

    def test_names_may_be_anything_and_are_kept(self, outs: Path) -> None:
        sdata = hd.io.visium(outs, dataset_id="Patient A (1)/é")
        assert list(sdata.shapes) == ["Patient_A__1__é"]
        assert sdata.attrs["hisdiff"]["names"] == {"Patient_A__1__é": "Patient A (1)/é"}

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("tissue_positions.csv", {"sep": ";"}),
            ("tissue_positions_list.csv", {"header": False}),
            ("GSM1_tissue_positions_list.csv.gz", {"header": False}),
        ],
    )
    def test_positions_of_all_versions_are_read(self, outs: Path, spots: ad.AnnData, name: str, options: dict) -> None:
        positions = pd.read_csv(outs / "spatial" / "tissue_positions.csv")
        (outs / "spatial" / "tissue_positions.csv").unlink()
        positions.to_csv(outs / "spatial" / name, index=False, **options)
        np.testing.assert_allclose(hd.io.visium(outs).tables["table"].obsm["spatial"], spots.obsm["spatial"])

    def test_broken_positions_are_named(self, outs: Path) -> None:
        file = outs / "spatial" / "tissue_positions.csv"
        positions = pd.read_csv(file)
        positions.to_csv(file, index=False, header=False)
        with pytest.raises(ValueError, match=r"tissue_positions.csv has no header"):
            hd.io.visium(outs)
        pd.concat([positions, positions[:2]]).to_csv(file, index=False)
        with pytest.raises(ValueError, match=r"2 barcodes more than once, such as \['spot0', 'spot1'\]"):
            hd.io.visium(outs)
        positions.assign(barcode=positions["barcode"] + "-2").to_csv(file, index=False)
        with pytest.raises(ValueError, match="No barcode of the counts of run7 has a position"):
            hd.io.visium(outs)

    def test_a_folder_of_a_sparse_matrix_is_read(self, outs: Path, spots: ad.AnnData) -> None:
        (outs / "filtered_feature_bc_matrix.h5").unlink()
        folder = outs / "filtered_feature_bc_matrix"
        folder.mkdir()
        with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
            mmwrite(file, sparse.coo_matrix(spots.X.T))
        features = pd.DataFrame({0: [f"ENSG{i}" for i in range(5)], 1: list("ABCDE"), 2: "Gene Expression"})
        features.to_csv(folder / "features.tsv.gz", sep="\t", header=False, index=False)
        pd.Series(spots.obs_names).to_csv(folder / "barcodes.tsv.gz", header=False, index=False)
        np.testing.assert_array_equal(hd.io.visium(outs).tables["table"].X.toarray(), spots.X)

    def test_parts_of_a_matrix_are_unpacked_or_prefixed_and_named_where_missing(
        self, outs: Path, spots: ad.AnnData
    ) -> None:
        (outs / "filtered_feature_bc_matrix.h5").unlink()
        mmwrite(outs / "GSM1_matrix.mtx", sparse.coo_matrix(spots.X.T))
        (outs / "GSM1_barcodes.tsv").write_text("\n".join(spots.obs_names))
        with pytest.raises(FileNotFoundError, match=r"no GSM1_features.tsv and no GSM1_features.tsv.gz; it has"):
            hd.io.visium(outs)
        (outs / "GSM1_features.tsv").write_text("".join(f"ENSG{i}\t{gene}\n" for i, gene in enumerate("ABCDE")))
        table = hd.io.visium(outs).tables["table"]
        assert list(table.var_names) == list("ABCDE")
        assert table.X.sum() == spots.X.sum()
        (outs / "GSM1_barcodes.tsv").write_text("only\none")
        with pytest.raises(
            ValueError, match="the matrix has 36 barcodes and 5 features, the lists beside it have 2 and 5"
        ):
            hd.io.visium(outs)

    def test_swapped_coordinates_that_stay_on_the_image_are_said(self, outs: Path, caplog) -> None:
        file = outs / "spatial" / "tissue_positions.csv"
        columns = ["pxl_row_in_fullres", "pxl_col_in_fullres"]
        table = pd.read_csv(file)
        table[columns] = table[columns[::-1]].to_numpy()
        table.to_csv(file, index=False)
        hd.io.visium(outs)
        assert "is mirrored against their positions: are x and y swapped" in caplog.text

    def test_several_counts_files_are_a_choice_to_make(self, outs: Path) -> None:
        counts = outs / "filtered_feature_bc_matrix.h5"
        for name in ("A", "B"):
            (outs / f"{name}_{counts.name}").write_bytes(counts.read_bytes())
        counts.unlink()
        with pytest.raises(ValueError, match="several counts files.*choose one with counts_file="):
            hd.io.visium(outs)
        assert list(hd.io.visium(outs, counts_file=f"B_{counts.name}").shapes) == ["B"]

    def test_the_lowres_image_stands_in_where_it_is_all_there_is(self, outs: Path) -> None:
        (outs / "spatial" / "tissue_hires_image.png").unlink()
        assert mpp_of(hd.io.visium(outs).images["run7_image"]) == pytest.approx(0.5 / 0.03)

    @pytest.mark.parametrize(("turn", "back"), [("FLIP_LEFT_RIGHT", "flip_left_right"), ("ROTATE_90", "rotate_270")])
    def test_a_turned_image_is_refused_with_the_turn_that_fits(self, outs: Path, turn: str, back: str) -> None:
        slide = outs.parents[1] / "slide.tif"
        straight = tifffile.imread(slide)
        turned = Image.fromarray(straight).transpose(Image.Transpose[turn])
        tifffile.imwrite(slide, np.asarray(turned), photometric="rgb", tile=(256, 256))
        with pytest.raises(ValueError, match=f"orient='{back}'"):
            hd.io.visium(outs, fullres_image_file=slide)
        element = hd.io.visium(outs, fullres_image_file=slide, orient=back).images["run7_image"]
        np.testing.assert_array_equal(element["scale0"]["image"].to_numpy(), straight.transpose(2, 0, 1))

    def test_antibodies_are_left_out_and_genomes_are_a_choice_to_make(
        self, outs: Path, spots: ad.AnnData, write_10x: Callable[..., None]
    ) -> None:
        counts = outs / "filtered_feature_bc_matrix.h5"
        with h5py.File(counts, "r+") as file:
            file["matrix/features/feature_type"][...] = np.array(
                ["Gene Expression"] * 4 + ["Antibody Capture"], dtype="S"
            )
        assert list(hd.io.visium(outs).tables["table"].var_names) == list("ABCD")
        with h5py.File(counts, "r+") as file:
            file["matrix/features/genome"][...] = np.array(["GRCh38"] * 2 + ["mm10"] * 3, dtype="S")
        with pytest.raises(ValueError, match=r"several genomes, \['GRCh38', 'mm10'\]"):
            hd.io.visium(outs)
        assert list(hd.io.visium(outs, genome="mm10").tables["table"].var_names) == ["C", "D"]

    def test_arguments_without_a_use_are_refused_by_name(self, outs: Path) -> None:
        with pytest.raises(TypeError, match="no argument 'imread_kwargs'"):
            hd.io.visium(outs, imread_kwargs={})


@pytest.fixture
def hd_outs(tmp_path: Path, write_10x: Callable[..., None]) -> Path:
    """A Visium HD folder with bins of 8 um at 0.5 um per pixel."""
    folder = tmp_path / "crc" / "outs"
    bins = folder / "binned_outputs" / "square_008um"
    row, col = (a.ravel() for a in np.meshgrid(np.arange(10), np.arange(8), indexing="ij"))
    barcodes = [f"s_008um_{i:05d}_{j:05d}-1" for i, j in zip(row, col)]
    counts = np.random.default_rng(0).poisson(1, (len(row), 4))
    write_10x(bins / "filtered_feature_bc_matrix.h5", counts, barcodes, list("ABCD"))
    write_images(bins / "spatial", folder / "microscope_image" / "slide.tif")
    positions = pd.DataFrame(
        {
            "barcode": barcodes, "in_tissue": 1, "array_row": row, "array_col": col,
            "pxl_row_in_fullres": row * 16.0 + 500, "pxl_col_in_fullres": col * 16.0 + 640,
        }
    )  # fmt: skip
    positions.to_parquet(bins / "spatial" / "tissue_positions.parquet")
    factors = {
        "spot_diameter_fullres": 16.0, "bin_size_um": 8.0, "microns_per_pixel": 0.5,
        "tissue_hires_scalef": HIRES_SCALE, "tissue_lowres_scalef": 0.03, "regist_target_img_scalef": 0.1,
    }  # fmt: skip
    (bins / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    with h5py.File(folder / "feature_slice.h5", "w") as file:
        layout = json.dumps({"file_format": "1.0", "transform": np.eye(3).ravel().tolist()})
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout})
    return folder


class TestVisiumHD:
    def test_bins_are_squares_at_the_scale_of_the_factors(self, hd_outs: Path) -> None:
        sdata = hd.io.visium_hd(hd_outs)
        assert list(sdata.shapes) == ["crc"]
        assert sdata.shapes["crc"].geometry.area.to_numpy() == pytest.approx(256)
        assert mpp_of(sdata.shapes["crc"]) == mpp_of(sdata.images["crc_image"]) == 0.5
        table = sdata.tables["table"]
        assert table.shape == (80, 4)
        assert (table.X.format, table.X.dtype) == ("csr", np.float32)
        centers = sdata.shapes["crc"].loc[table.obs["instance_id"]].centroid.get_coordinates()
        np.testing.assert_allclose(centers, table.obsm["spatial"])
        assert len(sdata.tables) == 1

    def test_the_microscope_image_is_found_and_lazy(self, hd_outs: Path) -> None:
        image = hd.io.visium_hd(hd_outs).images["crc_image"]["scale0"]["image"]
        assert image.shape == (3, *FULL)
        assert len(image.data.chunks[1]) > 1

    def test_without_it_the_hires_image_stands_in(self, hd_outs: Path, caplog: pytest.LogCaptureFixture) -> None:
        (hd_outs / "microscope_image" / "slide.tif").unlink()
        assert mpp_of(hd.io.visium_hd(hd_outs).images["crc_image"]) == pytest.approx(5)
        assert "tissue_hires_image.png is used" in caplog.text

    def test_circles_on_request(self, hd_outs: Path) -> None:
        assert hd.io.visium_hd(hd_outs, bins_as_squares=False).shapes["crc"].radius.iloc[0] == pytest.approx(8)

    def test_another_bin_size_lists_those_there_are(self, hd_outs: Path) -> None:
        with pytest.raises(ValueError, match=r"no bins of 16 um.*square_008um"):
            hd.io.visium_hd(hd_outs, bin_um=16)
        with pytest.raises(TypeError, match="bin_um"):
            hd.io.visium_hd(hd_outs, bin_um="8")

    @pytest.mark.parametrize(
        "file",
        [
            "binned_outputs/square_008um/spatial/tissue_positions.parquet",
            "binned_outputs/square_008um/spatial/scalefactors_json.json",
            "binned_outputs/square_008um/filtered_feature_bc_matrix.h5",
        ],
    )  # fmt: skip
    def test_a_missing_file_is_named(self, hd_outs: Path, file: str) -> None:
        (hd_outs / file).unlink()
        with pytest.raises(FileNotFoundError, match=Path(file).name):
            hd.io.visium_hd(hd_outs)

    def test_several_microscope_images_are_a_choice_to_make(self, hd_outs: Path) -> None:
        slide = hd_outs / "microscope_image" / "slide.tif"
        slide.with_name("other.tif").write_bytes(slide.read_bytes())
        with pytest.raises(ValueError, match=r"\['other.tif', 'slide.tif'\]; choose"):
            hd.io.visium_hd(hd_outs)
        assert hd.io.visium_hd(hd_outs, fullres_image_file=slide).images

    def test_a_folder_without_the_feature_slice_is_read(self, hd_outs: Path) -> None:
        (hd_outs / "feature_slice.h5").unlink()
        assert list(hd.io.visium_hd(hd_outs).shapes) == ["crc"]

    def test_scale_factors_that_contradict_the_pitch_of_the_bins_are_refused(self, hd_outs: Path) -> None:
        file = hd_outs / "binned_outputs/square_008um/spatial/scalefactors_json.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "microns_per_pixel": 0.25}))
        with pytest.raises(ValueError, match=r"0\.25 um by the scale factors, 0\.5 um by the pitch of the bins"):
            hd.io.visium_hd(hd_outs)
        assert mpp_of(hd.io.visium_hd(hd_outs, mpp=0.5).shapes["crc"]) == 0.5

    @pytest.mark.parametrize(("name", "hint"), [("bin_size", "bin_um="), ("load_segmentations_only", "segmented=True")])
    def test_arguments_of_another_reader_are_refused_with_ours(self, hd_outs: Path, name: str, hint: str) -> None:
        with pytest.raises(TypeError, match=f"no argument '{name}'.*{hint}"):
            hd.io.visium_hd(hd_outs, **{name: 16})

    def test_segmented_cells_have_their_outlines(
        self, hd_outs: Path, write_10x: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = hd_outs / "segmented_outputs"
        names = [f"cellid_{i:09d}-1" for i in range(1, 7)]
        counts = np.random.default_rng(0).poisson(1, (6, 4))
        write_10x(folder / "filtered_feature_cell_matrix.h5", counts, names, list("ABCD"))
        (folder / "spatial").mkdir()
        factors = hd_outs / "binned_outputs/square_008um/spatial/scalefactors_json.json"
        (folder / "spatial" / factors.name).write_text(factors.read_text())
        square = np.array([[0, 0], [12, 0], [12, 12], [0, 12], [0, 0]]) + 600
        features = [
            {"properties": {"cell_id": i}, "geometry": {"type": "Polygon", "coordinates": [(square + 20 * i).tolist()]}}
            for i in (3, 1, 2, 5, 4)  # the sixth has none
        ]
        (folder / "cell_segmentations.geojson").write_text(json.dumps({"features": features}))
        sdata = hd.io.visium_hd(hd_outs, segmented=True)
        table = sdata.tables["table"]
        assert list(table.obs["instance_id"]) == names[:5]
        np.testing.assert_array_equal(table.X.toarray(), counts[:5])
        np.testing.assert_allclose(table.obsm["spatial"][:, 0], 606 + 20 * np.arange(1, 6))
        assert "left out 1 cells without an outline" in caplog.text
