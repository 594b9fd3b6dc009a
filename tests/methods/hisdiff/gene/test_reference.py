from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from hisdiff._diffusion._gaussian import GaussianDiffusion, loss_terms
from hisdiff._diffusion._schedule import linear_betas
from hisdiff.methods.hisdiff.gene._reference import load_reference_checkpoint

G, H, D, DEPTH = 6, 24, 16, 2
GENES = [f"gene{i}" for i in range(G)]


def published_weights() -> dict[str, torch.Tensor]:
    """Weights of a small network under the names of the published code."""
    shapes: dict[str, tuple[int, ...]] = {"inputEmbedder.ebd_layer_1": (G, H)}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    linear("inputEmbedder.ebd_layer_2.0", 1, H)
    linear("inputEmbedder.ebd_layer_2.2", H, H)
    linear("time_embed.mlp.0", 256, H)
    linear("time_embed.mlp.2", H, H)
    for attention in ("crossAttention_ln", "crossAttention_gn"):
        shapes[f"{attention}.in_proj_weight"], shapes[f"{attention}.in_proj_bias"] = (3 * D, D), (3 * D,)
        linear(f"{attention}.out_proj", D, D)
    linear("img_ebd.0", D, D)
    linear("img_ebd.2", D, H)
    for i in range(DEPTH):
        linear(f"blocks.{i}.attn.qkv", H, 3 * H)
        linear(f"blocks.{i}.attn.proj", H, H)
        linear(f"blocks.{i}.mlp.fc1", H, 4 * H)
        linear(f"blocks.{i}.mlp.fc2", 4 * H, H)
        linear(f"blocks.{i}.adaLN_modulation.1", H, 6 * H)
    linear("final_layer.linear", H, 2)
    linear("final_layer.adaLN_modulation.1", H, 2 * H)
    generator = torch.Generator().manual_seed(0)
    return {name: 0.2 * torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def saved(path: Path, weights: dict, **more) -> Path:
    torch.save({"model": weights, "opt": {"state": {}}, "epoch": 3, **more}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return saved(tmp_path / "0000003.pt", published_weights())


def forward(reference) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    own, near, wide, x = (torch.randn(*s, generator=generator) for s in ((2, D), (2, 9, D), (2, 49, D), (2, G)))
    with torch.no_grad():
        return reference.network(x, torch.tensor([3, 900]), reference.conditioner(own, near, wide))


def test_sizes_are_read_off_the_weights(checkpoint):
    sizes = load_reference_checkpoint(checkpoint, GENES).sizes
    assert (sizes.n_genes, sizes.hidden, sizes.depth, sizes.mlp_ratio, sizes.embedding_dim) == (G, H, DEPTH, 4, D)
    assert sizes.heads == 12


def test_heads_come_from_the_argument_then_the_file_beside_then_the_paper(checkpoint):
    assert load_reference_checkpoint(checkpoint, GENES, heads=3).sizes.heads == 3
    checkpoint.with_name("config.json").write_text(json.dumps({"heads": 4}))
    assert load_reference_checkpoint(checkpoint, GENES).sizes.heads == 4
    assert load_reference_checkpoint(checkpoint, GENES, heads=3).sizes.heads == 3


def test_every_weight_is_used(checkpoint, tmp_path):
    before = forward(load_reference_checkpoint(checkpoint, GENES))
    for name in published_weights():
        weights = published_weights()
        if name.endswith("in_proj_bias"):
            weights[name][:D] += 1  # the third that belongs to the keys has no effect
        else:
            weights[name] += torch.linspace(0.1, 1, weights[name].numel()).view_as(weights[name])
        changed = forward(load_reference_checkpoint(saved(tmp_path / "changed.pt", weights), GENES))
        assert not torch.allclose(changed, before, atol=1e-6), name


def test_weights_of_a_wrapped_network_are_the_same(checkpoint, tmp_path):
    wrapped = saved(tmp_path / "wrapped.pt", {f"module.{name}": value for name, value in published_weights().items()})
    torch.testing.assert_close(
        forward(load_reference_checkpoint(wrapped, GENES)), forward(load_reference_checkpoint(checkpoint, GENES))
    )


def test_the_file_may_go_after_reading(checkpoint):
    reference = load_reference_checkpoint(checkpoint, GENES)
    before = forward(reference)
    checkpoint.write_bytes(b"\0" * checkpoint.stat().st_size)
    torch.testing.assert_close(forward(reference), before)


def test_the_network_is_ready_for_prediction(checkpoint):
    reference = load_reference_checkpoint(checkpoint, GENES)
    assert not reference.network.training
    assert not reference.conditioner.training


# ------------------------------------------------------------------------------------------------ refused


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        load_reference_checkpoint(tmp_path / "nothing.pt", GENES)


@pytest.mark.parametrize("kept", [0, 10, 1000, -100])
def test_a_truncated_file_is_refused(checkpoint, kept):
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept])
    with pytest.raises(ValueError, match="0000003.pt"):
        load_reference_checkpoint(checkpoint, GENES)


