import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff._cli import main


@pytest.fixture(scope="module")
def sdata(make_section):
    train, test = make_section("s1", mpp=2.0, side=8), make_section("s2", mpp=2.0, side=6, seed=1)
    model = hd.tl.fit(train, method="ridge")
    hd.tl.predict(test, model)
    hd.tl.predict(test, model, resolution_um=50)
    hd.tl.marker_regions(test, ["A00", "A02"], layer="X")
    hd.tl.coexpression(test)
    return test


@pytest.fixture(scope="module")
def page(sdata):
    return hd.pl.report(sdata, genes=["B01"])


def headings(page) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.html)


def test_a_page_has_everything_that_is_in_an_object_and_loads_nothing(sdata, page):
    assert headings(page) == [
        "Contents", "Predictions and transfer", "Accuracy", "Maps", "Regions", "Embedding, coexpression, pathways", "Provenance",
    ]  # fmt: skip
    assert not re.search(r'(src|href)="?(https?:)?//', page.html)
    assert (
        len(re.findall("data:image/(?:png|jpeg);base64", page.html)) == 7
    )  # sections, accuracy, gene, uncertainty, region, embedding, coexpression
    model = sdata.tables["table"].uns["hisdiff"]["predictions"]["ridge"]["model"]
    for told in (model, "Chosen genes: B01", "Records of table ridge_50um", "library-size normalised"):
        assert told in page.html
    assert "not shown" not in page.html


def test_what_a_reader_has_to_know_stands_first(sdata, page):
    record = sdata.tables["table"].uns["hisdiff"]["predictions"]["ridge"]
    before = record["transfer"]
    record["transfer"] = {"s2": "unlike"}
    unlike = hd.pl.report(sdata, genes=["B01"]).html
    record["transfer"] = before
    assert unlike.index("s2 is unlike the tissue that the model was trained on") < unlike.index("<h2>")
    assert 'class="notes"' not in page.html


def test_an_image_alone_has_a_page_and_an_unknown_gene_has_none(sdata, make_section):
    alone = sd.SpatialData(images=make_section("s3").images)
    assert headings(hd.pl.report(alone)) == ["Contents"]
    with pytest.raises(KeyError, match="'XYZ'"):
        hd.pl.report(sdata, genes="XYZ")
    with pytest.raises(KeyError, match="no table with gene 'A00'"):
        hd.pl.report(alone, genes="A00")
    assert not plt.get_fignums(), "an error leaves no figure behind"


def test_the_command_writes_a_page_beside_each_store_and_leaves_the_store_alone(sdata, tmp_path, capsys):
    sdata.write(tmp_path / "one.zarr")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "one.zarr").rglob("*"))
    assert main(["report", str(tmp_path / "one.zarr"), "--genes", "A00, B01", "--json"]) == 0
    assert (tmp_path / "one.html").read_text(encoding="utf8").startswith("<!doctype html>")
    assert before == sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "one.zarr").rglob("*"))
    assert main(["report", str(tmp_path / "none.zarr")]) == 1
    assert "There is no file or folder" in capsys.readouterr().err
    assert np.all([path.suffix in (".zarr", ".html") for path in tmp_path.iterdir()])


def test_a_place_that_cannot_have_a_page_is_refused_before_it_is_made(make_section, tmp_path):
    with pytest.raises(ValueError, match="is a folder; the page is a file, such as"):
        hd.pl.report(make_section(), tmp_path)
