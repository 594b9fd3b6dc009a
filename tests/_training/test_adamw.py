import subprocess
import sys

import torch

from hisdiff._training._adamw import AdamW


def test_steps_are_those_of_torch_also_after_a_pause():
    def network():
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))

    def descend(module, optimizer, seeds):
        for seed in seeds:
            x = torch.randn((16, 4), generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    own, other, resumed = network(), network(), network()
    other.load_state_dict(own.state_dict())
    optimizer = AdamW(own.parameters(), learning_rate=1e-2, weight_decay=0.1)
    descend(own, optimizer, range(5))
    resumed.load_state_dict(own.state_dict())
    again = AdamW(resumed.parameters(), learning_rate=1e-2, weight_decay=0.1)
    again.load({name: tensor.clone() for name, tensor in optimizer.state().items()})
    descend(own, optimizer, range(5, 9))
    descend(resumed, again, range(5, 9))
    descend(other, torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1), range(9))
    for a, b, c in zip(own.parameters(), other.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_a_rate_that_is_looked_up_where_the_weights_are_makes_the_same_steps():
    def moved(held) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.ones(5))
        optimizer = AdamW([weight], learning_rate=1.0, weight_decay=0.1, fused=True)
        optimizer._rate = held  # a tensor on a card, where a recorded step finds the rate that was set since
        for rate in (1e-2, 5e-3):
            optimizer.learning_rate = rate
            assert optimizer.learning_rate == torch.tensor(rate)
            weight.grad = torch.arange(5.0)
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(moved(torch.tensor(1.0)), moved(1.0))


def test_training_does_not_import_the_compiler_of_torch():
    code = """
import sys, torch
from hisdiff._training._loop import LossOutput, train
from hisdiff.methods.hisdiff.factor.config import FactorConfig
class Line(torch.nn.Linear):
    def loss(self, batch, generator):
        total = self(batch["x"]).square().mean()
        return LossOutput(total, {"own": total})
train(Line(3, 2), {"x": torch.ones(8, 3)}, FactorConfig(max_steps=2), seed=0, device="cpu", progress_bar=False)
print({"torch._dynamo", "torch.distributed.tensor"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
