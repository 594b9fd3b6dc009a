from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from hisdiff import encoders
from hisdiff.encoders._base import DenseEncoder
from hisdiff.encoders._hipt import HiptEncoder, PixelTokens, Transformer, VectorTokens, stretched
from hisdiff.encoders._registry import may_be_dense


class Picture:
    """An image in memory at 0.5 um per pixel."""

    mpp = 0.5

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.bounds_um = (0.0, 0.0, pixels.shape[1] * 0.5, pixels.shape[0] * 0.5)

    def read(self, box_um, mpp) -> np.ndarray:
        x0, y0, x1, y1 = (round(side / mpp) for side in box_um)
        out = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        h, w = self.pixels.shape[:2]
        top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, h), min(x1, w)
        if top < bottom and left < right:
            out[top - y0 : bottom - y0, left - x0 : right - x0] = self.pixels[top:bottom, left:right]
        return out


def randomized(network: Transformer, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small networks in the layout of the released checkpoints: student and teacher, with prefixes and a head."""
    made = tmp_path_factory.mktemp("hipt")
    first = randomized(Transformer(24, 1, PixelTokens(24)), 0)
    second = randomized(Transformer(12, 1, VectorTokens(24, 12)), 1)
    for name, state, old in (
        ("vit256_small_dino.pth", first, "patch_embed.proj."),
        ("vit4k_xs_dino.pth", second, "phi.0."),
    ):
        named = {
            f"module.backbone.{key.replace('embed.proj.', old) if key.startswith('embed.') else key}": v
            for key, v in state.items()
        }
        named["module.head.last_layer.weight"] = torch.zeros(3, 3)
        torch.save({"teacher": named, "student": {key: v + 1 for key, v in named.items()}}, made / name)
    return made


@pytest.fixture(scope="module")
def encoder(folder) -> HiptEncoder:
    return HiptEncoder(folder, shifts=1)


@pytest.fixture(scope="module")
def image() -> Picture:
    return Picture(np.random.default_rng(0).integers(0, 255, (600, 700, 3)).astype(np.uint8))


def n_parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameters_are_as_published():
    with torch.device("meta"):
        assert n_parameters(Transformer(384, 12, PixelTokens(384))) == 21_665_664
        assert n_parameters(Transformer(192, 6, VectorTokens(384, 192))) == 2_781_504


def test_positions_are_stretched_by_a_little_more_than_the_ratio_of_sides():
    table = torch.randn(1, 197, 8, generator=torch.Generator().manual_seed(0))
    assert stretched(table, 14, 14) is table
    told = stretched(table, 16, 16)
    square = table[:, 1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    plain = torch.nn.functional.interpolate(square, size=(16, 16), mode="bicubic", align_corners=False)
    apart = (told[:, 1:] - plain.permute(0, 2, 3, 1).reshape(1, 256, 8)).abs().mean() / plain.abs().mean()
    assert 0.03 < apart < 0.3
    assert stretched(table, 3, 40).shape == (1, 121, 8)


def test_the_teacher_is_read_without_prefixes_and_head(folder, encoder):
    state = torch.load(folder / "vit256_small_dino.pth", weights_only=True)["teacher"]
    torch.testing.assert_close(encoder.first.cls_token.data, state["module.backbone.cls_token"])
    torch.testing.assert_close(encoder.first.embed.proj.weight.data, state["module.backbone.patch_embed.proj.weight"])


def test_is_an_encoder_that_is_found_by_name(folder):
    name = f"hipt:{folder}"
    found = encoders.get(name)
    assert isinstance(found, DenseEncoder)
    assert found.spec.name == name
    assert found.spec.dim == found.dense_spec.dim == 24 + 12 + 3
    assert found.spec.patch_um == 128
    assert may_be_dense(name)
    embedded = found.encode(np.full((2, 256, 256, 3), 100, dtype=np.uint8))
    assert embedded.shape == (2, 39)
    np.testing.assert_allclose(embedded[:, -3:], 100 / 255, rtol=1e-5)


def test_dense_features_are_those_of_the_networks_one_by_one(encoder, image):
    told = encoder.encode_dense(image, (0, 0, 344, 296), 8.0)
    assert told.shape == (37, 43, 39)
    padded = np.full((768, 768, 3), 255, dtype=np.uint8)
    padded[:600, :700] = image.pixels
    tokens, heads = np.zeros((48, 48, 24)), torch.zeros(1, 3, 3, 24)
    for i in range(3):
        for j in range(3):
            patch = (
                torch.from_numpy(padded[256 * i : 256 * i + 256, 256 * j : 256 * j + 256])
                .permute(2, 0, 1)[None]
                .float()
            )
            with torch.inference_mode():
                one = encoder.first(patch)[0]
            heads[0, i, j] = one[0]
            tokens[16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = one[1:].reshape(16, 16, -1)
    with torch.inference_mode():
        above = encoder.second(heads)[0, 1:].reshape(3, 3, -1).numpy().repeat(16, 0).repeat(16, 1)
    size = (38, 44)  # tokens that hold any of the image
    for part, values, side in ((told[..., :12], above, 16), (told[..., 12:36], tokens, 4)):
        smooth = uniform_filter(values[: size[0], : size[1]], (side, side, 0), mode="reflect")
        np.testing.assert_allclose(part, smooth[:37, :43], rtol=2e-3, atol=2e-3)
    color = padded[:592, :688].reshape(37, 16, 43, 16, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(told[..., 36:], color, atol=1e-3)


def test_box_filters_have_the_published_windows():
    line = np.zeros(64)
    line[30] = 1
    assert np.flatnonzero(uniform_filter(line, 16, mode="reflect")).tolist() == list(range(30 - 7, 30 + 9))
    assert np.flatnonzero(uniform_filter(line, 4, mode="reflect")).tolist() == [29, 30, 31, 32]


def test_shifts_are_averaged_with_equal_weight_everywhere(folder, image):
    four = HiptEncoder(folder, shifts=2)
    told, one = (e.encode_dense(image, (0, 0, 344, 296), 8.0) for e in (four, HiptEncoder(folder, shifts=1)))
    # Without true coverage the corner would be a quarter of what it is.
    ratio = np.linalg.norm(told[:8, :8, 12:36], axis=-1).mean() / np.linalg.norm(told[15:, 15:, 12:36], axis=-1).mean()
    assert 0.7 < ratio < 1.4
    assert four.spec.revision != HiptEncoder(folder, shifts=1).spec.revision
    assert np.abs(told - one).max() > 1e-3
    with pytest.raises(ValueError, match="shifts"):
        HiptEncoder(folder, shifts=3)


def test_a_place_has_one_vector_whatever_is_asked_for(encoder, image):
    whole = encoder.encode_dense(image, (0, 0, 344, 296), 8.0)
    part = encoder.encode_dense(image, (80, 40, 120, 72), 8.0)
    np.testing.assert_array_equal(part, whole[5:9, 10:15])
    fine = encoder.encode_dense(image, (80, 40, 120, 72), 4.0)
    np.testing.assert_array_equal(fine[::2, ::2], part)


def test_plain_ground_is_looked_at_once(folder, image):
    wide = np.full((600, 2000, 3), 255, dtype=np.uint8)
    wide[:, :300] = image.pixels[:, :300]
    encoder = HiptEncoder(folder, shifts=1)
    seen = []
    encoder.first.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    encoder.encode_dense(Picture(wide), (0, 0, 8, 8), 8.0)
    assert sum(seen) == 3 * 2 + 1


def test_what_is_missing_or_wrong_is_said(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no folder"):
        encoders.get(f"hipt:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"0 files vit256\*"):
        encoders.get(f"hipt:{tmp_path}")
    (tmp_path / "vit256.pth").write_bytes((folder / "vit4k_xs_dino.pth").read_bytes())
    (tmp_path / "vit4k.pth").write_bytes((folder / "vit4k_xs_dino.pth").read_bytes())
    with pytest.raises(ValueError, match="not of this pair"):
        encoders.get(f"hipt:{tmp_path}")
