"""Pages to explore a section, in a real browser where there is one."""

import base64
import json
import re
import sys
import types
import zlib

import browser
import numpy as np
import pytest
from anndata import AnnData

import hisdiff as hd

MPP, BIN_UM = 2.0, 50.0


@pytest.fixture(scope="module")
def sdata(make_section):
    sdata = make_section("s1", mpp=MPP, side=4)
    hd.tl.fit(sdata, method="ridge")
    hd.tl.predict(sdata)
    hd.tl.predict(sdata, resolution_um=BIN_UM)
    sdata.tables["table"].obs["kind"] = np.where(np.arange(16) < 8, "left", "right")
    return sdata


@pytest.fixture(scope="module")
def page(sdata):
    return hd.pl.view(sdata, ["A00", "B01", "kind"], viewer="html")


def data_of(page) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.html, re.DOTALL)[1])


def unpack(text, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_a_page_holds_every_value_of_its_genes_and_loads_nothing(page, sdata):
    assert not re.search(r'(src|href)="?(https?:)?//', page.html)
    data, table = data_of(page), sdata.tables["table"]
    gene, _, kind = data["names"]
    assert [one["label"] for one in gene["maps"]] == [
        "measured",
        "predicted by ridge",
        "50 µm bins: predicted by ridge",
    ]
    measured = gene["maps"][0]
    low, high = measured["range"]
    shown = low + (unpack(measured["codes"], np.uint8) - 1.0) / 253 * (high - low)
    truth = np.clip(np.log2(1 + table.X[:, 0].toarray().ravel()), low, high)
    np.testing.assert_allclose(shown, truth, atol=(high - low) / 500)
    assert [name for name, _ in kind["maps"][0]["categories"]] == ["left", "right"]
    assert unpack(kind["maps"][0]["codes"], np.uint8).tolist() == [1] * 8 + [2] * 8
    raster = data["marks"][1]
    assert (unpack(raster["location"], "<i4") >= 0).sum() == sdata.tables["ridge_50um"].n_obs


def test_titles_of_any_kind_do_no_harm(sdata):
    page = hd.pl.view(sdata, "A00", viewer="html", title="</script><b>bold")
    assert data_of(page)["title"] == "</script><b>bold"
    assert "<b>bold" not in page.html
    assert "&lt;b&gt;" in page._repr_html_() or "\\u003c" in page._repr_html_()


def test_a_page_is_written_where_it_is_asked_for_and_holds_no_more_than_it_can(sdata, tmp_path, caplog):
    page = hd.pl.view(sdata, path=tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf8") == page.html
    assert "12 gene(s) in 3 map(s)" in caplog.text
    with pytest.raises(ValueError, match="up to 50 genes, not 51"):
        hd.pl.view(sdata, ["A00"] * 51, viewer="html")
    with pytest.raises(ImportError, match="pip install"):
        hd.pl.view(sdata, "A00", viewer="napari")


def test_napari_gets_the_object_where_it_is_installed(sdata, monkeypatch, caplog):
    calls = []
    state = types.SimpleNamespace(loading=False)

    class Interactive:
        """Loads one element at a time and drops those that are added meanwhile, as the real one does."""

        def __init__(self, sdata, headless):
            calls.append((sdata, headless))
            thread = types.SimpleNamespace(wait=lambda: setattr(state, "loading", False))
            self._sdata_widget = types.SimpleNamespace(worker_thread=thread)

        def add_element(self, element, element_coordinate_system, view_element_system):
            if not state.loading:
                calls.append((element, element_coordinate_system))
            state.loading = True

    module = types.ModuleType("napari_spatialdata")
    module.Interactive, module.__spec__ = Interactive, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "napari_spatialdata", module)
    qt = types.ModuleType("qtpy.QtWidgets")
    qt.QApplication = types.SimpleNamespace(processEvents=lambda: None)
    monkeypatch.setitem(sys.modules, "qtpy", types.ModuleType("qtpy"))
    monkeypatch.setitem(sys.modules, "qtpy.QtWidgets", qt)
    assert isinstance(hd.pl.view(sdata), Interactive)
    assert calls[0] == (sdata, True)
    assert [element for element, _ in calls[1:]] == ["s1_image", "s1", "ridge_50um_bins"]
    assert len(calls) == 4
    hd.pl.view(sdata, "A00", viewer="html")
    assert len(calls) == 4
    assert "anndata<0.13" not in caplog.text
    source = "column = self.adata._get_X(layer=layer)"  # of a release that needs what anndata 0.13 has no longer
    monkeypatch.setattr("inspect.getsource", lambda _: source)
    module._model = types.ModuleType("napari_spatialdata._model")
    monkeypatch.delattr(AnnData, "_get_X", raising=False)
    hd.pl.view(sdata)
    assert "anndata<0.13" in caplog.text


@pytest.mark.slow
def test_a_browser_draws_the_maps_and_they_move_together(page, sdata):
    script = """
    await started;
    const pixel = (i, x, y) => {
      const canvas = state.panels[i].canvas, s = state.scale * (canvas.width / canvas.clientWidth);
      return [...canvas.getContext("2d").getImageData(canvas.width / 2 + (x - state.x) * s, canvas.height / 2 + (y - state.y) * s, 1, 1).data];
    };
    const told = { panels: state.panels.length, titles: state.panels.map(each => each.map.title), bars: state.panels.map(each => each.scale.textContent) };
    state.tissue = false; state.opacity = 1; redraw();
    const marks = data.marks[0];
    told.spots = [...Array(marks.n).keys()].map(i => pixel(0, marks.where[3 * i], marks.where[3 * i + 1]));
    told.between = pixel(0, marks.where[0] + 50, marks.where[1] + 50);
    told.bin = pixel(2, marks.where[0], marks.where[1]);
    const canvas = state.panels[0].canvas, box = canvas.getBoundingClientRect();
    const middle = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true, cancelable: true };
    const before = state.scale;
    canvas.dispatchEvent(new WheelEvent("wheel", { ...middle, deltaY: -400 }));
    told.zoomed = state.scale / before;
    const [x, y] = [state.x, state.y];
    canvas.dispatchEvent(new PointerEvent("pointerdown", { ...middle, pointerId: 1 }));
    canvas.dispatchEvent(new PointerEvent("pointermove", { ...middle, clientX: middle.clientX + 30, pointerId: 1 }));
    canvas.dispatchEvent(new PointerEvent("pointerup", { ...middle, pointerId: 1 }));
    told.moved = (x - state.x) * state.scale;
    const at_spot = { ...middle, clientX: middle.clientX + (marks.where[0] - state.x) * state.scale, clientY: middle.clientY + (marks.where[1] - state.y) * state.scale };
    canvas.dispatchEvent(new PointerEvent("pointermove", at_spot));
    told.hover = $("readout").textContent;
    $("search").value = "b0"; $("search").dispatchEvent(new Event("input"));
    told.found = [...$("names").options].map(option => option.textContent);
    $("search").value = ""; $("search").dispatchEvent(new Event("input"));
    $("names").value = "2"; $("names").dispatchEvent(new Event("change"));
    await new Promise(done => setTimeout(done, 300));
    told.kind = [...document.querySelectorAll(".legend div")].map(each => each.textContent);
    $("names").value = "0"; $("names").dispatchEvent(new Event("change"));
    document.querySelector('[data-label="measured"]').click();
    await new Promise(done => setTimeout(done, 300));
    told.left = state.panels.map(each => each.map.label);
    return told;
    """
    told = browser.run(page.html, script)
    assert told["panels"] == 3
    assert told["titles"][0] == "A00, measured"
    assert all("µm" in bar for bar in told["bars"])
    gene = data_of(page)["names"][0]["maps"]
    colors = unpack(data_of(page)["colors"], np.uint8).reshape(-1, 3)
    expected = colors[unpack(gene[0]["codes"], np.uint8).astype(int) - 1]
    assert np.abs(np.array(told["spots"])[:, :3] - expected.astype(int)).max() <= 2
    assert told["between"][:3] == [255, 255, 255]
    assert told["bin"][:3] != [255, 255, 255]
    assert told["zoomed"] == pytest.approx(np.e)
    assert told["moved"] == pytest.approx(30)
    assert told["hover"].startswith("measured: ")
    assert told["found"] == ["B01"]
    assert told["kind"] == ["kind", "left", "right"]
    assert told["left"] == ["predicted by ridge", "50 µm bins: predicted by ridge"]
