from __future__ import annotations

import threading

import numpy as np
import pytest
import shapely

from hisdiff._section import Locations
from hisdiff.encoders import EncoderSpec
from hisdiff.encoders._embed import embed_footprints, embed_locations, lattice_statistics, tissue_lattice


class ArrayImage:
    """An image in memory; a read takes the nearest pixel."""

    def __init__(self, pixels: np.ndarray, mpp: float) -> None:
        self.pixels, self.mpp = pixels, mpp
        self.threads: set[int] = set()

    @property
    def bounds_um(self) -> tuple[float, float, float, float]:
        height, width = self.pixels.shape[:2]
        return 0.0, 0.0, width * self.mpp, height * self.mpp

    def read(self, box_um: tuple[float, float, float, float], mpp: float) -> np.ndarray:
        self.threads.add(threading.get_ident())
        x0, y0, x1, y1 = box_um
        x = np.floor((x0 + (np.arange(round((x1 - x0) / mpp)) + 0.5) * mpp) / self.mpp).astype(int)
        y = np.floor((y0 + (np.arange(round((y1 - y0) / mpp)) + 0.5) * mpp) / self.mpp).astype(int)
        height, width = self.pixels.shape[:2]
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
        patch = self.pixels[np.clip(y, 0, height - 1)][:, np.clip(x, 0, width - 1)]
        return np.where(inside[..., None], patch, 255).astype(np.uint8)


class MeanColor:
    """Embeds a patch as its mean colour; remembers the sizes of batches."""

    def __init__(self) -> None:
        self.spec = EncoderSpec("mean-colour", "1", 3, 8, 1.0)
        self.batches: list[int] = []
        self.device: str | None = None

    def to(self, device: str) -> MeanColor:
        self.device = device
        return self

    def encode(self, patches: np.ndarray) -> np.ndarray:
        assert patches.dtype == np.uint8
        assert patches.shape[1:] == (8, 8, 3)
        self.batches.append(len(patches))
        return patches.mean(axis=(1, 2), dtype=np.float32)


@pytest.fixture
def ramp() -> ArrayImage:
    """Red grows with x and green with y, one unit per um; half a um per pixel."""
    y, x = np.mgrid[0:400, 0:480] * 0.5
    return ArrayImage(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8), 0.5)


def test_an_embedding_is_that_of_the_patch_around_the_location(ramp):
    xy = np.array([[50.0, 60.0], [100.0, 20.0], [33.0, 150.0]])
    embedded = embed_locations(MeanColor(), ramp, xy)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(embedded[:, :2], xy, atol=1.0)


def test_the_side_of_the_patch_is_in_micrometres(ramp):
    xy = np.array([[4.0, 100.0]])
    small, large = (embed_locations(MeanColor(), ramp, xy, patch_um=side)[0, 0] for side in (4, 16))
    assert small == pytest.approx(4, abs=1)  # 2 to 6 um
    assert large == pytest.approx((255 * 4 + 6 * 12) / 16, abs=2)  # a quarter lies outside, which is white


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_batch_size_does_not_change_the_result(ramp, size):
    xy = np.random.default_rng(0).uniform(10, 180, (23, 2))
    encoder = MeanColor()
    np.testing.assert_array_equal(
        embed_locations(encoder, ramp, xy, batch_size=size), embed_locations(MeanColor(), ramp, xy)
    )
    assert max(encoder.batches) == min(size, 23)
    assert sum(encoder.batches) == 23


def test_patches_are_read_by_other_threads(ramp):
    embed_locations(MeanColor(), ramp, np.full((40, 2), 50.0))
    assert threading.get_ident() not in ramp.threads


def test_no_locations_give_no_rows(ramp):
    assert embed_locations(MeanColor(), ramp, np.empty((0, 2))).shape == (0, 3)


def test_the_device_reaches_encoders_that_have_one(ramp):
    encoder = MeanColor()
    embed_locations(encoder, ramp, np.array([[50.0, 50.0]]), device="cpu")
    assert encoder.device == "cpu"


def test_a_failing_read_is_raised(ramp, monkeypatch):
    def fail(box_um, mpp):
        raise OSError("truncated file")

    monkeypatch.setattr(ramp, "read", fail)
    with pytest.raises(OSError, match="truncated"):
        embed_locations(MeanColor(), ramp, np.full((40, 2), 50.0))


@pytest.mark.parametrize("wrong", [lambda p: np.zeros((len(p), 2)), lambda p: np.full((len(p), 3), np.nan)])
def test_an_encoder_that_breaks_its_promise_is_named(ramp, wrong):
    encoder = MeanColor()
    encoder.encode = wrong
    with pytest.raises(ValueError, match="mean-colour"):
        embed_locations(encoder, ramp, np.array([[50.0, 50.0]]))


@pytest.mark.parametrize(("keyword", "value"), [("patch_um", -1.0), ("batch_size", 0)])
def test_sizes_below_zero_are_refused(ramp, keyword, value):
    with pytest.raises(ValueError, match=keyword):
        embed_locations(MeanColor(), ramp, np.array([[50.0, 50.0]]), **{keyword: value})


def test_statistics_are_taken_over_a_lattice_of_200_um():
    y, x = np.mgrid[0:1000, 0:1200]
    image = ArrayImage(np.stack([x / 10, y / 10, 0 * x], axis=-1).astype(np.uint8), 1.0)
    mean, std = lattice_statistics(MeanColor(), image, shapely.box(0, 0, 1200, 1000))
    expected = [np.arange(100, 1200, 200) / 10, np.arange(100, 1000, 200) / 10, np.zeros(1)]
    np.testing.assert_allclose(mean, [values.mean() for values in expected], atol=0.6)
    np.testing.assert_allclose(std, [values.std() for values in expected], atol=0.3)
    assert mean.dtype == std.dtype == np.float32


def test_a_shifted_crop_keeps_the_lattice():
    whole = tissue_lattice(shapely.box(0, 0, 2000, 2000))
    part = tissue_lattice(shapely.box(430, 310, 1990, 1990))
    assert {tuple(point) for point in part} <= {tuple(point) for point in whole}


def test_small_tissue_gets_a_finer_lattice_and_a_speck_one_point():
    small = shapely.box(90, 90, 310, 310)
    assert len(tissue_lattice(small)) >= 16
    speck = shapely.box(7, 7, 8, 8)
    assert tissue_lattice(speck).tolist() == [[7.5, 7.5]]
    image = ArrayImage(np.full((20, 20, 3), 90, dtype=np.uint8), 1.0)
    mean, std = lattice_statistics(MeanColor(), image, speck)
    assert np.isfinite(mean).all()
    assert std.tolist() == [1, 1, 1]


def test_a_wide_footprint_has_the_mean_of_the_patches_in_it() -> None:
    noise = ArrayImage(np.random.default_rng(0).integers(0, 255, (400, 480, 3)).astype(np.uint8), 0.5)
    strip = np.empty(1, dtype=object)
    strip[0] = shapely.box(5, 90, 235, 110)
    center = np.array([[120.0, 100.0]])
    parts = embed_locations(MeanColor(), noise, center + [[-100, 0], [0, 0], [100, 0]], patch_um=8.0)
    wide = embed_footprints(MeanColor(), noise, Locations(center, strip), patch_um=8.0)
    np.testing.assert_allclose(wide, parts.mean(axis=0, keepdims=True), rtol=1e-6)
    narrow = embed_footprints(MeanColor(), noise, Locations(center, 50.0), patch_um=8.0)
    np.testing.assert_array_equal(narrow, parts[1:2])
