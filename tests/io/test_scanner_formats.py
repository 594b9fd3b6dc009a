"""Slides that only OpenSlide reads, made here in the formats that it tells by their tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd
import tifffile
from slides import write_dicom, write_ndpi

import hisdiff as hd
from hisdiff._sdata._image import levels_of

pytest.importorskip("openslide")
MPP = 0.46


@pytest.fixture(scope="module")
def levels() -> list[np.ndarray]:
    y, x = np.mgrid[:600, :900]
    fine = np.stack([200 + 30 * np.sin(x / 60), 140 + 40 * np.cos(y / 50), 180 + 20 * np.sin((x + y) / 90)], axis=-1)
    fine[:40, :40] = 10, 200, 60
    return [fine.astype(np.uint8), fine.reshape(300, 2, 450, 2, 3).mean(axis=(1, 3)).astype(np.uint8)]


def mpp_of(sdata: sd.SpatialData, key: str) -> float:
    to_um = sd.transformations.get_transformation(sdata.images[key], "um")
    return float(to_um.to_affine_matrix(("x", "y"), ("x", "y"))[0, 0])


def check(path: Path, levels: list[np.ndarray], name: str, within: float = 2.0) -> None:
    sdata = hd.io.image(path)
    read = levels_of(sdata.images[f"{name}_image"])
    assert [level.shape[1:] for level in read[:2]] == [level.shape[:2] for level in levels]
    for level, expected in zip(read, levels):
        got = np.moveaxis(level.data.compute(), 0, -1).astype(int)
        assert np.abs(got - expected).mean() <= within
    assert mpp_of(sdata, f"{name}_image") == pytest.approx(MPP)


def test_ndpi(tmp_path: Path, levels: list[np.ndarray]) -> None:
    write_ndpi(tmp_path / "S 1.ndpi", levels, MPP)
    check(tmp_path / "S 1.ndpi", levels, "S_1")


@pytest.mark.parametrize("j2k", [False, True], ids=["jpeg", "jpeg2000"])
def test_dicom_as_a_folder_and_as_any_of_its_files(tmp_path: Path, levels: list[np.ndarray], j2k: bool) -> None:
    pytest.importorskip("pydicom")
    folder = tmp_path / "slide"
    write_dicom(folder, levels, MPP, j2k=j2k)
    for path, name in ((folder, "slide"), (folder / "1.dcm", "1")):
        check(path, levels, name, within=0 if j2k else 2)
    cut, whole = tmp_path / "cut.dcm", (folder / "0.dcm").read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=r"cut.dcm .*complete"):
        hd.io.image(cut)
    write_dicom(folder, levels[1:], MPP, stem="other")
    with pytest.raises(ValueError, match=r"of 2 slides.*'0.dcm', 'other0.dcm'"):
        hd.io.image(folder)


def test_pixels_are_those_of_tifffile(tmp_path: Path) -> None:
    from hisdiff.io._color import to_rgb
    from hisdiff.io._openslide import open_slide

    pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, photometric="rgb", tile=(256, 256))
    stored, _ = open_slide(tmp_path / "slide.tif", "no reason")
    (level,) = to_rgb(stored, "slide")
    np.testing.assert_array_equal(level.compute(), pixels.transpose(2, 0, 1))
