from __future__ import annotations

import gc
import pickle
import weakref
from functools import partial

import numpy as np
import pytest
from array_image import ArrayImage

from hisdiff import encoders
from hisdiff._sdata._image import PyramidImage
from hisdiff.encoders import _texture_dense as dense
from hisdiff.encoders._anchored import anchored
from hisdiff.encoders._base import dense_spec_of
from hisdiff.encoders._texture_forms import FORMS

Array = partial(ArrayImage, mpp=0.7)


@pytest.fixture(scope="module")
def image() -> ArrayImage:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(60, 255, (60, 60, 3)).repeat(16, 0).repeat(16, 1)
    return Array(np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("resolution", [8.0, 14.0, 30.0])
def test_a_vector_depends_on_the_place_and_not_on_the_box(image, resolution):
    texture = encoders.get("texture")
    whole = texture.encode_dense(image, (0, 0, 20 * resolution, 20 * resolution), resolution)
    assert whole.shape == (20, 20, texture.dense_spec.dim)
    assert whole.dtype == np.float32
    part = texture.encode_dense(image, (7 * resolution, 3 * resolution, 9 * resolution, 14 * resolution), resolution)
    np.testing.assert_allclose(part, whole[3:14, 7:9], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mpp", [0.35, 0.46, 0.689])
def test_that_holds_for_images_that_are_resampled(mpp):
    rng = np.random.default_rng(1)
    pixels = rng.integers(235, 255, (3, 900, 900), dtype=np.uint8)  # pale: where one grey level shows most
    source = PyramidImage(_element(pixels), mpp)
    texture = encoders.get("texture")
    whole = texture.encode_dense(source, (0, 0, 300, 300), 10.0)
    part = texture.encode_dense(source, (130, 70, 220, 180), 10.0)
    np.testing.assert_allclose(part, whole[7:18, 13:22], rtol=0, atol=1e-5)


def _element(pixels: np.ndarray):
    from xarray import DataArray

    return DataArray(pixels, dims=("c", "y", "x"))


def test_tiles_leave_no_seam(image, monkeypatch):
    texture = encoders.get("texture")
    box = (0, 0, 300, 240)
    whole = texture.encode_dense(image, box, 12.0)
    monkeypatch.setattr(dense, "_TILE", 64)
    np.testing.assert_allclose(texture.encode_dense(image, box, 12.0), whole, rtol=0, atol=1e-5)


def test_a_plain_image_has_the_same_texture_everywhere():
    plain = Array(np.full((600, 600, 3), (200, 120, 160), dtype=np.uint8))
    inner = encoders.get("texture").encode_dense(plain, (100, 100, 300, 300), 10.0)
    np.testing.assert_allclose(inner, np.broadcast_to(inner[0, 0], inner.shape), rtol=0, atol=1e-5)


def test_the_texture_moves_with_the_image(image):
    side = 5.6  # a block: what the coarsest level moves by
    moved = Array(np.roll(image.pixels, (16, 8), axis=(0, 1)))
    texture = encoders.get("texture")
    before = texture.encode_dense(image, (30 * side, 30 * side, 40 * side, 40 * side), side)
    after = texture.encode_dense(moved, (31 * side, 32 * side, 41 * side, 42 * side), side)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_what_is_out_of_reach_does_not_count(image):
    texture = encoders.get("texture")
    box = (300.0, 300.0, 310.0, 310.0)
    before = texture.encode_dense(image, box, 10.0)
    windows = dense._Windows.of(FORMS[0])
    reach = windows.halo + windows.block
    changed = np.zeros_like(image.pixels)
    near = slice(round(305 / 0.7) - reach, round(305 / 0.7) + reach)
    changed[near, near] = image.pixels[near, near]
    np.testing.assert_array_equal(texture.encode_dense(Array(changed), box, 10.0), before)


def test_the_windows_have_the_size_that_is_stated():
    centers = np.array([400.3])
    windows = dense._Windows.of(FORMS[0])
    for sigma, side_um in zip(windows.sigmas, FORMS[0].dense_um):
        first, weights = dense._weights(centers, 100, sigma, windows.block)
        blocks = (first[0] + np.arange(weights.shape[1])) * windows.block
        spread = np.sqrt(np.sum(weights * (blocks - centers) ** 2)) * 0.7
        assert spread == pytest.approx(side_um / np.sqrt(12), rel=0.03)
        assert np.sum(weights * blocks) == pytest.approx(centers[0], abs=0.1)


def test_the_dense_spec_says_what_decides_the_values(color_encoder):
    spec = dense_spec_of(encoders.get("texture"))
    assert (spec.encoder, spec.dim, spec.mpp, spec.patch_um) == ("texture", 144, 0.7, 32.0)
    assert dense_spec_of(color_encoder) is None


def test_an_anchored_image_is_read_at_its_own_resolution_only(image):
    source = anchored(image, 0.7)
    assert anchored(source, 0.7) is source
    np.testing.assert_array_equal(source.read((70, 140, 350, 420), 0.7), image.read((70, 140, 350, 420), 0.7))
    with pytest.raises(ValueError, match=r"0\.7 um per pixel here, not 1"):
        source.read((0, 0, 10, 10), 1.0)
    at_a_worker = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(at_a_worker.read((70, 140, 350, 420), 0.7), source.read((70, 140, 350, 420), 0.7))


@pytest.mark.parametrize("name", ["texture-2um", "texture-4um"])
def test_coarse_sizes_have_a_dense_form(name):
    texture = encoders.get(name)
    mpp = texture.spec.mpp
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    image = ArrayImage(pixels, mpp=mpp)
    whole = texture.encode_dense(image, (0, 0, 200, 200), 20.0)
    part = texture.encode_dense(image, (60, 40, 140, 180), 20.0)
    assert whole.shape == (10, 10, texture.dense_spec.dim)
    np.testing.assert_allclose(part, whole[2:9, 3:7], rtol=0, atol=1e-5)


def test_an_image_that_is_not_needed_any_more_takes_its_squares_with_it() -> None:
    image = anchored(ArrayImage(np.zeros((64, 64, 3), dtype=np.uint8), 1.0), 1.0)
    image.read((0, 0, 64, 64), 1.0)
    gc.disable()
    try:
        gone = weakref.ref(image)
        del image
        assert gone() is None
    finally:
        gc.enable()
