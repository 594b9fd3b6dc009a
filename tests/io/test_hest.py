"""Samples in the layout of HEST-1k, made here in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd
from spatialdata.transformations import get_transformation

import hisdiff as hd


def mpp_of(element: object) -> float:
    return get_transformation(element, "um").to_affine_matrix(("x", "y"), ("x", "y"))[0, 0]


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_sample_is_read_at_the_estimated_scale(hest_folder: Path) -> None:
    sdata = hd.io.hest(hest_folder, "SPA148")
    assert list(sdata.images) == ["SPA148_image"]
    assert mpp_of(sdata.images["SPA148_image"]) == mpp_of(sdata.shapes["SPA148"]) == pytest.approx(0.5)
    assert sdata.shapes["SPA148"].radius.iloc[0] == pytest.approx(100)
    table = sdata.tables["table"]
    assert (table.X.format, table.X.dtype) == ("csr", np.float32)
    assert "spatial" not in table.uns
    # The pyramid is the file's own.
    assert sd.get_pyramid_levels(sdata.images["SPA148_image"], n=1).shape == (3, 650, 750)


@pytest.mark.parametrize("unknown", [None, "", float("nan")])
def test_the_embedded_scale_is_used_where_the_estimate_is_missing(hest_folder: Path, unknown: object) -> None:
    change(hest_folder / "metadata/SPA148.json", pixel_size_um_estimated=unknown)
    assert mpp_of(hd.io.hest(hest_folder, "SPA148").images["SPA148_image"]) == pytest.approx(0.46)
    change(hest_folder / "metadata/SPA148.json", pixel_size_um_embedded=None)
    with pytest.raises(ValueError, match="neither 'pixel_size_um_estimated' nor"):
        hd.io.hest(hest_folder, "SPA148")


def test_pseudo_spots_are_as_wide_as_they_were_made(hest_folder: Path) -> None:
    # Visium HD: the metadata have the 2 um bins, the table spots of 100 um that were made of them.
    change(hest_folder / "metadata/SPA148.json", spot_diameter=2)
    assert hd.io.hest(hest_folder, "SPA148").shapes["SPA148"].radius.iloc[0] == pytest.approx(100)


def test_an_unknown_sample_lists_those_there_are(hest_folder: Path) -> None:
    with pytest.raises(KeyError, match=r"'SPA999'.*available: \['SPA148'\]"):
        hd.io.hest(hest_folder, "SPA999")


@pytest.mark.parametrize("file", ["st/SPA148.h5ad", "wsis/SPA148.tif", "metadata/SPA148.json"])
def test_a_missing_file_points_to_the_download(hest_folder: Path, file: str) -> None:
    (hest_folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"\['{file}'\]; hd.datasets.hest\('SPA148'"):
        hd.io.hest(hest_folder, "SPA148")


def test_broken_files_are_named(hest_folder: Path) -> None:
    file = hest_folder / "st/SPA148.h5ad"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"SPA148.h5ad cannot be read"):
        hd.io.hest(hest_folder, "SPA148")
    (hest_folder / "metadata/SPA148.json").write_text("{")
    with pytest.raises(ValueError, match=r"SPA148.json is not valid JSON"):
        hd.io.hest(hest_folder, "SPA148")


def test_a_few_spots_beyond_the_border_are_left_out_many_are_an_error(
    hest_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import anndata as ad

    file = hest_folder / "st/SPA148.h5ad"
    table = ad.read_h5ad(file)
    table.obsm["spatial"][0] = [-5, 10]
    table.write_h5ad(file)
    assert hd.io.hest(hest_folder, "SPA148").tables["table"].n_obs == table.n_obs - 1
    assert "left out 1 of 36 spots" in caplog.text
    table.obsm["spatial"] = table.obsm["spatial"] * 10
    table.write_h5ad(file)
    with pytest.raises(ValueError, match="lie outside the image"):
        hd.io.hest(hest_folder, "SPA148")


def test_metadata_that_contradict_the_spots_are_refused(hest_folder: Path) -> None:
    change(hest_folder / "metadata/SPA148.json", pixel_size_um_estimated=0.2125)
    with pytest.raises(ValueError, match=r"0\.2125 um by the metadata.*0\.5 um by the pitch of the spots"):
        hd.io.hest(hest_folder, "SPA148")
    assert mpp_of(hd.io.hest(hest_folder, "SPA148", mpp=0.5).shapes["SPA148"]) == 0.5


def test_cells_without_a_width_are_as_wide_as_they_are_apart(hest_folder: Path) -> None:
    import anndata as ad

    change(hest_folder / "metadata/SPA148.json", spot_diameter=float("nan"))
    file = hest_folder / "st/SPA148.h5ad"
    table = ad.read_h5ad(file)
    table.uns["spatial"]["ST"]["scalefactors"]["spot_diameter_fullres"] = float("nan")
    table.write_h5ad(file)
    assert hd.io.hest(hest_folder, "SPA148").shapes["SPA148"].radius.iloc[0] == pytest.approx(100)
