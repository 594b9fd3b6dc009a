from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from array_image import ArrayImage
from safetensors.torch import save_file

from hisdiff import encoders
from hisdiff._settings import settings
from hisdiff.encoders import _tokens
from hisdiff.encoders._base import dense_spec_of
from hisdiff.encoders._import_timm import import_timm
from hisdiff.encoders._registry import may_be_dense, require_dense
from hisdiff.encoders._tokens import Layout

# Tokens of 4 px, 8 to a window; an odd number of them in the other.
LAYOUTS = [Layout(0.5, 4, 8, 3), Layout(0.5, 4, 7, 3)]


Array = partial(ArrayImage, mpp=0.5)


@pytest.fixture(scope="module")
def image() -> ArrayImage:
    return Array(np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8))


def colors(layout: Layout, windows: np.ndarray) -> np.ndarray:
    """The mean colour of each token: knows nothing of the window."""
    n, px = layout.per_side, layout.token_px
    return windows.reshape(-1, n, px, n, px, 3).mean(axis=(2, 4)).reshape(len(windows), n * n, 3).astype(np.float32)


def dense(layout: Layout, image: ArrayImage, box, resolution, read=colors, batch_size=5) -> np.ndarray:
    return _tokens.encode_dense(lambda w: read(layout, w), layout, image, box, resolution, batch_size=batch_size)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bins_a_whole_token_apart_hold_interpolated_tokens(image, layout):
    # A bin is the mean of linear interpolation over its square: 1/8, 6/8, 1/8 of the tokens along an axis.
    result = dense(layout, image, (20, 10, 60, 40), 2.0)
    tokens = image.pixels[:, :260].reshape(75, 4, 65, 4, 3).mean(axis=(1, 3))
    kernel = np.array([1, 6, 1]) / 8
    down = sum(k * tokens[4 + i : 19 + i] for i, k in enumerate(kernel))
    expected = sum(k * down[:, 9 + i : 29 + i] for i, k in enumerate(kernel))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("resolution", [0.7, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_constant_stays_constant_at_any_resolution(layout, resolution):
    plain = Array(np.full((300, 300, 3), (10, 100, 200), dtype=np.uint8))
    result = dense(layout, plain, (30, 30, 30 + 2 * resolution, 30 + 3 * resolution), resolution)
    np.testing.assert_allclose(result, np.broadcast_to([10, 100, 200], (3, 2, 3)), rtol=1e-5)


def off_at_the_border(layout: Layout, windows: np.ndarray) -> np.ndarray:
    """Tokens that depend on the window's content and on where in the window they lie, as a network's do."""
    n = layout.per_side
    place = np.abs(np.linspace(-1, 1, n))
    border = np.maximum(place[:, None], place[None]).reshape(-1)
    return colors(layout, windows) / 255 + (border[None] * (1 + windows.mean(axis=(1, 2, 3))[:, None] / 255))[..., None]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vector_depends_on_the_place_and_not_on_the_box_or_the_batch(image, layout, monkeypatch):
    whole = dense(layout, image, (0, 0, 120, 120), 3.0, off_at_the_border, batch_size=64)
    part = dense(layout, image, (42, 60, 75, 87), 3.0, off_at_the_border, batch_size=3)
    np.testing.assert_allclose(part, whole[20:29, 14:25], rtol=0, atol=1e-5)
    monkeypatch.setattr(_tokens, "_STRIDES", 2)
    np.testing.assert_allclose(dense(layout, image, (0, 0, 120, 120), 3.0, off_at_the_border), whole, rtol=0, atol=1e-5)


def test_blending_leaves_no_step_at_the_border_of_a_window():
    plain = Array(np.full((400, 400, 3), 128, dtype=np.uint8))
    layout = LAYOUTS[0]
    steps = np.abs(
        np.diff(off_at_the_border(layout, plain.read((0, 0, 16, 16), 0.5)[None])[0].reshape(8, 8, 3)[3, :, 0])
    )
    row = dense(layout, plain, (40, 80, 120, 82), 2.0, off_at_the_border)[0, :, 0]
    # Unblended tiles would jump by what a token at the border is off; blended ones change less than inside a window.
    assert np.abs(np.diff(row)).max() < steps.max()
    assert np.ptp(row) < 0.5 * np.ptp(off_at_the_border(layout, plain.read((0, 0, 16, 16), 0.5)[None])[..., 0])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory):
    return _folder(
        tmp_path_factory.mktemp("vit"), "vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "reg_tokens": 2}
    )


def _folder(folder, architecture, arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = import_timm().create_model(architecture, num_classes=0, **arguments)
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {"architecture": architecture, "model_args": arguments, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_a_transformer_gives_its_tokens(vit, image):
    encoder = encoders.get(vit).to("cpu")
    spec = dense_spec_of(encoder)
    assert (spec.dim, spec.mpp, spec.patch_um, spec.revision) == (192, 0.5, 16.0, encoder.spec.revision)
    with settings.override(precision="float32"):
        whole, part = (encoder.encode_dense(image, box, 8.0) for box in ((0, 0, 80, 80), (24, 16, 40, 40)))
    assert whole.shape == (10, 10, 192)
    np.testing.assert_allclose(part, whole[2:5, 3:5], rtol=0, atol=1e-4)
    assert not encoder._network.training


def test_a_network_without_tokens_has_no_dense_form_and_says_who_has(tmp_path, image):
    encoder = encoders.get(_folder(tmp_path, "resnet10t", {}))
    assert dense_spec_of(encoder) is None
    with pytest.raises(ValueError, match=r"no dense form.*'texture'.*'uni'"):
        require_dense(encoder)
    with pytest.raises(ValueError, match="has no tokens"):
        encoder.encode_dense(image, (0, 0, 16, 16), 8.0)


def test_which_encoders_have_a_dense_form_is_known_without_weights():
    assert [name for name in encoders.list() if not may_be_dense(name)] == ["resnet50"]
    assert not may_be_dense("my own")


def test_recipes_know_their_tokens():
    from hisdiff.encoders._recipes import RECIPES
    from hisdiff.encoders._timm import _tokens_of

    timm = import_timm()
    for name, recipe in RECIPES.items():
        if recipe.architecture is None:
            continue
        kwargs = dict(recipe.kwargs)
        if "mlp_layer" in kwargs:
            kwargs["mlp_layer"] = getattr(timm.layers, kwargs["mlp_layer"])
            kwargs["act_layer"] = getattr(torch.nn, kwargs["act_layer"])
        with torch.device("meta"):
            network = timm.create_model(recipe.architecture, pretrained=False, num_classes=0, **kwargs)
            found = _tokens_of(network, torch.empty(1, 3, 224, 224))
        assert (None if found is None else (found.token_px, found.dim)) == (
            None if recipe.token_px is None else (recipe.token_px, recipe.token_dim)
        ), name
