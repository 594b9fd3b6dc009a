"""The layout of the HER2 breast tumour study."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from PIL import Image
from scipy import sparse
from spatialdata.transformations import get_transformation

import hisdiff as hd

PX_PER_UNIT = 20.0


def write_section(
    folder: Path, section: str = "A1", *, genes: tuple[str, ...] = ("ERBB2", "CD74", "GAPDH")
) -> pd.DataFrame:
    """Write a section of 5 x 4 spots on a rotated array with jitter; return its counts."""
    rng = np.random.default_rng(0)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(3, 8), np.arange(2, 6)))
    jitter = rng.normal(0, 0.05, (2, len(x)))
    new_x, new_y = x + jitter[0], y + jitter[1]
    turn = np.deg2rad(3)
    pixel_x = PX_PER_UNIT * (np.cos(turn) * new_x - np.sin(turn) * new_y) + 30
    pixel_y = PX_PER_UNIT * (np.sin(turn) * new_x + np.cos(turn) * new_y) + 10
    spots = pd.DataFrame(
        {"x": x, "y": y, "new_x": new_x, "new_y": new_y, "pixel_x": pixel_x, "pixel_y": pixel_y, "selected": 1}
    )
    counts = pd.DataFrame(
        rng.poisson(2, (len(x), len(genes))), index=[f"{i}x{j}" for i, j in zip(x, y)], columns=list(genes)
    )
    for name in ("ST-cnts", "ST-spotfiles", f"ST-imgs/{section[0]}/{section}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Row order of the two files differs, as in the original.
    spots.iloc[::-1].to_csv(folder / f"ST-spotfiles/{section}_selection.tsv", sep="\t", index=False)
    counts.to_csv(folder / f"ST-cnts/{section}.tsv.gz", sep="\t")
    Image.fromarray(np.full((200, 240, 3), 200, np.uint8)).save(folder / f"ST-imgs/{section[0]}/{section}/he.jpg")
    return counts


def test_counts_and_positions_belong_to_the_same_spot(tmp_path: Path) -> None:
    counts = write_section(tmp_path)
    sdata = hd.io.her2st(tmp_path, "A1")
    table = sdata.tables["table"]
    assert list(table.obs_names) == [f"A1_{spot}" for spot in counts.index]
    np.testing.assert_array_equal(table.X.toarray(), counts)
    assert sparse.issparse(table.X)
    assert table.X.format == "csr"
    assert table.X.dtype == np.float32
    spots = pd.read_csv(tmp_path / "ST-spotfiles/A1_selection.tsv", sep="\t")
    spots.index = "A1_" + spots.x.astype(str) + "x" + spots.y.astype(str)
    spots = spots.loc[table.obs_names]
    np.testing.assert_allclose(table.obsm["spatial"], spots[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(table.obs[["array_col", "array_row"]], spots[["x", "y"]])
    assert table.obs["array_row"].dtype.kind == "i"
    shapes = sdata.shapes["A1"].loc[table.obs["instance_id"]]
    np.testing.assert_allclose(shapes.geometry.get_coordinates(), table.obsm["spatial"])


def test_the_scale_is_that_of_the_array_in_spite_of_rotation_and_jitter(tmp_path: Path) -> None:
    write_section(tmp_path)
    sdata = hd.io.her2st(tmp_path, "A1")
    to_um = get_transformation(sdata.images["A1_image"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert to_um[0, 0] == pytest.approx(200 / PX_PER_UNIT, rel=1e-6)
    assert get_transformation(sdata.shapes["A1"], "um") == get_transformation(sdata.images["A1_image"], "um")
    assert sdata.shapes["A1"].radius.iloc[0] * to_um[0, 0] == pytest.approx(50)


def test_spots_without_a_partner_or_outside_tissue_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = write_section(tmp_path)
    file = tmp_path / "ST-spotfiles/A1_selection.tsv"
    spots = pd.read_csv(file, sep="\t")
    spots.loc[0, "selected"] = 0
    spots.iloc[:-1].to_csv(file, sep="\t", index=False)
    counts.iloc[:-1].to_csv(tmp_path / "ST-cnts/A1.tsv.gz", sep="\t")
    caplog.clear()
    sdata = hd.io.her2st(tmp_path, "A1")
    # One has no row in the spot file; the one that is not selected is the one that has no counts.
    assert sdata.tables["table"].n_obs == len(counts) - 2
    assert caplog.text.count("left out") == 1


def test_an_unpacked_table_and_repeated_genes_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = write_section(tmp_path, genes=("ERBB2", "CD74", "ERBB2"))
    packed = tmp_path / "ST-cnts/A1.tsv.gz"
    (tmp_path / "ST-cnts/A1.tsv").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    table = hd.io.her2st(tmp_path, "A1").tables["table"]
    assert list(table.var_names) == ["ERBB2", "CD74", "ERBB2-1"]
    np.testing.assert_array_equal(table.X.toarray(), counts)
    assert "occur more than once" in caplog.text


def test_an_unknown_section_lists_those_there_are(tmp_path: Path) -> None:
    write_section(tmp_path, "A1")
    write_section(tmp_path, "B2")
    with pytest.raises(KeyError, match=r"'C9'; available: \['A1', 'B2'\]"):
        hd.io.her2st(tmp_path, "C9")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder 'ST-cnts'"):
        hd.io.her2st(tmp_path, "A1")


def test_a_missing_or_second_image_is_refused(tmp_path: Path) -> None:
    write_section(tmp_path)
    image = tmp_path / "ST-imgs/A/A1/he.jpg"
    image.with_name("other.jpg").write_bytes(image.read_bytes())
    with pytest.raises(FileNotFoundError, match="one image, but there are 2"):
        hd.io.her2st(tmp_path, "A1")
    image.with_name("other.jpg").unlink()
    image.unlink()
    with pytest.raises(FileNotFoundError, match="one image, but there are 0"):
        hd.io.her2st(tmp_path, "A1")


@pytest.mark.parametrize("value", ["-1", "0.5", "nan"])
def test_values_that_are_no_counts_are_refused(tmp_path: Path, value: str) -> None:
    counts = write_section(tmp_path).astype(str)
    counts.iloc[1, 1] = value
    counts.to_csv(tmp_path / "ST-cnts/A1.tsv.gz", sep="\t")
    with pytest.raises(ValueError, match=r"A1.tsv.gz.*raw counts"):
        hd.io.her2st(tmp_path, "A1")


def test_a_truncated_table_is_named(tmp_path: Path) -> None:
    write_section(tmp_path)
    file = tmp_path / "ST-cnts/A1.tsv.gz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"A1.tsv.gz cannot be unpacked"):
        hd.io.her2st(tmp_path, "A1")


def test_an_image_of_lower_resolution_is_refused(tmp_path: Path) -> None:
    write_section(tmp_path)
    Image.new("RGB", (60, 50)).save(tmp_path / "ST-imgs/A/A1/he.jpg")
    with pytest.raises(ValueError, match=r"lie outside the image, which is 60 x 50 px"):
        hd.io.her2st(tmp_path, "A1")


def test_a_given_scale_is_compared_with_the_array_and_the_image_can_be_turned(tmp_path: Path) -> None:
    write_section(tmp_path)
    known = 200 / PX_PER_UNIT
    image = hd.io.her2st(tmp_path, "A1", mpp=1.01 * known).images["A1_image"]
    assert get_transformation(image, "um").to_affine_matrix(("x",), ("x",))[0, 0] == pytest.approx(1.01 * known)
    with pytest.raises(ValueError, match="contradicts the spots of section 'A1'.*pitch of the array"):
        hd.io.her2st(tmp_path, "A1", mpp=2 * known)
    seen = [
        hd.io.her2st(tmp_path, "A1", orient=turn).images["A1_image"]["scale0"]["image"].to_numpy()
        for turn in (None, "rotate_180")
    ]
    np.testing.assert_array_equal(seen[0][:, ::-1, ::-1], seen[1])


def test_sections_can_be_put_together_in_one_object(tmp_path: Path) -> None:
    for section in ("A1", "A2"):
        write_section(tmp_path, section)
    both = sd.concatenate([hd.io.her2st(tmp_path, section) for section in ("A1", "A2")], concatenate_tables=True)
    assert sorted(both.shapes) == ["A1", "A2"]
    assert both.tables["table"].obs["region"].nunique() == 2


@pytest.mark.real
def test_real_sections_have_the_known_scale(real_data: Path) -> None:
    sdata = hd.io.her2st(real_data / "her2st", "C5")
    to_um = get_transformation(sdata.images["C5_image"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert to_um[0, 0] == pytest.approx(0.689, abs=0.001)
    assert sdata.tables["table"].shape == (181, 15721)


@pytest.mark.real
def test_reading_a_real_section_stays_under_one_and_a_half_gigabytes(real_data: Path) -> None:
    code = (
        "import resource, hisdiff as hd; hd.io.her2st;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak();"
        f"sdata = hd.io.her2st({str(real_data / 'her2st')!r}, 'B4');"
        "print((peak() - before) / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.5
