from __future__ import annotations

import numpy as np
import pytest

from hisdiff import encoders
from hisdiff.encoders import _texture_filters
from hisdiff.encoders._texture import TextureEncoder
from hisdiff.encoders._texture_filters import pyramid, window_moments
from hisdiff.encoders._texture_forms import FORMS, KINDS, SCALARS
from hisdiff.encoders._texture_kernels import block_means

SPEC = FORMS[0].spec
PX = SPEC.input_px


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """Three patches: nuclei-like dots on stroma, stripes, white."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:PX, 0:PX]
    dots = np.zeros((PX, PX))
    for cy, cx in rng.uniform(0, PX, (300, 2)):
        dots[(y - cy) ** 2 + (x - cx) ** 2 < 25] = 1
    stripes = 0.5 + 0.5 * np.sin(x / 4 + y / 9)
    strength = np.stack([dots, stripes, np.zeros((PX, PX))])[..., None]
    pixels = 245 - strength * np.array([140, 150, 70]) + rng.normal(0, 3, (3, PX, PX, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def test_embeddings_are_finite_float32_of_the_promised_shape(patches):
    embedded = TextureEncoder().encode(patches)
    assert embedded.shape == (3, SPEC.dim)
    assert embedded.dtype == np.float32
    assert np.isfinite(embedded).all()


@pytest.mark.parametrize("value", [0, 127, 255])
def test_flat_patches_are_finite(value):
    assert np.isfinite(TextureEncoder().encode(np.full((1, PX, PX, 3), value, dtype=np.uint8))).all()


def test_an_embedding_depends_on_its_patch_only(patches):
    encoder = TextureEncoder()
    together = encoder.encode(patches)
    alone = np.concatenate([encoder.encode(patch[None]) for patch in patches[::-1]])[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(encoder.encode(patches.copy()), together)


@pytest.mark.parametrize("turn", [lambda p: np.rot90(p, axes=(1, 2)), lambda p: p[:, ::-1], lambda p: p[:, :, ::-1]])
def test_turning_and_flipping_hardly_matters(patches, turn):
    encoder = TextureEncoder()
    one, two = encoder.encode(patches), encoder.encode(np.ascontiguousarray(turn(patches)))
    between = np.linalg.norm(one[0] - one[1])
    assert np.linalg.norm(one - two, axis=1).max() < 0.1 * between


def test_an_empty_batch_gives_no_rows():
    assert TextureEncoder().encode(np.empty((0, PX, PX, 3), dtype=np.uint8)).shape == (0, SPEC.dim)


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, PX, PX, 3), np.float32)])
def test_patches_of_another_form_are_refused(wrong):
    with pytest.raises(ValueError, match=str(PX)):
        TextureEncoder().encode(wrong)


def test_haematoxylin_and_eosin_are_told_apart():
    for stain in (0, 1):
        density = 0.5 * _texture_filters._STAINS[stain]
        color = np.round(256 * 10**-density - 1).astype(np.uint8)
        level = next(pyramid(np.broadcast_to(color, (4, 4, 3))))
        np.testing.assert_allclose(level[:2, 0, 0], [0.5, 0.0] if stain == 0 else [0.0, 0.5], atol=0.01)
        np.testing.assert_allclose(level[2], density.mean(), atol=0.01)


def responses(densities: np.ndarray) -> np.ndarray:
    """Return the responses ``(kinds, C, y, x)`` of densities whose border is repeated, in float64."""
    padded = np.pad(densities.astype(float), ((0, 0), (2, 2), (2, 2)), mode="edge")
    smooth = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth = (smooth[:, :, :-2] + 2 * smooth[:, :, 1:-1] + smooth[:, :, 2:]) / 16
    dy, dx = ((smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]) / 2, (smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]) / 2)
    yy, xx = np.diff(smooth, 2, axis=1)[:, :, 1:-1], np.diff(smooth, 2, axis=2)[:, 1:-1]
    xy = (smooth[:, 2:, 2:] + smooth[:, :-2, :-2] - smooth[:, 2:, :-2] - smooth[:, :-2, 2:]) / 2
    bright, dark = np.maximum(xx + yy, 0), np.maximum(-xx - yy, 0)
    return np.stack([dx, dy, densities, np.hypot(dx, dy), bright, dark, np.hypot(xx - yy, xy)])


def test_derivatives_are_exact_on_polynomials():
    y, x = np.mgrid[0:12, 0:12].astype(np.float32)

    def respond(image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scalars, and squares of the derivatives, of pixels that see no border."""
        out = np.moveaxis(block_means(np.repeat(image[None], 3, axis=0), 1)[2:-2, 2:-2], -1, 0)[::3]
        return dict(zip((*KINDS[2:], *(f"{kind} squared" for kind in KINDS[2:]), "dx2", "dy2", "dxdy"), out))

    slope = respond(3 * x + 4 * y)
    np.testing.assert_allclose(slope["dx2"], 9, rtol=1e-5)
    np.testing.assert_allclose(slope["dy2"], 16, rtol=1e-5)
    np.testing.assert_allclose(slope["dxdy"], 12, rtol=1e-5)
    np.testing.assert_allclose(slope["slope"], 5, rtol=1e-5)
    np.testing.assert_allclose(slope["line"], 0, atol=1e-4)
    bowl = respond(x**2 + y**2)
    np.testing.assert_allclose(bowl["bright"], 4, rtol=1e-4)
    np.testing.assert_allclose(bowl["dark"], 0, atol=1e-4)
    np.testing.assert_allclose(bowl["line"], 0, atol=1e-3)
    saddle = respond(x * y)
    np.testing.assert_allclose(saddle["line"], 2, rtol=1e-4)


