from __future__ import annotations

import pytest
import torch
from torch import nn

from hisdiff._nn._conditioner import Conditioner
from hisdiff._nn._dit import DiT
from hisdiff._nn._initialize import initialize

G, H = 10, 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def small(**kwargs) -> DiT:
    return DiT(G, hidden=H, depth=2, heads=4, **kwargs)


@pytest.fixture(scope="module")
def network() -> DiT:
    """A network away from its start, where it is zero."""
    network = small().eval()
    for k, parameter in enumerate(network.parameters()):
        nn.init.normal_(parameter, std=0.2, generator=generator(k))
    return network.requires_grad_(False)


def test_the_published_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        parts = Conditioner(1024, 384), DiT(200)
    assert sum(p.numel() for part in parts for p in part.parameters()) == 42_528_002


def test_the_output_is_zero_at_the_start_and_every_parameter_learns_after_a_few_steps():
    network = initialize(small(), generator())
    x, t, condition = randn(3, G), torch.tensor([1, 500, 999]), randn(3, H, seed=1)
    assert not network(x, t, condition).any()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        (network(x, t, condition) - randn(3, 2, G, seed=2)).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(("learn_variance", "shape"), [(True, (3, 2, G)), (False, (3, G))])
def test_the_shape_says_whether_the_variance_is_learned(learn_variance, shape):
    network = small(learn_variance=learn_variance)
    assert network(randn(3, G), torch.tensor([7]), randn(3, H)).shape == shape


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_of_any_size_give_the_same_output(network, size):
    x, t, condition = randn(64, G), torch.arange(64), randn(64, H, seed=1)
    parts = [network(x[i : i + size], t[i : i + size], condition[i : i + size]) for i in range(0, 64, size)]
    torch.testing.assert_close(torch.cat(parts), network(x, t, condition), atol=1e-5, rtol=1e-5)


def test_one_time_serves_the_whole_batch(network):
    x, condition = randn(5, G), randn(5, H, seed=1)
    one, many = (network(x, t, condition) for t in (torch.tensor([7]), torch.full((5,), 7)))
    torch.testing.assert_close(one, many, atol=1e-5, rtol=1e-5)


def test_genes_permuted_with_their_vectors_give_permuted_output(network):
    """Tokens carry their gene by a learned vector only, not by their place."""
    permutation = torch.randperm(G, generator=generator())
    permuted = small().eval()
    state = dict(network.state_dict())
    state["tokens.identity"] = state["tokens.identity"][permutation]
    permuted.load_state_dict(state)
    x, t, condition = randn(3, G), torch.tensor([7]), randn(3, H, seed=1)
    result, expected = permuted(x[:, permutation], t, condition), network(x, t, condition)[..., permutation]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(network(x[:, permutation], t, condition), expected, atol=1e-2)


@pytest.mark.parametrize("changed", ["value of another gene", "time", "condition"])
def test_every_input_tells_on_every_gene(network, changed):
    x, t, condition = randn(1, G), torch.tensor([7.0]), randn(1, H, seed=1)
    before = network(x, t, condition)
    if changed == "time":
        after = network(x, t + 100, condition)
    elif changed == "condition":
        after = network(x, t, condition + 1)
    else:
        x = x.clone()
        x[0, 0] += 1
        after = network(x, t, condition)
    assert ((after - before)[..., 1:].abs() > 1e-6).all()


def test_heads_have_to_divide_the_width():
    with pytest.raises(ValueError, match="24 does not split into 5"):
        DiT(G, hidden=24, heads=5)


def test_the_generator_alone_decides_the_starting_weights():
    torch_state = torch.random.get_rng_state()
    networks = []
    for seed in (0, 0, 1):
        network = small()
        after_construction = torch.random.get_rng_state()
        networks.append(initialize(network, generator(seed)))
        assert torch.equal(torch.random.get_rng_state(), after_construction)
    torch.random.set_rng_state(torch_state)
    first, again, other = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["tokens.identity"], other["tokens.identity"])


def test_linear_layers_start_by_xavier_with_zero_bias():
    layer = initialize(nn.Sequential(nn.Linear(300, 100)), generator())[0]
    bound = (6 / 400) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.bias.any()


def test_one_gene_per_token_is_the_published_network():
    one, same = (initialize(small(**kwargs), generator()) for kwargs in ({}, {"genes_per_token": 1}))
    assert one.state_dict().keys() == same.state_dict().keys()
    x, t, condition = randn(3, G), torch.tensor([5]), randn(3, H, seed=1)
    assert torch.equal(one(x, t, condition), same(x, t, condition))


@pytest.mark.parametrize("size", [2, 3, G])  # 3 does not divide the panel
def test_groups_return_every_gene_once_and_genes_may_change_places_with_their_weights(size):
    network = small(genes_per_token=size, learn_variance=False).eval().requires_grad_(False)
    for k, parameter in enumerate(network.parameters()):
        nn.init.normal_(parameter, std=0.2, generator=generator(k))
    network.groups.arrange(torch.randperm(G, generator=generator(9)))
    x = randn(4, G)
    assert torch.equal(network.groups.join(network.groups.split(x)[:, None])[:, 0], x)
    t, condition = torch.tensor([5]), randn(4, H, seed=1)
    before = network(x, t, condition)
    order = network.groups.order.clone()
    order[:2] = order[:2].flip(0)
    network.groups.arrange(order)
    for weight in (network.tokens.enter, network.head.linear.weight.transpose(1, 2), network.head.linear.bias):
        weight[0, :2] = weight[0, :2].flip(0)
    torch.testing.assert_close(network(x, t, condition), before)


def test_a_group_is_not_larger_than_the_panel():
    with pytest.raises(ValueError, match=f"all {G} of the panel, not 11"):
        small(genes_per_token=11)
