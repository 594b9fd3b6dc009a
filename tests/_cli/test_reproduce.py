from __future__ import annotations

import json

import anndata as ad
import pytest
import spatialdata as sd
import tifffile

import hisdiff as hd
from hisdiff._cli import main

SAMPLES = ("NCBI759", "NCBI760", "NCBI761")
TINY = {"width": 16, "depth": 1, "heads": 2, "n_steps": 3, "max_epochs": 2, "batch_size": 32}


@pytest.fixture
def hest(tmp_path):
    """Three samples in the layout of HEST-1k, at scales that differ a little."""
    folder = tmp_path / "hest"
    for kind in ("st", "wsis", "metadata"):
        (folder / kind).mkdir(parents=True)
    for i, (name, sdata) in enumerate(zip(SAMPLES, hd.datasets.toy(seed=2, n_sections=3, size_um=400))):
        (pyramid,) = sdata.images.values()
        image, table = sd.get_pyramid_levels(pyramid, n=0), sdata.tables["table"]
        pixels = image.transpose("y", "x", "c").to_numpy()
        tifffile.imwrite(folder / f"wsis/{name}.tif", pixels, photometric="rgb")
        plain = ad.AnnData(table.X, obs=table.obs[[]], var=table.var[[]], obsm={"spatial": table.obsm["spatial"]})
        plain.write_h5ad(folder / f"st/{name}.h5ad")
        mpp = (1 + i / 100) * 400 / len(pixels)
        facts = {"pixel_size_um_estimated": mpp, "spot_diameter": 55, "st_technology": "toy"}
        (folder / f"metadata/{name}.json").write_text(json.dumps(facts))
    return folder


def reproduce(hest, out, *more: str) -> int:
    options = ["--hest", str(hest), "--out", str(out), "--encoder", "texture", "--config", json.dumps(TINY), "--json"]
    return main(["reproduce", *more, *options, "--device", "cpu"])


@pytest.mark.slow
def test_the_study_is_repeated_in_its_published_setting(hest, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    assert reproduce(hest, out, "cscc", "--sample", SAMPLES[1], "--sample", SAMPLES[2]) == 0
    (told,) = json.loads(capsys.readouterr().out)["results"]
    assert (told["status"], told["test"], told["train"]) == ("done", SAMPLES[0], [*SAMPLES[1:]])
    assert told["config"]["reference_compat"] is True
    assert (told["config"]["sampler"], told["config"]["precision"]) == ("ddpm", "tf32")
    assert {"pcc_all", "mse", "mae", "rvd"} <= set(told["summary"])
    assert json.loads((out / "summary.json").read_text())["summary"] == told["summary"]
    assert (out / "evaluation.csv").is_file()
    model = hd.models.load(out / "model")
    assert sorted(model.genes) == sorted(_published_genes(hest))
    assert told["patch_um"] == pytest.approx(224 * 1.01 * _mpp(hest))
    # What was fitted is not fitted again, and gives the same.
    monkeypatch.setattr(hd.tl, "fit", None)
    assert reproduce(hest, out, "cscc", "--sample", SAMPLES[1], "--sample", SAMPLES[2]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["summary"] == told["summary"]


def _mpp(hest) -> float:
    return json.loads((hest / f"metadata/{SAMPLES[0]}.json").read_text())["pixel_size_um_estimated"]


def _published_genes(hest) -> list[str]:
    sections = [hd.io.hest(hest, name) for name in SAMPLES]
    return hd.pp.select_genes(sections, reference_compat=True, inplace=False)


def test_an_unknown_study_or_sample_is_told_before_anything_is_read(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    for asked, text in ((["her3st"], "her2st"), (["cscc", "--sample", "SPA119"], "NCBI760")):
        assert reproduce(tmp_path / "none", tmp_path / "out", *asked) == 1
        assert text in json.loads(capsys.readouterr().out)["results"][0]["error"]
    assert reproduce(tmp_path / "none", tmp_path / "file", "cscc") == 2
    assert "--out" in capsys.readouterr().err
    assert main(["reproduce", "cscc", "--hest", "none", "--out", "out", "--config", "[3", "--json"]) == 1
    assert "--config '[3' is not JSON" in json.loads(capsys.readouterr().out)["results"][0]["error"]


def test_the_first_section_is_counted_twice_where_the_published_code_does() -> None:
    first, second = hd.datasets.toy(seed=2, n_sections=2, size_um=500)
    options = {"n_hvg": 10_000, "n_top": 30, "inplace": False}
    twice = hd.pp.select_genes([first, second], reference_compat=True, **options)
    again = hd.pp.select_genes([first, sd.deepcopy(first), second], **options)
    assert twice == again != hd.pp.select_genes([first, second], **options)
