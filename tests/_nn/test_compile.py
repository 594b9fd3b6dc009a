from __future__ import annotations

import copy

import pytest
import torch

from hisdiff._nn._compile import compile_forward, compiles

# Of torch, on a Python 3.13.0.
pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")


class Part(torch.nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(n_in, n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.linear(x))


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = Part(3, 4), Part(4, 2)
        self.blocks = torch.nn.ModuleList(Part(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(x)
        for block in self.blocks:
            x = block(x)
        return self.narrow(x)


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
    copied = copy.deepcopy(network)
    assert all(part._compiled_call_impl is None for part in copied.modules())
    assert list(network.state_dict()) == list(copied.state_dict())


def test_blocks_that_are_alike_are_compiled_once(network):
    compiled = []

    def counting(module, inputs):
        compiled.append(module)
        return module.forward

    compile_forward(network, backend=counting)
    with torch.no_grad():
        network(torch.randn(5, 3))
    assert len(compiled) == 3  # into the blocks, a block, and out of them


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


def test_it_is_compiled_where_that_pays_and_where_it_is_asked_for():
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert compiles(None, cuda, 10_000)
    assert not compiles(None, cuda, 20)
    assert not compiles(None, cpu, 10_000)
    assert compiles(True, cpu, 1)
    assert not compiles(False, cuda, 10_000)
