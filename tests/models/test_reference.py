"""Checkpoints of the published code, through the public loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hisdiff as hd
from hisdiff._sdata._layers import layer_names

# The widths that the test's encoder and sections have.
G, D, WIDTH, HEADS = 12, 8, 24, 4


class GrayEncoder:
    """Eight values of a patch."""

    def __init__(self, dim: int = D) -> None:
        self.spec = hd.encoders.EncoderSpec(
            "grey", "1", dim=dim, input_px=32, mpp=2.0, licence="CC0-1.0", derivatives=True
        )

    def encode(self, patches: np.ndarray) -> np.ndarray:
        values = patches.reshape(len(patches), -1).astype(np.float32) / 255
        return np.quantile(values, np.linspace(0.05, 0.95, self.spec.dim), axis=1).T.astype(np.float32)


def published_weights() -> dict[str, torch.Tensor]:
    """Weights of a small network of one block under the names of the published code."""
    shapes: dict[str, tuple[int, ...]] = {"inputEmbedder.ebd_layer_1": (G, WIDTH)}
    linear = {
        "inputEmbedder.ebd_layer_2.0": (1, WIDTH), "inputEmbedder.ebd_layer_2.2": (WIDTH, WIDTH),
        "time_embed.mlp.0": (256, WIDTH), "time_embed.mlp.2": (WIDTH, WIDTH),
        "crossAttention_ln.out_proj": (D, D), "crossAttention_gn.out_proj": (D, D),
        "img_ebd.0": (D, D), "img_ebd.2": (D, WIDTH),
        "blocks.0.attn.qkv": (WIDTH, 3 * WIDTH), "blocks.0.attn.proj": (WIDTH, WIDTH),
        "blocks.0.mlp.fc1": (WIDTH, 4 * WIDTH), "blocks.0.mlp.fc2": (4 * WIDTH, WIDTH),
        "blocks.0.adaLN_modulation.1": (WIDTH, 6 * WIDTH),
        "final_layer.linear": (WIDTH, 2), "final_layer.adaLN_modulation.1": (WIDTH, 2 * WIDTH),
    }  # fmt: skip
    for name, (inputs, outputs) in linear.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)
    for attention in ("crossAttention_ln", "crossAttention_gn"):
        shapes[f"{attention}.in_proj_weight"], shapes[f"{attention}.in_proj_bias"] = (3 * D, D), (3 * D,)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def sdata(make_section):
    return make_section("s0", side=5, n_genes=G)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.save({"model": published_weights(), "opt": {}, "epoch": 3}, tmp_path / "0000003.pt")
    return tmp_path / "0000003.pt"


@pytest.fixture
def model(checkpoint, sdata) -> hd.models.Model:
    return hd.models.load_reference_checkpoint(checkpoint, list(sdata.tables["table"].var_names), heads=HEADS)


def predicted(sdata, model) -> np.ndarray:
    return hd.tl.predict(sdata, model, n_draws=2, n_steps=5, inplace=False, device="cpu").X


def test_it_has_the_published_setting_and_no_cohort(model, sdata) -> None:
    assert model.method == "hisdiff"
    assert list(model.genes) == list(sdata.tables["table"].var_names)
    chosen = {
        name: model.config[name]
        for name in ("denoiser", "standardize", "sampler", "n_steps", "width", "depth", "heads")
    }
    assert chosen == {
        "denoiser": "dit", "standardize": False, "sampler": "ddpm", "n_steps": 1000, "width": WIDTH, "depth": 1, "heads": HEADS,
    }  # fmt: skip
    assert (model.cohort.sections, model.cohort.features, model.calibration) == ((), None, None)
    assert "12 genes" in repr(model)


def test_an_embedded_section_is_predicted(model, sdata) -> None:
    hd.pp.embed(sdata, GrayEncoder())
    values = predicted(sdata, model)
    assert values.shape == (25, G)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(predicted(sdata, model), values)
    hd.tl.predict(sdata, model, n_draws=2, n_steps=5)
    table = sdata.tables["table"]
    np.testing.assert_array_equal(table.layers["hisdiff"], values)
    assert "hisdiff_cv_pcc" not in table.var
    assert table.uns["hisdiff"]["predictions"]["hisdiff"]["in_sample"] == "unknown"  # its training is not known


def test_a_section_that_has_only_an_image_is_predicted_once_it_is_embedded(model, sdata) -> None:
    del sdata.tables["table"]
    with pytest.raises(ValueError, match=r'hd\.pp\.embed\(sdata, "uni"\)'):
        hd.tl.predict(sdata, model, n_draws=1, n_steps=2)
    hd.pp.embed(sdata, GrayEncoder())
    hd.tl.predict(sdata, model, n_draws=1, n_steps=2)
    assert sdata.tables["lattice"].shape[1] == G


def test_a_section_without_embedding_is_told_which_is_needed(model, sdata) -> None:
    with pytest.raises(ValueError, match=r'does not record its encoder.*hd\.pp\.embed\(sdata, "uni"\)'):
        hd.tl.predict(sdata, model)
    assert not layer_names(sdata.tables["table"])


def test_an_embedding_of_another_width_is_refused(model, sdata) -> None:
    hd.pp.embed(sdata, GrayEncoder(6))
    with pytest.raises(ValueError, match="has 6 values, but the model was trained on 8"):
        hd.tl.predict(sdata, model)
    assert not layer_names(sdata.tables["table"])


def test_a_saved_model_comes_back_the_same(model, sdata, tmp_path) -> None:
    hd.pp.embed(sdata, GrayEncoder())
    loaded = hd.models.load(model.save(tmp_path / "model"))
    assert loaded.id == model.id
    assert np.isnan(loaded.cohort.pitch_um)
    np.testing.assert_array_equal(predicted(sdata, loaded), predicted(sdata, model))


def test_it_is_not_uploaded(model) -> None:
    with pytest.raises(PermissionError, match="not recorded.*unknown"):
        model.push_to_hub("lab/published")


def test_a_panel_of_another_size_is_refused(checkpoint) -> None:
    with pytest.raises(ValueError, match="12 genes, but 2 were given"):
        hd.models.load_reference_checkpoint(checkpoint, ["A", "B"])


@pytest.mark.real
def test_the_published_output_comes_out(real_data) -> None:
    with np.load(real_data / "reference" / "oracle.npz") as file:
        oracle = {name: torch.as_tensor(file[name]) for name in file.files}
    x0, own = (oracle[name].reshape(len(oracle[name]), -1) for name in ("x0", "local"))
    genes = [f"gene{i}" for i in range(x0.shape[1])]
    model = hd.models.load_reference_checkpoint(real_data / "reference" / "0000100.pt", genes)
    network = model.fitted.generator.network
    with torch.no_grad():
        condition = network.conditioner(own, oracle["neighbours"], oracle["global_"])
        output = network.denoiser(x0, oracle["t"], condition)
    torch.testing.assert_close(output, oracle["forward_at_x0"], atol=1e-5, rtol=1e-5)


@pytest.mark.real
def test_the_published_checkpoint_predicts_a_section(real_data, make_section) -> None:
    with np.load(real_data / "reference" / "oracle.npz") as file:
        n_genes, dim = file["x0"].shape[-1], file["local"].shape[-1]
    sdata = make_section("s0", side=3, n_genes=n_genes)
    model = hd.models.load_reference_checkpoint(
        real_data / "reference" / "0000100.pt", list(sdata.tables["table"].var_names)
    )
    hd.pp.embed(sdata, GrayEncoder(dim))
    assert predicted(sdata, model).shape == (9, n_genes)
