from __future__ import annotations

import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from hisdiff._settings import settings
from hisdiff.tl._gene_sets import in_panel, read_gene_sets

GMT = "alpha\tfirst set\tA\tB\tC\tB\nbeta\t\tD,1.0\tE,0.5\n\n"


@pytest.fixture
def gmt(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text(GMT)
    return path


def test_a_gmt_file_is_read_and_genes_stand_once(gmt) -> None:
    expected = {"alpha": ["A", "B", "C"], "beta": ["D", "E"]}
    assert read_gene_sets(gmt) == read_gene_sets(str(gmt)) == expected


def test_a_mapping_is_as_good_and_slashes_are_replaced() -> None:
    assert read_gene_sets({"up/down": ("A", "A", "B"), "x": np.array(["C"])}) == {"up|down": ["A", "B"], "x": ["C"]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_files_of_spreadsheets_are_read_and_empty_sets_left_out(tmp_path, encoding, caplog) -> None:
    path = tmp_path / "sets.gmt"
    path.write_bytes("alpha\tvon München\tA\tB\nempty\tnone\t\t\n".encode(encoding))
    assert read_gene_sets(path) == {"alpha": ["A", "B"]}
    assert "left out 1 gene sets without a gene, such as ['empty']" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha,A,B\n", "not a GMT file: line 1 has 1 field"),
        ("alpha\tx\tA\nbeta\tx\tB\nalpha\tx\tC\n", "gene set 'alpha' more than once \\(again in line 3\\)"),
        ("\n", "holds no gene set"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not a text file"),
    ],
)
def test_files_that_are_no_gmt_are_refused(tmp_path, text, message) -> None:
    path = tmp_path / "bad.gmt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_gene_sets(path)


@pytest.mark.parametrize(
    ("gene_sets", "error", "message"),
    [
        ({}, ValueError, "mapping is empty"),
        ({"a": []}, ValueError, "'a' has no gene"),
        ({"a": "TP53"}, TypeError, "list of gene names"),
        ({"a": [1, 2]}, TypeError, "list of gene names"),
        ({"a/b": ["A"], "a|b": ["B"]}, ValueError, "differ in / and"),
        (["A", "B"], TypeError, "not list"),
        ("nowhere.gmt", FileNotFoundError, "no file nowhere.gmt"),
        ("some/folder", FileNotFoundError, "no file some"),
        ("what?", ValueError, "neither a file that exists nor the name of a library"),
    ],
)
def test_other_mistakes_are_named(gene_sets, error, message) -> None:
    with pytest.raises(error, match=message):
        read_gene_sets(gene_sets)


class Answer:
    def __init__(self, text):
        self.text = text

    def read(self):
        return self.text.encode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_a_library_is_downloaded_once_and_kept(monkeypatch) -> None:
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return Answer(GMT)

    monkeypatch.setattr("hisdiff.tl._gene_sets._resolve", lambda host: None)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    for name in ("KEGG_test", "h.all.v2024.1.Hs.symbols"):
        assert read_gene_sets(name) == read_gene_sets(name)
    assert [url.split("/")[2] for url in asked] == ["maayanlab.cloud", "data.broadinstitute.org"]
    assert asked[1].endswith("/2024.1.Hs/h.all.v2024.1.Hs.symbols.gmt")
    assert (settings.cache_dir / "gene_sets" / "KEGG_test.gmt").read_text() == GMT


def test_an_unknown_library_is_said_and_not_kept(monkeypatch) -> None:
    monkeypatch.setattr("hisdiff.tl._gene_sets._resolve", lambda host: None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer("<html>no such library</html>"))
    with pytest.raises(KeyError, match="maayanlab.cloud has no library 'KEGG_1066'"):
        read_gene_sets("KEGG_1066")

    def missing(url, timeout):
        raise urllib.error.HTTPError(url, 404, "Not Found", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", missing)
    with pytest.raises(KeyError, match="answer 404"):
        read_gene_sets("KEGG_1066")
    assert not (settings.cache_dir / "gene_sets" / "KEGG_1066.gmt").exists()


@pytest.mark.parametrize("silent", [False, True])
def test_without_a_network_a_library_is_a_clear_error_and_silence_is_not_waited_for(monkeypatch, silent) -> None:
    given_up, waited_in_vain = threading.Event(), []

    def look_up(*_):
        if silent:  # a name server that does not answer
            waited_in_vain.append(not given_up.wait(60))
        raise OSError("Name or service not known")

    monkeypatch.setattr("hisdiff.tl._gene_sets.RESOLVE_S", 0.2)
    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with pytest.raises(ConnectionError, match="maayanlab.cloud cannot be reached.*Give a GMT file or a mapping"):
        read_gene_sets("KEGG_2021_Human")
    given_up.set()
    assert not any(waited_in_vain)


def test_sets_are_cut_to_the_panel_and_small_ones_left_out(caplog) -> None:
    panel = np.array(["C", "A", "B", "Z"])
    found = in_panel({"alpha": ["A", "B", "Q"], "beta": ["Z"]}, panel, 2, 5)
    assert {name: rows.tolist() for name, rows in found.items()} == {"alpha": [1, 2]}
    assert "1 of 2 gene sets have fewer than 2" in caplog.text


def test_no_overlap_says_what_may_be_wrong() -> None:
    panel = np.array(["Tp53", "Erbb2", "Cd74"])
    with pytest.raises(ValueError, match="upper and lower case ignored, 3 genes.*another species"):
        in_panel({"human": ["TP53", "ERBB2", "CD74"]}, panel, 2, 9)
    with pytest.raises(ValueError, match="None of the 1 gene sets has 2 to 9 genes among the 3 .*or lower min_size"):
        in_panel({"far": ["X", "Y", "Cd74"]}, panel, 2, 9)
