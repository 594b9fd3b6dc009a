from __future__ import annotations

import copy

import pytest
import torch

from hisdiff._nn._compile import compile_forward


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(torch.nn.functional.silu(self.widen(x)))


@pytest.fixture
def network() -> Network:
    return Network()


def gradient(network, x) -> list[torch.Tensor]:
    network.zero_grad()
    network(x).square().sum().backward()
    return [p.grad.clone() for p in network.parameters()]


def test_a_compiled_network_gives_the_same_and_its_copies_are_not_compiled(network):
    x = torch.randn(5, 3)
    value, slopes = network(x), gradient(network, x)
    compile_forward(network, backend="eager")
    torch.testing.assert_close(network(x), value)
    torch.testing.assert_close(gradient(network, x), slopes)
    assert copy.deepcopy(network)._compiled_call_impl is None
    assert list(network.state_dict()) == list(copy.deepcopy(network).state_dict())


def test_where_compilation_fails_the_network_goes_on_and_says_so(network, caplog):
    x = torch.randn(5, 3)
    value = network(x)

    def broken(module, inputs):
        raise RuntimeError("no compiler")

    compile_forward(network, backend=broken)
    with caplog.at_level("WARNING", logger="hisdiff"):
        for _ in range(2):
            torch.testing.assert_close(network(x), value)
    assert caplog.text.count("the network is not compiled") == 1
