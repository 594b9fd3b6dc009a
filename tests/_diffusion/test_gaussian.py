from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions

from hisdiff._diffusion._gaussian import GaussianDiffusion, loss_terms
from hisdiff._diffusion._schedule import linear_betas

B, G = 7, 5
T = torch.tensor([0, 1, 2, 17, 100, 500, 999])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def diffusion() -> GaussianDiffusion:
    return GaussianDiffusion(linear_betas())


@pytest.fixture(scope="module")
def case(diffusion):
    x0, noise = randn(B, G), randn(B, G, seed=1)
    return x0, noise, diffusion.q_sample(x0, T, noise)


def output(eps: torch.Tensor, control: torch.Tensor | float = 0.0) -> torch.Tensor:
    return torch.stack([eps, torch.zeros_like(eps) + control], dim=1)


def test_noising_has_the_mean_and_variance_of_repeated_small_steps():
    betas = linear_betas(5, 0.1, 0.4)
    generator = torch.Generator().manual_seed(0)
    x = torch.full((20_000, 1), 3.0)
    for beta in betas:
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn(x.shape, generator=generator)
    t = torch.full((20_000,), 4)
    direct = GaussianDiffusion(betas).q_sample(torch.full_like(x, 3.0), t, torch.randn(x.shape, generator=generator))
    assert direct.mean().item() == pytest.approx(x.mean().item(), abs=0.03)
    assert direct.std().item() == pytest.approx(x.std().item(), rel=0.03)


def test_the_true_noise_gives_back_the_data_and_the_true_posterior(diffusion, case):
    x0, noise, x_t = case
    reverse = diffusion.posterior(output(noise), x_t, T)
    torch.testing.assert_close(reverse.pred_x0, x0, atol=2e-4, rtol=1e-4)
    weight_x0, weight_x = (torch.tensor(w, dtype=torch.float32)[T][:, None] for w in diffusion.schedule.posterior_mean)
    torch.testing.assert_close(reverse.mean, weight_x0 * x0 + weight_x * x_t, atol=1e-4, rtol=1e-4)


def test_the_control_moves_the_variance_between_its_ends(diffusion, case):
    _, noise, x_t = case
    low, high = diffusion.schedule.log_posterior_variance[T], diffusion.schedule.log_betas[T]
    for control, expected in ((-1, low), (1, high), (0, (low + high) / 2)):
        log_variance = diffusion.posterior(output(noise, control), x_t, T).log_variance
        np.testing.assert_allclose(log_variance, np.broadcast_to(expected[:, None], (B, G)), rtol=1e-5)
    np.testing.assert_allclose(diffusion.posterior(noise, x_t, T).log_variance[:, 0], low, rtol=1e-5)


def test_a_perfect_network_has_no_error_and_no_divergence(diffusion, case):
    x0, noise, x_t = case
    mse, bound = diffusion.losses(output(noise, -1.0), x0, x_t, T, noise)
    assert not mse.any()
    torch.testing.assert_close(bound[1:], torch.zeros(B - 1), atol=1e-3, rtol=0)


def test_the_bound_is_the_divergence_of_normals_in_bits(diffusion, case):
    x0, noise, x_t = case
    predicted = output(0.8 * noise, 0.3)
    _, bound = diffusion.losses(predicted, x0, x_t, T, noise)
    truth, model = diffusion.posterior(output(noise, -1.0), x_t, T), diffusion.posterior(predicted, x_t, T)
    normal = lambda r: distributions.Normal(r.mean.double(), (r.log_variance.double() / 2).exp())  # noqa: E731
    expected = distributions.kl_divergence(normal(truth), normal(model)).mean(1) / math.log(2)
    torch.testing.assert_close(bound[1:].double(), expected[1:], atol=1e-3, rtol=1e-3)
    at_zero = -normal(model).log_prob(x0.double()).mean(1) / math.log(2)
    torch.testing.assert_close(bound[0].double(), at_zero[0], atol=1e-3, rtol=1e-3)


def test_the_bound_trains_the_variance_only_and_the_error_the_noise_only(diffusion, case):
    x0, noise, x_t = case
    predicted = output(0.8 * noise, 0.3).requires_grad_()
    mse, bound = diffusion.losses(predicted, x0, x_t, T, noise)
    (of_bound,) = torch.autograd.grad(bound.sum(), predicted, retain_graph=True)
    (of_mse,) = torch.autograd.grad(mse.sum(), predicted)
    assert not of_bound[:, 0].any()
    assert of_bound[:, 1].all()
    assert not of_mse[:, 1].any()
    assert of_mse[:, 0].all()


def test_the_published_term_of_level_0_is_the_probability_of_a_bin():
    diffusion = GaussianDiffusion(linear_betas(), reference_compat=True)
    x0, t = torch.tensor([[0.2, -1.0, 1.0, 0.9]]), torch.tensor([0])
    noise = torch.tensor([[0.5, -1.0, 2.0, 0.1]])
    x_t = diffusion.q_sample(x0, t, noise)
    predicted = output(0.5 * noise)
    _, bound = diffusion.losses(predicted, x0, x_t, t, noise)
    model = diffusion.posterior(predicted, x_t, t)
    normal = distributions.Normal(model.mean.double(), (model.log_variance.double() / 2).exp())
    up, down = normal.cdf(x0.double() + 1 / 255), normal.cdf(x0.double() - 1 / 255)
    probability = torch.stack([(up - down)[0, 0], up[0, 1], 1 - down[0, 2], (up - down)[0, 3]])
    assert bound.item() == pytest.approx(-probability.log2().mean().item(), abs=5e-3)


def test_level_0_is_finite_far_from_unit_range(diffusion):
    """Log counts reach 10 and more, where the published bins end at 1."""
    x0, t, noise = torch.full((1, G), 12.0), torch.tensor([0]), randn(1, G)
    x_t = diffusion.q_sample(x0, t, noise)
    _, bound = diffusion.losses(output(noise), x0, x_t, t, noise)
    expected = 0.5 * (math.log(2 * math.pi) + diffusion.posterior(output(noise), x_t, t).log_variance.mean().item())
    assert bound.item() == pytest.approx(expected / math.log(2), abs=1e-3)


def test_the_terms_of_the_paper_loss_are_of_what_the_network_was_shown(diffusion, case):
    x0, noise, x_t = case
    condition = randn(B, 3)
    seen = []

    def network(x, times, given):
        seen.append((x, times, given))
        return output(0.5 * noise, 0.1)

    mse, vb = loss_terms(network, condition, x0, T, noise, diffusion=diffusion)
    expected, bound = diffusion.losses(output(0.5 * noise, 0.1), x0, x_t, T, noise)
    torch.testing.assert_close((mse, vb), (expected, bound))
    torch.testing.assert_close(mse, 0.25 * noise.square().mean(1))
    x, times, given = seen[0]
    torch.testing.assert_close(x, x_t)
    assert times.tolist() == T.tolist()
    assert given is condition
    fixed, none = loss_terms(lambda *_: 0.5 * noise, condition, x0, T, noise, diffusion=diffusion)
    torch.testing.assert_close(fixed, mse)
    assert none is None


def test_a_respaced_process_tells_the_network_the_original_steps(diffusion):
    short = diffusion.respace(50)
    assert len(short) == 50
    assert short.times(torch.tensor([0, 25, 49])).tolist() == [0, 510, 999]
    x0, noise = randn(1, G), randn(1, G, seed=1)
    torch.testing.assert_close(
        short.q_sample(x0, torch.tensor([25]), noise), diffusion.q_sample(x0, torch.tensor([510]), noise)
    )
