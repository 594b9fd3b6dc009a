from __future__ import annotations

import numpy as np
import pytest

from hisdiff import encoders
from hisdiff.encoders import _texture_filters
from hisdiff.encoders._texture import TextureEncoder
from hisdiff.encoders._texture_filters import FORMS, pyramid, responses, window_moments

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


def test_derivatives_are_exact_on_polynomials():
    y, x = np.mgrid[0:12, 0:12].astype(np.float32)
    names = _texture_filters._KINDS

    def respond(image: np.ndarray) -> dict[str, np.ndarray]:
        out = responses(np.repeat(image[None], 3, axis=0))
        return dict(zip(names, out[:-1].reshape(len(names), 3, 8, 8)[:, 0]))

    slope = respond(3 * x + 4 * y)
    np.testing.assert_allclose(slope["dx"], 3, rtol=1e-5)
    np.testing.assert_allclose(slope["dy"], 4, rtol=1e-5)
    np.testing.assert_allclose(slope["slope"], 5, rtol=1e-5)
    np.testing.assert_allclose(slope["line"], 0, atol=1e-4)
    bowl = respond(x**2 + y**2)
    np.testing.assert_allclose(bowl["bright"], 4, rtol=1e-4)
    np.testing.assert_allclose(bowl["dark"], 0, atol=1e-4)
    np.testing.assert_allclose(bowl["line"], 0, atol=1e-3)
    saddle = respond(x * y)
    np.testing.assert_allclose(saddle["line"], 2, rtol=1e-4)


def test_moments_of_windows_are_means_of_products():
    rng = np.random.default_rng(0)
    densities = rng.normal(size=(3, 70, 70)).astype(np.float32)
    padded = np.pad(densities, ((0, 0), (2, 2), (2, 2)), mode="edge")
    whole = responses(padded)
    for side, moments in zip((20, 70), window_moments(densities, [20, 70])):
        margin = (70 - side) // 2
        inside = whole[:, margin : margin + side, margin : margin + side].reshape(len(whole), -1).astype(float)
        products = inside @ inside.T / side**2
        scalars, dx, dy = (getattr(_texture_filters, name) for name in ("_SCALARS", "_DX", "_DY"))
        np.testing.assert_allclose(moments.scalars, products[scalars.start :, scalars.start :], rtol=1e-4, atol=1e-5)
        tensor = [np.diag(products[a, b]) for a, b in ((dx, dx), (dy, dy), (dx, dy))]
        np.testing.assert_allclose(moments.tensor, tensor, rtol=1e-4, atol=1e-5)


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
