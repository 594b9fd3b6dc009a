"""An encoder of the user's own works wherever a named one does."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd

import hisdiff as hd
from hisdiff.encoders import DenseSpec, EncoderSpec, _registry

SHORT = {"max_steps": 10, "validate_every": 10}


class MeanColor:
    """That of the page on contributing."""

    spec = EncoderSpec("mean-color", "1", dim=3, input_px=64, mpp=1.0, licence="CC0-1.0", derivatives=True)

    def encode(self, patches):
        return patches.mean(axis=(1, 2)).astype("float32")


class DenseMeanColor(MeanColor):
    """The mean color of every bin, read at 2 um per pixel."""

    spec = EncoderSpec("dense-mean-color", "1", dim=3, input_px=64, mpp=1.0)
    dense_spec = DenseSpec("1", dim=3, mpp=2.0, window_um=16.0)

    def __init__(self) -> None:
        self.sides: set[float] = set()

    def encode_dense(self, image, box_um, resolution_um):
        self.sides.add(resolution_um)
        x0, y0, x1, y1 = box_um
        columns, rows = round((x1 - x0) / resolution_um), round((y1 - y0) / resolution_um)
        x, y = ((np.arange(n) + 0.5) * resolution_um + start for n, start in ((columns, x0), (rows, y0)))
        left, top = (np.floor(places / 2).astype(int) for places in (x, y))
        box = tuple(2.0 * side for side in (left[0], top[0], left[-1] + 1, top[-1] + 1))
        pixels = image.read(box, 2.0)  # a pixel for a bin will do here
        return pixels[top - top[0]][:, left - left[0]].astype(np.float32)


@pytest.fixture
def sdata(make_section):
    return make_section(side=4)


@pytest.fixture
def forget(monkeypatch):
    """Leave the process without any object that it has seen, as a new one is."""
    return lambda: monkeypatch.setattr(_registry, "_REMEMBERED", {})


def test_an_object_is_found_again_by_every_step(sdata) -> None:
    hd.pp.embed(sdata, MeanColor())
    hd.tl.fit(sdata, method="ridge", config="baseline")
    hd.tl.predict(sdata)
    hd.tl.predict(sdata, resolution_um=50)
    hd.tl.predict(sdata, at="s1")
    hd.pp.grid(sdata, 50)
    assert {"ridge_50um", "ridge_s1"} < set(sdata.tables)
    image = np.asarray(sdata.images["s1_image"]["scale0"].image)
    grid = np.asarray(sdata.images["grid_50um_embedding"])
    middle = [slice(None), grid.shape[1] // 2, grid.shape[2] // 2]
    top, left = (250 if side // 2 * 50 >= 250 else side // 2 * 50 for side in grid.shape[1:])
    assert np.isfinite(grid[tuple(middle)]).all()
    assert abs(grid[tuple(middle)] - image[:, top : top + 50, left : left + 50].mean(axis=(1, 2))).max() < 25


def test_a_dense_form_of_ones_own_is_used_wherever_dense_vectors_are(sdata, make_section) -> None:
    encoder = DenseMeanColor()
    hd.pp.embed(sdata, encoder)
    model = hd.tl.fit(sdata, config=SHORT)
    assert encoder.sides  # how expression is spread inside spots is learned from it
    encoder.sides.clear()
    hd.tl.predict(sdata, model, resolution_um=20, n_draws=2)
    assert encoder.sides
    hd.pp.grid(sdata, 40)
    assert 40.0 in encoder.sides
    other = make_section("s2", seed=1, side=4)
    hd.tl.predict(other, model, resolution_um=20, n_draws=2)  # embedded with the model's encoder on the way
    assert other.tables["table"].uns["hisdiff"]["embedding"]["encoder"] == "dense-mean-color"


def test_a_new_process_is_told_which_encoder_is_needed_and_takes_it(sdata, make_section, forget, tmp_path) -> None:
    hd.pp.embed(sdata, MeanColor())
    hd.tl.fit(sdata, method="ridge", config="baseline", save=tmp_path / "model")
    sdata.write(tmp_path / "section.zarr")
    forget()
    again, model = sd.read_zarr(tmp_path / "section.zarr"), hd.models.load(tmp_path / "model")
    hd.tl.predict(again, model)  # all that it needs is stored
    with pytest.raises(ValueError, match=r"encoder 'mean-color' \(revision '1'.*pass the object with encoder="):
        hd.tl.predict(again, model, resolution_um=50)
    with pytest.raises(ValueError, match="encoder 'mean-color'"):
        hd.pp.grid(again, 50)
    new = make_section("new", seed=1, side=4)
    with pytest.raises(ValueError, match="prediction of 'new' needs encoder 'mean-color'"):
        hd.tl.predict(new, model)
    assert "hisdiff_embedding" not in new.tables["table"].obsm
    hd.tl.predict(new, model, encoder=MeanColor())
    hd.tl.predict(again, model, resolution_um=50)  # seen by now
    assert "ridge_50um" in again.tables


def test_another_encoder_than_the_one_that_is_needed_is_refused(sdata, color_encoder) -> None:
    hd.pp.embed(sdata, MeanColor())
    model = hd.tl.fit(sdata, method="ridge", config="baseline")
    for call in (
        lambda: hd.tl.predict(sdata, model, encoder=color_encoder),
        lambda: hd.tl.fit(sdata, method="ridge", config="baseline", encoder=color_encoder),
        lambda: hd.tl.fit(sdata, method="ridge", config="baseline", encoder="texture"),
    ):
        with pytest.raises(ValueError, match="is another than 'mean-color'"):
            call()
    with pytest.raises(ValueError, match="encoder= is for methods that learn from an embedding"):
        hd.tl.fit(sdata, method="tesla", encoder=color_encoder)


def test_fit_embeds_with_the_encoder_that_it_is_given(sdata) -> None:
    model = hd.tl.fit(sdata, method="ridge", config="baseline", encoder=MeanColor())
    assert model.cohort.features.encoder == "mean-color"
