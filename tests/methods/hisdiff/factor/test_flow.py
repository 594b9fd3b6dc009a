import numpy as np
import pytest
import torch

from hisdiff._diffusion._samplers import SAMPLERS
from hisdiff._nn._initialize import initialize
from hisdiff._nn._mlp import StackedMLP, seeded_dropout
from hisdiff._training._config import TrainingConfig
from hisdiff._training._loop import generator_for, train
from hisdiff.methods.hisdiff.factor._flow import FactorFlow, LeftOut, gaussian_velocity

K, C = 3, 2


def flow(folds=(-1, -1), **sizes) -> FactorFlow:
    options = {"width": 16, "depth": 1, **sizes}
    network = StackedMLP(len(folds), K, C, **options)
    return initialize(FactorFlow(network, torch.tensor(folds)), generator_for(0, -1))


def disturbed(folds=(-1, -1)) -> FactorFlow:
    """A flow with random weights everywhere."""
    made = flow(folds)
    for i, parameter in enumerate(made.parameters()):
        torch.nn.init.normal_(parameter, std=0.2, generator=generator_for(1, i))
    return made


def noise(*shape) -> torch.Tensor:
    return torch.randn(shape, generator=generator_for(2, 0))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_untrained_flow_is_the_standard_normal(sampler):
    start = noise(2, 50, K)
    drawn = flow().sample(noise(50, C), start, n_steps=20, sampler=SAMPLERS[sampler])
    np.testing.assert_allclose(drawn, start, atol=0.2 if sampler == "euler" else 0.01)


def test_gaussian_velocity_is_the_regression_of_noise_minus_data_on_their_mixture():
    rng = np.random.default_rng(0)
    data, eps = rng.normal(size=(2, 200_000))
    for t in (0.1, 0.5, 0.8):
        x = (1 - t) * data + t * eps
        slope = (x @ (eps - data)) / (x @ x)
        assert float(gaussian_velocity(torch.tensor(1.0), t)) == pytest.approx(slope, abs=0.01)


def test_members_do_not_touch_each_other():
    three = disturbed((0, -1, 1))
    start, condition = noise(3, 7, K), noise(7, C)
    whole = three.sample(condition, start, n_steps=3, sampler=SAMPLERS["heun"])
    for member in range(3):
        alone = three.take(np.array([member])).sample(
            condition, start[member : member + 1], n_steps=3, sampler=SAMPLERS["heun"]
        )
        np.testing.assert_allclose(alone[0], whole[member], atol=1e-5)


def test_a_member_learns_nothing_from_its_fold():
    made = disturbed((0, -1))
    batch = {"scores": noise(8, K), "condition": noise(8, C), "fold": torch.zeros(8, dtype=torch.int64)}
    made.loss(batch, generator_for(0, 0)).total.backward()
    weight = made.network.enter.weight.grad
    assert weight[0].abs().max() == 0
    assert weight[1].abs().max() > 0


def test_result_of_a_location_does_not_depend_on_the_others():
    made = disturbed()
    start, condition = noise(2, 9, K), noise(9, C)
    whole = made.sample(condition, start, n_steps=2, sampler=SAMPLERS["heun"])
    part = made.sample(condition[4:6], start[:, 4:6], n_steps=2, sampler=SAMPLERS["heun"])
    np.testing.assert_allclose(part, whole[:, 4:6], atol=1e-5)


def test_scores_beyond_those_of_the_flow_stay_what_they_are():
    start = noise(2, 5, K + 2)
    drawn = disturbed().sample(noise(5, C), start, n_steps=3, sampler=SAMPLERS["heun"])
    torch.testing.assert_close(drawn[..., K:], start[..., K:])
    assert (drawn[..., :K] - start[..., :K]).abs().max() > 0.1


def test_members_are_judged_on_what_they_have_not_seen_and_the_standard_normal_scores_one():
    fold, condition = torch.arange(900) % 2, torch.sign(noise(900, C))
    scores = condition[:, :1] * torch.ones(K) + 0.1 * torch.randn(900, K, generator=generator_for(3, 0))
    left_out = LeftOut(scores, condition, fold, seed=0)
    made = flow((0, 1, -1), width=32)
    assert left_out(made).score == 1
    data = {"scores": scores, "condition": condition, "fold": fold}
    settings = TrainingConfig(max_steps=100, batch_size=128, learning_rate=8e-3, ema=0.9, validate_every=50)
    result = train(made, data, settings, seed=0, device="cpu", validate=left_out)
    learned = left_out(made).score
    assert learned == pytest.approx(min(row["val_score"] for row in result.history), rel=1e-5)
    assert learned < 0.7
    with torch.no_grad():
        made.network.head.bias[2] += 1  # of the one that has seen all
    assert left_out(made).score == learned


def test_learns_a_distribution_that_depends_on_the_condition():
    condition = torch.sign(noise(600, C))
    scores = noise(1, 600, K)[0] * torch.where(condition[:, :1] > 0, 1.3, 0.3)
    scores[:, 1] += condition[:, 1]
    made = flow(width=32, depth=2)
    data = {"scores": scores, "condition": condition, "fold": torch.zeros(600, dtype=torch.int64)}
    train(made, data, TrainingConfig(max_steps=250, batch_size=128, learning_rate=8e-3, ema=0.98), seed=0, device="cpu")
    asked = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat_interleave(400, 0)
    drawn = made.sample(asked, noise(2, 800, K), n_steps=12, sampler=SAMPLERS["heun"]).reshape(2, 2, 400, K)
    wide, narrow = drawn[:, 0, :, 0].std(), drawn[:, 1, :, 0].std()
    assert wide == pytest.approx(1.3, abs=0.3)
    assert narrow == pytest.approx(0.3, abs=0.2)
    assert drawn[:, 1, :, 1].mean() - drawn[:, 0, :, 1].mean() == pytest.approx(2.0, abs=0.4)


def test_dropout_needs_a_generator_and_keeps_the_mean():
    x = torch.ones(20_000)
    assert torch.equal(seeded_dropout(x, 0.3, None), x)
    dropped = seeded_dropout(x, 0.3, generator_for(0, 0))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(dropped, seeded_dropout(x, 0.3, generator_for(0, 0)))
