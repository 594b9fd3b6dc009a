from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from hisdiff import encoders
from hisdiff._settings import settings
from hisdiff.encoders import _torch
from hisdiff.encoders._import_timm import import_timm
from hisdiff.encoders._recipes import RECIPES
from hisdiff.encoders._timm import build_recipe, cls_and_mean
from hisdiff.encoders._torch import TorchEncoder
from hisdiff.pp import embed

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8},
    "pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in timm's layout: a tiny ViT with random weights."""
    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = import_timm().create_model(CONFIG["architecture"], num_classes=0, **CONFIG["model_args"])
        for block in network.blocks:  # random networks are close to the identity; make the blocks matter
            torch.nn.init.normal_(block.mlp.fc2.weight, std=0.2)
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def patches() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def write(folder: Path, config: object, weights: bytes | None = b"") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return f"local-dir:{folder}"


def test_a_folder_gives_what_the_network_gives_on_normalised_patches(folder, patches):
    network = import_timm().create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    mean, std = (torch.tensor(CONFIG["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = network((torch.from_numpy(patches).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    encoder = encoders.get(f"local-dir:{folder}").to("cpu")
    with settings.override(precision="float32"):
        np.testing.assert_allclose(encoder.encode(patches), expected, atol=1e-4)


def test_the_spec_of_a_folder_is_read_from_its_files(folder, tmp_path):
    spec = encoders.get(f"local-dir:{folder}").spec
    assert (spec.dim, spec.input_px, spec.mpp, spec.licence) == (192, 32, 0.5, "unknown")
    name = write(
        tmp_path / "own", {**CONFIG, "mpp": 0.25, "licence": "MIT"}, (folder / "model.safetensors").read_bytes()
    )
    own = encoders.get(name).spec
    assert (own.mpp, own.licence, own.patch_um) == (0.25, "MIT", 8.0)


def test_the_revision_follows_the_content_not_the_place(folder, tmp_path):
    weights = (folder / "model.safetensors").read_bytes()
    revision = encoders.get(f"local-dir:{folder}").spec.revision
    assert encoders.get(write(tmp_path / "same", CONFIG, weights)).spec.revision == revision
    other = bytearray(weights)
    other[-1] ^= 1
    assert encoders.get(write(tmp_path / "other", CONFIG, bytes(other))).spec.revision != revision


def test_pickled_weights_are_read_as_tensors_only(folder, tmp_path, patches):
    from safetensors.torch import load_file

    write(tmp_path / "bin", CONFIG, None)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")
    one, two = (encoders.get(f"local-dir:{place}").encode(patches) for place in (folder, tmp_path / "bin"))
    np.testing.assert_array_equal(one, two)


def test_folders_that_are_none_are_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        encoders.get(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        encoders.get(write(tmp_path / "bare", CONFIG, None))
    with pytest.raises(ValueError, match="not a timm configuration"):
        encoders.get(write(tmp_path / "text", "{"))
    with pytest.raises(ValueError, match="vit_nobody"):
        encoders.get(write(tmp_path / "unknown", {"architecture": "vit_nobody"}))
    with pytest.raises(ValueError, match="mpp"):
        encoders.get(write(tmp_path / "scale", {**CONFIG, "mpp": -1}))
    misfit = {**CONFIG, "model_args": {"img_size": 32, "patch_size": 8, "depth": 3}}
    weights = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="do not fit"):
        encoders.get(write(tmp_path / "misfit", misfit, weights)).to("cpu")


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bf16", 2e-2)])
def test_the_batch_changes_an_embedding_within_its_precision(folder, patches, precision, most):
    encoder = encoders.get(f"local-dir:{folder}")
    with settings.override(precision=precision):
        together = encoder.encode(patches)
        alone = np.concatenate([encoder.encode(patch[None]) for patch in patches])
    off = np.linalg.norm(alone - together, axis=1) / np.linalg.norm(together, axis=1)
    assert off.max() <= most


def test_where_memory_runs_out_fewer_patches_give_the_same_embeddings(folder, patches, monkeypatch, caplog):
    encoder = encoders.get(f"local-dir:{folder}")
    with settings.override(precision="float32"):
        whole, run, sizes = encoder.encode(patches), TorchEncoder._pass, []

        def little_memory(self, part, **options):
            sizes.append(len(part))
            if len(part) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return run(self, part, **options)

        monkeypatch.setattr(TorchEncoder, "_pass", little_memory)
        with caplog.at_level("WARNING", logger="hisdiff"):
            np.testing.assert_allclose(encoder.encode(patches), whole, atol=1e-4)
        assert "out of memory on the device" in caplog.text
        sizes.clear()
        encoder.encode(patches)
        assert max(sizes) <= 2  # what is known of the memory is kept


def test_the_precision_is_recorded_and_another_one_is_embedded_anew(folder, make_section, monkeypatch, caplog):
    monkeypatch.setattr(_torch, "multiplies_bf16", lambda device: False)
    sdata, encoder = make_section(side=3), encoders.get(f"local-dir:{folder}")
    table = sdata.tables["table"]
    seen = []
    for precision in ("bf16", "auto", "float32"):
        caplog.clear()
        with settings.override(precision=precision):
            embed(sdata, encoder)
        seen.append((table.uns["hisdiff"]["embedding"]["precision"], table.obsm["hisdiff_embedding"].copy()))
        assert f"precision {seen[-1][0]}" in caplog.text
    assert [kept for kept, _ in seen] == ["bf16", "bf16", "float32"]
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    assert 0 < np.abs(seen[2][1] - seen[0][1]).max() < 0.2


def test_cls_and_mean_leaves_register_tokens_out():
    network = types.SimpleNamespace(num_prefix_tokens=3, forward_features=lambda x: x)
    tokens = torch.arange(5.0).view(1, 5, 1)
    assert cls_and_mean(network, tokens).tolist() == [[0.0, 3.5]]


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.architecture])
def test_recipes_build_networks_of_the_promised_width(name):
    recipe = RECIPES[name]
    millions = {"conch": 88, "uni": 303, "uni2-h": 681, "h0-mini": 86, "virchow": 631, "virchow2": 631, "resnet50": 24}
    with torch.device("meta"):
        network = build_recipe(recipe, None)
        batch = torch.empty(2, 3, recipe.spec.input_px, recipe.spec.input_px)
        out = cls_and_mean(network, batch) if recipe.pool == "cls+mean" else network(batch)
    assert out.shape == (2, recipe.spec.dim)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions.get(name, 1135)


def test_the_image_tower_of_conch_is_read_out_of_the_whole_model(monkeypatch, tmp_path):
    small = replace(
        RECIPES["conch"],
        architecture="vit_tiny_patch16_224",
        kwargs={"img_size": 32, "dynamic_img_size": True},
        spec=replace(RECIPES["conch"].spec, dim=16, input_px=32),
    )
    whole = build_recipe(small, None).eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = {f"visual.{name}": value for name, value in whole.state_dict().items()}
    others = {"visual.proj_contrast": torch.zeros(16, 16), "text.token": torch.zeros(2)}
    torch.save({**state, **others, "logit_scale": torch.zeros(())}, tmp_path / "pytorch_model.bin")
    read = build_recipe(small, tmp_path / "pytorch_model.bin").eval()
    batch = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(read(batch), whole(batch))
    # Written out: one query on all tokens, of the class and of the patches.
    pool = whole.attn_pool_contrast
    known = pool.ln_k(whole.trunk.forward_features(batch))
    weights = [pool.attn.q_proj_weight, pool.attn.k_proj_weight, pool.attn.v_proj_weight]
    q, k, v = (
        x @ w.T + b for x, w, b in zip((pool.ln_q(pool.query), known, known), weights, pool.attn.in_proj_bias.chunk(3))
    )
    q, k, v = q.view(1, 8, 1, 2), *(x.view(2, -1, 8, 2).transpose(1, 2) for x in (k, v))
    mixed = ((q @ k.transpose(2, 3) / 2**0.5).softmax(-1) @ v).transpose(1, 2).reshape(2, 16)
    torch.testing.assert_close(whole(batch), whole.ln_contrast(pool.attn.out_proj(mixed)))


def test_an_encoder_of_the_hub_comes_from_the_cache_with_its_commit(monkeypatch, tmp_path):
    commit = "f" * 40
    repository = tmp_path / "models--timm--resnet50.a1_in1k"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    network = build_recipe(RECIPES["resnet50"], None)
    classifier = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    save_file({**network.state_dict(), **classifier}, snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoder = encoders.get("resnet50")
    assert encoder.spec.revision == "f" * 12
    embedded = encoder.encode(np.full((2, 224, 224, 3), 200, dtype=np.uint8))
    assert embedded.shape == (2, 2048)
    np.testing.assert_allclose(embedded[0], embedded[1], rtol=1e-5)


def test_phikon_is_read_through_transformers_and_gives_the_cls_token(monkeypatch, tmp_path):
    class Network(torch.nn.Module):
        def forward(self, batch):
            return types.SimpleNamespace(last_hidden_state=batch.mean((1, 2, 3)).view(-1, 1, 1).expand(-1, 4, 1024))

    monkeypatch.setitem(
        sys.modules,
        "transformers",
        types.SimpleNamespace(AutoModel=types.SimpleNamespace(from_pretrained=lambda folder: Network())),
    )
    repository = tmp_path / "models--owkin--phikon-v2"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in ("model.safetensors", "config.json"):
        (snapshot / file).write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoder = encoders.get("phikon-v2")
    assert encoder.encode(np.zeros((3, 224, 224, 3), dtype=np.uint8)).shape == (3, 1024)


class Rounding(torch.nn.Module):
    """A network that bfloat16 hurts: a small difference of large numbers."""

    def __init__(self, loss: float) -> None:
        super().__init__()
        self.loss = loss
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.layer.weight, 1.0)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        value = batch.mean((1, 2, 3)).view(-1, 1)
        return self.layer(value + self.loss) - self.loss


@pytest.mark.parametrize(("loss", "used"), [(0.0, "bf16"), (1000.0, "float32")])
def test_bfloat16_is_used_only_where_embeddings_stay_within_one_percent(monkeypatch, loss, used):
    monkeypatch.setattr(_torch, "multiplies_bf16", lambda device: True)
    spec = encoders.EncoderSpec("own", "1", 1, 32, 0.5)
    encoder = TorchEncoder(spec, lambda: Rounding(loss), lambda network, batch: network(batch), *RECIPES["uni"].colors)
    assert encoder.to("cpu").precision == used


def test_a_transformer_in_bfloat16_stays_within_one_percent(folder, patches):
    encoder = encoders.get(f"local-dir:{folder}").to("cpu")
    exact = encoder._forward(patches, bf16=False)
    error = np.linalg.norm(encoder._forward(patches, bf16=True) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.01
