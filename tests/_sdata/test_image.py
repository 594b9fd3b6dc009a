from __future__ import annotations

import numpy as np
import pytest
from spatialdata.models import Image2DModel

from hisdiff._sdata._image import PyramidImage


def ramp(height: int = 200, width: int = 300) -> np.ndarray:
    """Red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 100.0)]).astype(np.uint8)


def element(pixels: np.ndarray, scales: list[int] | None = None):
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=scales, chunks=64)


@pytest.mark.parametrize("scales", [None, [2, 2]])
def test_a_box_on_the_pixel_grid_is_the_pixels_themselves(scales: list[int] | None) -> None:
    image = PyramidImage(element(ramp(), scales), 0.5)
    got = image.read((10.0, 20.0, 42.0, 36.0), 0.5)
    np.testing.assert_array_equal(got, np.moveaxis(ramp()[:, 40:72, 20:84], 0, -1))


def test_borders_off_by_a_rounding_error_are_whole_pixels(monkeypatch) -> None:
    # 2044 * 0.7 / 0.35 and the like are not the whole numbers that they stand for.
    image = PyramidImage(element(ramp(40, 9000)), 0.35)
    for start in range(2, 4400, 37):
        got = image.read((start * 0.7, 0.0, (start + 4) * 0.7, 2.8), 0.7)
        assert got.shape == (4, 4, 3)
    image = PyramidImage(element(ramp(40, 9000)), 0.7)
    monkeypatch.delattr("hisdiff._sdata._resize.resized")
    for start in range(2, 4400, 37):
        got = image.read((start * 0.7, 0.0, (start + 4) * 0.7, 2.8), 0.7)
        assert got.shape == (4, 4, 3)


def test_outside_the_image_is_white() -> None:
    image = PyramidImage(element(ramp()), 1.0)
    corner = image.read((-10.0, -10.0, 10.0, 10.0), 1.0)
    assert (corner[:10] == 255).all()
    assert (corner[:, :10] == 255).all()
    np.testing.assert_array_equal(corner[10:, 10:], np.moveaxis(ramp()[:, :10, :10], 0, -1))
    assert (image.read((1000.0, 1000.0, 1010.0, 1010.0), 1.0) == 255).all()


def test_a_coarse_read_from_the_pyramid_agrees_with_one_from_full_resolution() -> None:
    with_levels, without = PyramidImage(element(ramp(), [2, 2]), 0.5), PyramidImage(element(ramp()), 0.5)
    box = (16.0, 16.0, 80.0, 64.0)
    a, b = (image.read(box, 2.0).astype(int) for image in (with_levels, without))
    assert a.shape == b.shape == (24, 32, 3)
    assert np.abs(a - b)[1:-1, 1:-1].max() <= 2


def test_positions_between_pixels_are_interpolated_without_a_shift() -> None:
    image = PyramidImage(element(ramp(256, 256)), 1.0)
    got = image.read((100.25, 50.0, 116.25, 66.0), 0.5)[:, :, 0].astype(float)
    expected = 100.25 + (np.arange(32) + 0.5) * 0.5 - 0.5
    np.testing.assert_allclose(got.mean(axis=0)[2:-2], expected[2:-2] * 255 / 256, atol=0.8)


def test_sixteen_bit_float_and_alpha_give_the_same_colours() -> None:
    plain = ramp()
    expected = PyramidImage(element(plain), 1.0).read((0, 0, 300, 200), 1.0)
    wide = plain.astype(np.uint16) * 257
    deep = (wide, wide.astype(">u2"), plain.astype(np.float32) / 255)  # some scanners write the larger byte first
    alpha = np.concatenate([plain, np.full((1, 200, 300), 255, np.uint8)])
    for other in (*deep, alpha):
        got = PyramidImage(element(other), 1.0).read((0, 0, 300, 200), 1.0)
        np.testing.assert_array_equal(got, expected)


def test_transparent_pixels_are_white() -> None:
    clear = np.concatenate([ramp(), np.zeros((1, 200, 300), np.uint8)])
    assert (PyramidImage(element(clear), 1.0).read((0, 0, 300, 200), 1.0) == 255).all()


def test_images_that_are_no_rgb_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Image 'grey' has 1 channel"):
        PyramidImage(element(ramp()[:1]), 1.0, "grey")
    with pytest.raises(ValueError, match="dtype int32"):
        PyramidImage(element(ramp().astype(np.int32)), 1.0)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        PyramidImage(element(ramp().astype(np.float32)), 1.0).read((0, 0, 10, 10), 1.0)


def test_an_absurd_enlargement_is_refused() -> None:
    with pytest.raises(ValueError, match="full-resolution image"):
        PyramidImage(element(ramp()), 4.0, "lowres").read((0, 0, 100, 100), 0.5)