@pytest.mark.parametrize("sides", [[70], [24], [10, 20, 70]])
def test_moments_of_windows_are_means_of_products(sides):
    densities = np.random.default_rng(0).normal(size=(3, 70, 70)).astype(np.float32)
    whole = responses(densities)
    for side, moments in zip(sides, window_moments(densities, sides), strict=True):
        margin = (70 - side) // 2
        inside = whole[..., margin : margin + side, margin : margin + side].reshape(*whole.shape[:2], -1)
        dx, dy = inside[:2]
        scalars = np.vstack([inside[2:].reshape(SCALARS, -1), np.ones(side**2)])
        np.testing.assert_allclose(moments.scalars, scalars @ scalars.T / side**2, rtol=1e-4, atol=1e-6)
        tensor = [(dx * dx).mean(axis=1), (dy * dy).mean(axis=1), (dx * dy).mean(axis=1)]
        np.testing.assert_allclose(moments.tensor, tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("side", "width"), [(1, 21), (4, 40), (8, 1048)])
def test_moments_of_blocks_are_means_over_pixels(side, width):
    densities = np.random.default_rng(0).normal(size=(3, 16, width)).astype(np.float32)  # wider than a chunk
    whole = responses(densities)
    scalars, dx, dy = whole[2:].reshape(SCALARS, 16, width), *whole[:2]
    pixels = np.concatenate([scalars, scalars**2, dx * dx, dy * dy, dx * dy])
    blocks = pixels.reshape(len(pixels), 16 // side, side, width // side, side).mean(axis=(2, 4))
    np.testing.assert_allclose(block_means(densities, side), np.moveaxis(blocks, 0, -1), rtol=1e-4, atol=1e-5)


def test_a_reduction_is_binomial_and_keeps_every_other_pixel():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (35, 24, 3), dtype=np.uint8)
    levels = pyramid(image)
    fine, coarse = next(levels), next(levels)
    smooth = np.pad(fine.astype(float), ((0, 0), (2, 2), (2, 2)), mode="edge")
    for axis in (1, 2):
        weighed = zip(
            (1, 4, 6, 4, 1), np.moveaxis(np.lib.stride_tricks.sliding_window_view(smooth, 5, axis=axis), -1, 0)
        )
        smooth = sum(weight * part for weight, part in weighed) / 16
    np.testing.assert_allclose(coarse, smooth[:, ::2, ::2], rtol=1e-4, atol=1e-6)


def test_texture_is_the_encoder_that_needs_nothing():
    spec = encoders.get("texture").spec
    assert not spec.gated
    assert spec.derivatives
    assert spec.patch_um == pytest.approx(313.6)


@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.name)
def test_coarse_sizes_embed_patches_of_the_same_ground(form):
    encoder = encoders.get(form.name)
    assert encoder.spec.patch_um == pytest.approx(SPEC.patch_um, rel=0.03)
    patch = np.random.default_rng(0).integers(0, 255, (1, form.input_px, form.input_px, 3), dtype=np.uint8)
    embedded = encoder.encode(patch)
    assert embedded.shape == (1, encoder.spec.dim)
    assert np.isfinite(embedded).all()
