"""The how-to pages work when followed to the letter, on small folders of the layouts that they are about."""

import shlex

import folders
import numpy as np
import pytest
import spatialdata as sd
from pages import blocks_of, run_page

import hisdiff as hd
from hisdiff._cli import main

SIZE_UM = 500


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sections():
    return hd.datasets.toy(seed=5, n_sections=2, size_um=SIZE_UM)


def test_visium(sections, tmp_path):
    for i, section in enumerate(sections, start=1):
        folders.visium(section, tmp_path / f"patient{i}" / "outs")
    names = run_page("howto/visium.md")
    assert np.isfinite(np.asarray(names["sdata"].tables["hisdiff_16um"].X)).all()
    table = names["other"].tables["table"]
    assert np.isfinite(table.layers["hisdiff"][:, table.var["hisdiff_modelled"].to_numpy()]).all()
    assert "ERBB2" in names["accuracy"].index


def test_the_readme(sections, tmp_path):
    folders.visium(sections[0], tmp_path / "patient1" / "outs")
    folders.write_slide(sections[1], tmp_path / "patient2" / "slide.svs")
    names = run_page("../README.md")
    assert "hisdiff" in names["test"].tables["lattice"].layers
    assert "hisdiff_16um" in names["test"].tables


def test_from_nothing_to_a_map_of_a_visium_folder_takes_eight_lines():
    """Two of the shell to install, and those of the first block of the page."""
    lines = [line for line in blocks_of("howto/visium.md", "python")[0].splitlines() if line.strip()]
    assert len(lines) + 2 <= 8


def test_looking_and_reporting(sections, tmp_path):
    sdata = sections[0]
    names = sdata.tables["table"].var_names.tolist()
    sdata.tables["table"].var_names = ["ERBB2", "CD74", *names[2:]]
    hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata)
    hd.tl.predict(sdata, resolution_um=16, key_added="hisdiff")
    table = sdata.tables["hisdiff_16um"]
    sdata.tables["table"].obs["hisdiff_uncertainty"] = table.obs["hisdiff_uncertainty"] = 1.0
    run_page("howto/explore.md", sdata=sdata)
    assert {"look.html", "report.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_stain_and_slide_quality():
    sections = hd.datasets.toy(seed=5, n_sections=2, size_um=400)
    before = [next(iter(sdata.images.values()))["scale0"]["image"].to_numpy() for sdata in sections]
    names = run_page("howto/stain.md", sections=sections)
    after = [next(iter(sdata.images.values()))["scale0"]["image"].to_numpy() for sdata in sections]
    assert [image.shape for image in after] == [image.shape for image in before]
    assert (after[1] != before[1]).mean() > 0.2
    assert names["tiles"].n_obs > 4


@pytest.mark.slow
def test_visium_hd(sections, tmp_path):
    folders.visium_hd(sections[0], tmp_path / "patient1" / "outs")
    folders.write_slide(sections[1], tmp_path / "patient2" / "slide.tif")
    names = run_page("howto/visium_hd.md")
    assert np.isfinite(np.asarray(names["other"].tables["hisdiff_16um"].X)).all()


@pytest.mark.slow
def test_xenium(sections, tmp_path):
    folders.xenium(sections[0], tmp_path / "patient1" / "outs")
    folders.write_slide(sections[1], tmp_path / "patient2" / "slide.tif")
    names = run_page("howto/xenium.md")
    assert np.isfinite(np.asarray(names["slide"].tables["hisdiff_20um"].X)).all()


def test_only_an_image(sections, tmp_path):
    train, other = sections
    train.tables["table"].var_names = folders.genes_of(train)
    hd.tl.fit(train, save=tmp_path / "my-model")
    folders.write_slide(other, tmp_path / "patient2" / "slide.tif")
    names = run_page("howto/image_only.md")
    record = names["slide"].tables["lattice"].uns["hisdiff"]["predictions"]["hisdiff"]
    assert record["transfer"] in ("alike", "unlike")
    assert "hisdiff_20um" in sd.read_zarr(tmp_path / "patient2.zarr").tables


def test_an_encoder_of_my_own(sections, tmp_path):
    folders.visium(sections[0], tmp_path / "patient1" / "outs")
    names = run_page("howto/own_encoder.md")
    assert "hisdiff_50um" in names["sdata"].tables


def test_a_new_patient(sections):
    cohort, new = sections
    for sdata in sections:
        sdata.tables["table"].var_names = folders.genes_of(sdata)
    new.tables["table"].obs["measured"] = np.arange(new.tables["table"].n_obs) % 5 == 0
    names = run_page("new_patient.md", cohort=cohort, new=new)
    assert names["adapted"].n_adapted == names["measured"].sum()


def test_on_a_cluster(sections, tmp_path):
    for name, section in zip(("one", "two"), sections):
        section.write(tmp_path / "train" / f"{name}.zarr")
    folders.write_slide(sections[1], tmp_path / "slides" / "patient2.tif")
    for line in "".join(blocks_of("howto/cluster.md", "bash")).splitlines():
        command, *arguments = shlex.split(line)
        assert command == "hisdiff"
        assert main(arguments) == 0, line
    assert "ridge_50um" in sd.read_zarr(tmp_path / "stores" / "patient2.zarr").tables
