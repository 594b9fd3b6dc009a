from __future__ import annotations

import json
import shutil

import pytest
import spatialdata as sd
import tifffile

import hisdiff as hd
from hisdiff._cli import main


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for i, section in enumerate(hd.datasets.toy(seed=3, n_sections=2, size_um=400)):
        section.write(folder / f"s{i}.zarr")
    return folder


def report(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_the_commands_do_on_stores_what_the_functions_do_on_objects(stores, tmp_path, capsys) -> None:
    train, test = str(stores / "s0.zarr"), str(stores / "s1.zarr")
    model = str(tmp_path / "model")
    for line, told in (
        ([train, test], ["done", "done"]),
        ([train], ["unchanged"]),
        ([test, "--patch-um", "200"], ["done"]),
    ):
        assert main(["embed", *line, "--json"]) == 0
        assert [r["status"] for r in report(capsys)["results"]] == told
    assert main(["embed", test, "--json"]) == 0
    capsys.readouterr()
    assert main(["fit", train, "--save", model, "--method", "ridge", "--json"]) == 0
    fitted = report(capsys)["results"][0]
    assert main(["predict", test, "--model", model, "--json"]) == 0
    assert report(capsys)["results"][0]["model"] == fitted["model"]
    assert "ridge" in sd.read_zarr(test).tables["table"].layers
    assert main(["predict", test, "--model", model, "--json"]) == 0
    assert report(capsys)["results"][0]["status"] == "unchanged"  # a call that is repeated goes on where it was
    assert main(["evaluate", test, "--layer", "ridge", "--csv", str(tmp_path / "csv"), "--json"]) == 0
    assert -1 <= report(capsys)["results"][0]["summary"]["mean"]["pcc_all"] <= 1
    assert (tmp_path / "csv/s1.csv").exists()


def test_a_prediction_is_repeated_where_anything_that_decides_its_values_or_its_place_is_another(
    stores, tmp_path, capsys
) -> None:
    hd.pp.embed(section := sd.read_zarr(stores / "s0.zarr"))
    model = hd.tl.fit(section, method="ridge", save=tmp_path / "model")
    section = sd.read_zarr(stores / "s1.zarr")
    table = section.tables["table"]
    table.layers["half"] = table.X.copy()
    table.layers["half"].data //= 2
    section.write(tmp_path / "new.zarr")
    line = ["predict", str(tmp_path / "new.zarr"), "--model", str(tmp_path / "model"), "--json"]

    def status(*asked: str) -> str:
        assert main([*line, *asked]) == 0
        return report(capsys)["results"][0]["status"]

    for asked in (
        ["--force"],
        ["--library-size", "900"],
        ["--n-draws", "8"],
        ["--n-draws", "8", "--layer", "half"],
        ["--keep-draws", "2"],
        ["--units", "counts"],
        ["--seed", "1"],
        ["--table", "panel"],
        ["--resolution-um", "50"],
        ["--resolution-um", "50", "--calibrate", "none"],
        ["--key-added", "other"],
    ):
        assert (status(*asked), status(*(word for word in asked if word != "--force"))) == ("done", "unchanged"), asked
    stored = sd.read_zarr(tmp_path / "new.zarr")
    assert "ridge" in stored.tables["ridge"].layers
    assert (status(), status(), status("--table", "layers")) == ("done", "unchanged", "unchanged")
    assert "ridge" not in sd.read_zarr(tmp_path / "new.zarr").tables
    stored = sd.read_zarr(tmp_path / "new.zarr")
    stored.tables["table"].X = stored.tables["table"].X * 2  # measured anew
    hd.io.save(stored)
    assert (status(), status("--force")) == ("done", "done")
    assert (
        sd.read_zarr(tmp_path / "new.zarr").tables["table"].uns["hisdiff"]["predictions"]["ridge"]["model"] == model.id
    )


def test_the_table_of_the_spots_is_named_where_a_store_has_several(tmp_path, capsys) -> None:
    section = hd.datasets.toy(seed=3, size_um=400)
    patient = section.tables["table"].obs
    patient["patient"] = "p1"
    section.tables["again"] = section.tables["table"].copy()
    store, model = str(tmp_path / "s.zarr"), str(tmp_path / "model")
    section.write(store)
    fit = ["fit", store, "--save", model, "--method", "ridge"]
    predict, named = ["predict", store, "--model", model], ["--table-key", "again"]
    assert main([*fit, "--json"]) == 1
    assert "['again', 'table']; choose one with" in report(capsys)["results"][0]["error"]
    assert main([*fit, *named, "--patient-key", "patient", "--json"]) == 1
    assert "names one patient, 'p1'" in report(capsys)["results"][0]["error"]
    lines = [fit, predict, ["evaluate", store], ["adapt", store, "--model", model, "--save", str(tmp_path / "adapted")]]
    lines += [["report", store]]
    for line in lines:
        assert main([*line, *named, "--json"]) == 0, capsys.readouterr()
    capsys.readouterr()
    assert main([*predict, *named, "--image-key", "none", "--json"]) == 1
    assert "no image 'none'" in report(capsys)["results"][0]["error"]
    tables = sd.read_zarr(store).tables
    assert ("ridge" in tables["again"].layers, "ridge" in tables["table"].layers) == (True, False)


def test_a_slide_becomes_a_store_with_a_lattice(stores, tmp_path, capsys) -> None:
    (pyramid,) = sd.read_zarr(stores / "s0.zarr").images.values()
    image = sd.get_pyramid_levels(pyramid, n=0)
    slide = tmp_path / "slide.tif"
    tifffile.imwrite(slide, image.transpose("y", "x", "c").to_numpy(), photometric="rgb")
    assert main(["embed", str(slide), "--json"]) == 1  # a slide needs a place for its store
    assert "--out" in report(capsys)["results"][0]["error"]
    assert main(["embed", str(slide), "--out", str(tmp_path / "out"), "--mpp", "1", "--json"]) == 0
    store = report(capsys)["results"][0]["store"]
    assert "lattice" in sd.read_zarr(store).tables


def test_one_input_that_fails_is_reported_and_the_others_are_done(stores, tmp_path, capsys) -> None:
    damaged = shutil.copytree(stores / "s0.zarr", tmp_path / "damaged.zarr")
    chunk = next((damaged / "tables" / "table" / "X" / "data" / "c").iterdir())
    chunk.write_bytes(b"no chunk")
    (empty := tmp_path / "empty.zarr").mkdir()
    assert (
        main(["embed", str(tmp_path / "none.zarr"), str(damaged), str(empty), str(stores / "s0.zarr"), "--json"]) == 1
    )
    missing, broken, other, done = report(capsys)["results"]
    assert missing["status"] == broken["status"] == other["status"] == "failed"
    assert other["error"] == f"{empty} is not a zarr store: it has no zarr.json."
    assert "none.zarr" in missing["error"]
    assert f"{chunk} is damaged" in broken["error"]
    assert done["status"] != "failed"


def test_a_model_that_cannot_be_loaded_is_reported_for_every_input(stores, capsys) -> None:
    assert main(["predict", str(stores / "s0.zarr"), str(stores / "s1.zarr"), "--model", "nowhere", "--json"]) == 1
    results = report(capsys)["results"]
    assert [(of["status"], "--model: " in of["error"]) for of in results] == [("failed", True)] * 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == hd.__version__


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (["dmeo"], 2, "demo"),
        (["fit"], 2, "hisdiff fit --help"),
        (["predict", "x.zarr", "--model", "no-such-model"], 1, "no-such-model"),
        (["predict", "x.zarr", "--model", "none", "--table", "pannel"], 2, "'pannel'"),
        (["predict", "x.zarr", "--model", "none", "--at", "nuclei", "--table", "panel"], 2, "table='panel'"),
        (["fit", "x.zarr", "--save", "none", "--config", "fats"], 2, "fast"),
        (["embed", "x.zarr", "--patch-um", "0"], 2, "--patch-um"),
        (["evaluate", "x.zarr", "--csv", __file__], 2, "--csv"),
    ],
)
def test_what_cannot_be_done_ends_with_a_message_and_a_status(line, status, told, capsys) -> None:
    assert main(line) == status
    assert told in capsys.readouterr().err
