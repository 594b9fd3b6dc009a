from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hisdiff._nn._conditioner import Conditioner, SetAttention, TimestepEmbedder
from hisdiff._nn._initialize import initialize

B, D, C = 6, 32, 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def made(**kwargs) -> Conditioner:
    module = initialize(Conditioner(D, C, fusion_hidden=40, **kwargs), generator()).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator(len(parameter)))
    return module.requires_grad_(False)


@pytest.fixture(scope="module")
def conditioner() -> Conditioner:
    return made()


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return randn(B, D), randn(B, 9, D, seed=1), randn(B, 49, D, seed=2)


def test_set_attention_equals_torch_multi_head_attention():
    ours = initialize(SetAttention(D, 4), generator())
    nn.init.normal_(ours.in_proj.bias, generator=generator(1))
    theirs = nn.MultiheadAttention(D, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias,
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    query, members, mask = randn(B, D), randn(B, 7, D, seed=1), randn(B, 7, seed=2) > -1
    expected, _ = theirs(query[:, None], members, members, key_padding_mask=~mask)
    torch.testing.assert_close(ours(query, members, mask), expected[:, 0], atol=1e-5, rtol=1e-5)
    ours(query, members, mask).square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.in_proj.weight.grad, theirs.in_proj_weight.grad, atol=1e-4, rtol=1e-4)


def test_the_order_of_anchors_does_not_matter(conditioner, inputs):
    own, near, wide = inputs
    shuffled = conditioner(own, near[:, torch.randperm(9, generator=generator())], wide.flip(1))
    torch.testing.assert_close(shuffled, conditioner(*inputs), atol=1e-5, rtol=1e-5)


def test_near_and_wide_anchors_are_told_apart(conditioner, inputs):
    own, near, wide = inputs
    assert not torch.allclose(conditioner(own, wide, near), conditioner(*inputs), atol=1e-3)


def test_masked_anchors_are_as_if_not_there(conditioner, inputs):
    own, near, wide = inputs
    near_mask, wide_mask = torch.arange(9).expand(B, 9) < 4, torch.arange(49).expand(B, 49) < 4
    masked = conditioner(own, near, wide, near_mask, wide_mask)
    torch.testing.assert_close(masked, conditioner(own, near[:, :4], wide[:, :4]), atol=1e-5, rtol=1e-5)


def test_a_location_without_anchors_stays_finite_and_touches_no_other(conditioner, inputs):
    mask = torch.ones(B, 49, dtype=torch.bool)
    mask[2] = False
    own, near, wide = inputs
    result = conditioner(*inputs, wide_mask=mask)
    torch.testing.assert_close(conditioner(own, near, 5 * wide, wide_mask=mask)[2], result[2])
    others = torch.arange(B) != 2
    assert result.isfinite().all()
    torch.testing.assert_close(result[others], conditioner(*inputs)[others], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [None, 16])
def test_anchors_by_index_are_the_anchors_themselves(width):
    module, anchors, own = made(width=width), randn(30, D), randn(B, D, seed=1)
    wide = torch.stack([torch.randperm(30, generator=generator(i))[:12] for i in range(B)])
    wide[0, 5:] = -1
    near = wide[:, :9]
    expected = module(own, anchors[near.clamp(min=0)], anchors[wide.clamp(min=0)], near >= 0, wide >= 0)
    torch.testing.assert_close(module.at(own, anchors, near, wide), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_of_any_size_give_the_same_condition(conditioner, size):
    own, near, wide = randn(64, D), randn(64, 9, D, seed=1), randn(64, 49, D, seed=2)
    parts = [conditioner(*(x[i : i + size] for x in (own, near, wide))) for i in range(0, 64, size)]
    torch.testing.assert_close(torch.cat(parts), conditioner(own, near, wide), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("embedding_dim", "width", "heads"), [(30, 32, 8), (30, None, 6), (32, 16, 8)])
def test_any_length_of_embedding_is_taken_with_a_width_that_the_heads_divide(embedding_dim, width, heads):
    module = initialize(Conditioner(embedding_dim, C, width=width, heads=heads), generator())
    shape = module(randn(B, embedding_dim), randn(B, 9, embedding_dim), randn(B, 49, embedding_dim)).shape
    assert shape == (B, C)


def test_a_width_that_the_heads_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="length 30 at a width of 30"):
        Conditioner(30, C)


def test_library_size_changes_the_condition_of_its_location_only(inputs):
    module, log2_size = made(with_library_size=True), torch.zeros(B)
    before = module(*inputs, log2_size=log2_size)
    log2_size[1] = 1.5
    changed = (module(*inputs, log2_size=log2_size) - before).abs().sum(1) > 1e-3
    assert changed.tolist() == [False, True, False, False, False, False]


def test_library_size_is_given_if_and_only_if_it_is_taken(conditioner, inputs):
    with pytest.raises(ValueError, match="with_library_size"):
        conditioner(*inputs, log2_size=torch.zeros(B))
    with pytest.raises(ValueError, match="with_library_size"):
        made(with_library_size=True)(*inputs)


def test_times_are_coded_by_cosines_then_sines():
    embedder = TimestepEmbedder(8)
    seen = []
    embedder.mlp[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    embedder(torch.tensor([3.0, 999.0]))
    rates = [math.exp(-math.log(10_000) * k / 128) for k in range(128)]
    expected = [[math.cos(t * r) for r in rates] + [math.sin(t * r) for r in rates] for t in (3, 999)]
    torch.testing.assert_close(seen[0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_whole_and_fractional_times_are_taken():
    embedder = initialize(TimestepEmbedder(8), generator())
    torch.testing.assert_close(embedder(torch.tensor([5])), embedder(torch.tensor([5.0])))
    assert not torch.equal(embedder(torch.tensor([5.5])), embedder(torch.tensor([5.0])))