class Planted:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self):
        return (Path.touch, (Path(self.where),))

    def __init__(self, where: Path) -> None:
        self.where = str(where)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, how):
    path, trace = tmp_path / "planted.pt", tmp_path / "trace"
    if how == "torch":
        saved(path, published_weights(), args=Planted(trace))
    else:
        path.write_bytes(pickle.dumps({"model": Planted(trace)}))
    with pytest.raises(ValueError, match="planted.pt"):
        load_reference_checkpoint(path, GENES)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"weights": {}}, [1, 2], {"model": {"a": 1}}, {"model": {}}])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt"):
        load_reference_checkpoint(tmp_path / "other.pt", GENES)


def test_missing_and_unknown_and_misshapen_parameters_are_named(tmp_path):
    missing = published_weights()
    del missing["blocks.1.attn.qkv.bias"]
    unknown = published_weights() | {"pos_embed": torch.zeros(3)}
    misshapen = published_weights() | {"final_layer.linear.weight": torch.zeros(1, H)}
    for weights, message in ((missing, "qkv.bias"), (unknown, "pos_embed"), (misshapen, "head.linear.weight")):
        with pytest.raises(ValueError, match=message):
            load_reference_checkpoint(saved(tmp_path / "wrong.pt", weights), GENES)


def test_the_panel_has_to_fit(checkpoint):
    with pytest.raises(ValueError, match="6 genes, but 2 were given"):
        load_reference_checkpoint(checkpoint, ["A", "B"])
    with pytest.raises(ValueError, match="gene0"):
        load_reference_checkpoint(checkpoint, ["gene0", *GENES[:-1]])


def test_heads_that_do_not_divide_the_width_are_an_error(checkpoint):
    with pytest.raises(ValueError, match="5 heads"):
        load_reference_checkpoint(checkpoint, GENES, heads=5)


# ------------------------------------------------------------------------------------------------ published numbers


@pytest.fixture(scope="module")
def oracle(real_data) -> dict[str, torch.Tensor]:
    with np.load(real_data / "reference" / "oracle.npz") as file:
        arrays = {name: torch.as_tensor(file[name]) for name in file.files}
    return {name: a[:, 0] if a.ndim == 3 and a.shape[1] == 1 else a for name, a in arrays.items()}


@pytest.fixture(scope="module")
def published(real_data, oracle):
    genes = [f"gene{i}" for i in range(oracle["x0"].shape[1])]
    reference = load_reference_checkpoint(real_data / "reference" / "0000100.pt", genes)
    with torch.no_grad():
        return reference.network, reference.conditioner(oracle["local"], oracle["neighbours"], oracle["global_"])


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.real
@torch.no_grad()
def test_the_network_gives_the_published_output(published, oracle):
    network, condition = published
    close(network(oracle["x0"], oracle["t"], condition), oracle["forward_at_x0"])


@pytest.mark.real
@torch.no_grad()
def test_loss_terms_are_the_published_ones(published, oracle):
    network, condition = published
    diffusion, t = GaussianDiffusion(linear_betas(), reference_compat=True), oracle["t"]
    x_t = diffusion.q_sample(oracle["x0"], t, oracle["noise"])
    close(x_t, oracle["x_t"])
    mse, bound = diffusion.losses(network(x_t, t, condition), oracle["x0"], x_t, t, oracle["noise"])
    close(mse, oracle["mse"])
    close(bound, oracle["vb"])
    close(sum(loss_terms(network, condition, oracle["x0"], t, oracle["noise"], diffusion=diffusion)), oracle["loss"])


@pytest.mark.real
@torch.no_grad()
def test_the_reverse_step_is_the_published_one(published, oracle):
    network, condition = published
    diffusion, x_t, t = GaussianDiffusion(linear_betas()), oracle["x_t"], oracle["t"]
    reverse = diffusion.posterior(network(x_t, t, condition), x_t, t)
    close(reverse.mean, oracle["posterior_mean"])
    close(reverse.log_variance, oracle["posterior_log_variance"])
    close(reverse.pred_x0, oracle["pred_x0"])


@pytest.mark.real
@torch.no_grad()
def test_the_respaced_reverse_step_is_the_published_one(published, oracle):
    network, condition = published
    diffusion = GaussianDiffusion(linear_betas()).respace(50)
    assert diffusion.schedule.times.tolist() == oracle["respaced50_timesteps"].tolist()
    t = oracle["respaced50_index"].expand(len(condition))
    x_t = oracle["x_t"]
    reverse = diffusion.posterior(network(x_t, diffusion.times(t), condition), x_t, t)
    close(reverse.mean, oracle["respaced50_mean"])
    close(reverse.log_variance, oracle["respaced50_log_variance"])
