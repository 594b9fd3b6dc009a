from __future__ import annotations

import numpy as np
import pytest
import torch

from hisdiff._diffusion._prediction_type import PREDICTION_TYPES, target
from hisdiff._diffusion._samplers import SAMPLERS, denoiser
from hisdiff._diffusion._schedule import Schedule, linear_betas
from hisdiff._nn._conditioner import TimestepEmbedder
from hisdiff._nn._dit import DiT
from hisdiff._nn._initialize import initialize
from hisdiff._prediction._noise import BlockNoise

DIFFUSION = Schedule.from_betas(linear_betas())
MEAN, SD = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh_noise(like: torch.Tensor, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def levels_of(schedule: Schedule) -> dict[float, tuple[float, float]]:
    levels = {float(t): (float(a), float(s)) for t, a, s in zip(schedule.times, schedule.alpha, schedule.sigma)}
    if schedule.clean_time is not None:
        levels[schedule.clean_time] = (1.0, 0.0)
    return levels


def gaussian_denoiser(schedule: Schedule, prediction_type: str = "epsilon"):
    """The exact posterior mean for data from N(MEAN, SD^2), as a prediction of some kind."""
    levels = levels_of(schedule)

    def denoise(x, t):
        alpha, sigma = levels[t]
        x0 = MEAN + alpha * SD**2 / (alpha**2 * SD**2 + sigma**2) * (x - alpha * MEAN)
        return target(prediction_type, x0, (x - alpha * x0) / sigma if sigma else torch.zeros_like(x), alpha, sigma)

    return denoise


def transported(start: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """The exact solution of the probability flow of that data: every normal keeps its quantile."""
    alpha, sigma = schedule.alpha[-1], schedule.sigma[-1]
    return MEAN + SD * (start - alpha * MEAN) / torch.sqrt(alpha**2 * SD**2 + sigma**2)


def schedule_for(name: str, n_steps: int) -> Schedule:
    return Schedule.straight(n_steps) if name in ("euler", "heun") else DIFFUSION.respace(n_steps)


# ------------------------------------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    ("name", "prediction_type"),
    # Noise says nothing about data where there is only noise, as at the start of a straight path.
    [
        (name, prediction_type)
        for name in SAMPLERS
        for prediction_type in PREDICTION_TYPES
        if (name in ("euler", "heun")) <= (prediction_type != "epsilon")
    ],
)
def test_a_perfect_denoiser_gets_its_data_back(name, prediction_type):
    schedule = schedule_for(name, 8)
    levels, data, start = levels_of(schedule), randn(5, 3), randn(5, 3, seed=1)

    def denoise(x, t):
        alpha, sigma = levels[t]
        return target(prediction_type, data, (x - alpha * data) / sigma if sigma else start, alpha, sigma)

    result = SAMPLERS[name](denoise, start, schedule, prediction_type=prediction_type, noise=fresh_noise(start))
    torch.testing.assert_close(result, data)


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "euler", "heun"])
def test_few_steps_approach_the_flow_of_gaussian_data(name):
    start = randn(200, 3)

    def error(n_steps: int) -> float:
        schedule = schedule_for(name, n_steps)
        result = SAMPLERS[name](
            gaussian_denoiser(schedule, "v_prediction"), start, schedule, prediction_type="v_prediction"
        )
        return (result - transported(start, schedule)).abs().mean().item()

    order = {"ddim": 1, "dpm++2m": 1.5, "euler": 1, "heun": 2}[name]
    assert error(80) < 0.05
    assert error(80) < error(20) / 4**order * 1.4


@pytest.mark.parametrize("n_steps", [50, 1000])
def test_ancestral_samples_have_the_mean_and_spread_of_the_data(n_steps):
    schedule, start = DIFFUSION.respace(n_steps), randn(4000, 3)
    samples = SAMPLERS["ddpm"](gaussian_denoiser(schedule), start, schedule, noise=fresh_noise(start))
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), SD, atol=0, rtol=0.06 if n_steps == 1000 else 0.2)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++2m"])
def test_the_kind_of_prediction_does_not_change_samples(name):
    schedule, start = DIFFUSION.respace(10), randn(6, 3)
    results = [
        SAMPLERS[name](
            gaussian_denoiser(schedule, prediction_type),
            start,
            schedule,
            prediction_type=prediction_type,
            noise=fresh_noise(start),
        )
        for prediction_type in PREDICTION_TYPES
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_euler_on_a_straight_path_is_ddim():
    schedule, start = Schedule.straight(7), randn(6, 3)
    denoise = gaussian_denoiser(schedule, "velocity")
    euler, ddim = (SAMPLERS[name](denoise, start, schedule, prediction_type="velocity") for name in ("euler", "ddim"))
    torch.testing.assert_close(euler, ddim)


def test_heun_asks_at_the_clean_level_only_where_there_is_one():
    straight = Schedule.straight(5)
    for clean_time, expected in ((0.0, 10), (None, 9)):
        schedule = Schedule(straight.times, straight.alpha, straight.sigma, clean_time)
        asked, denoise = [], gaussian_denoiser(straight, "velocity")
        SAMPLERS["heun"](
            lambda x, t, d=denoise, a=asked: a.append(t) or d(x, t), randn(2, 3), schedule, prediction_type="velocity"
        )
        assert len(asked) == expected
        assert (0.0 in asked) == (clean_time is not None)


def test_samplers_work_from_pure_noise():
    """On a straight path the first level holds no signal, and the log signal-to-noise ratio is infinite."""
    schedule, start = Schedule.straight(40), randn(200, 3)
    denoise = gaussian_denoiser(schedule, "velocity")
    fast = SAMPLERS["dpm++2m"](denoise, start, schedule, prediction_type="velocity")
    assert (fast - transported(start, schedule)).abs().mean() < 0.05
    assert (
        SAMPLERS["ddpm"](denoise, start, schedule, prediction_type="velocity", noise=fresh_noise(start))
        .isfinite()
        .all()
    )


def test_the_controlled_variance_goes_from_the_lower_to_the_upper_end():
    schedule = Schedule.from_betas(linear_betas(2, 0.3, 0.5))
    start, ones = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    for control, variance in ((-1, np.exp(schedule.log_posterior_variance[1])), (1, schedule.betas[1])):
        seen = []

        def denoise(x, t, control=control, seen=seen):
            seen.append(x)
            return torch.stack([torch.zeros_like(x), control * torch.ones_like(x)], dim=1)

        SAMPLERS["ddpm"](denoise, start, schedule, noise=lambda step: ones)
        torch.testing.assert_close(seen[1], ones * variance**0.5)


# ------------------------------------------------------------------------------------------------ diffusers as oracle


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def run(scheduler, denoise, start, **kwargs):
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(denoise(x, float(t)), t, x, **kwargs).prev_sample
    return x


LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
DIFFUSERS_TYPES = ("epsilon", "v_prediction", "sample")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("prediction_type", DIFFUSERS_TYPES)
def test_ddim_equals_diffusers(diffusers, prediction_type):
    oracle = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, prediction_type=prediction_type)
    oracle.set_timesteps(20)
    schedule, start = DIFFUSION.at(oracle.timesteps.numpy()[::-1]), randn(4, 3)
    denoise = gaussian_denoiser(schedule, prediction_type)
    ours = SAMPLERS["ddim"](denoise, start, schedule, prediction_type=prediction_type)
    torch.testing.assert_close(ours, run(oracle, denoise, start), atol=2e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("prediction_type", DIFFUSERS_TYPES)
def test_dpm_solver_equals_diffusers(diffusers, prediction_type):
    oracle = diffusers.DPMSolverMultistepScheduler(**LINEAR, prediction_type=prediction_type)
    oracle.set_timesteps(20)
    schedule, start = DIFFUSION.at(oracle.timesteps.numpy()[::-1]), randn(4, 3)
    denoise = gaussian_denoiser(schedule, prediction_type)
    ours = SAMPLERS["dpm++2m"](denoise, start, schedule, prediction_type=prediction_type)
    torch.testing.assert_close(ours, run(oracle, denoise, start), atol=2e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_ancestral_sampling_equals_diffusers(diffusers, variance):
    short = {**LINEAR, "num_train_timesteps": 50}
    oracle = diffusers.DDPMScheduler(**short, clip_sample=False, variance_type=variance)
    oracle.set_timesteps(50)
    schedule, start = Schedule.from_betas(linear_betas(50)), randn(4, 3)
    mean_of = gaussian_denoiser(schedule)

    def ours(x, t):
        eps = mean_of(x, t)
        return eps if variance == "fixed_small" else torch.stack([eps, torch.tanh(x)], dim=1)

    def theirs(x, t):
        output = ours(x, t)
        return output if variance == "fixed_small" else output.reshape(len(x), -1)

    expected = run(oracle, theirs, start, generator=torch.Generator().manual_seed(1))
    result = SAMPLERS["ddpm"](ours, start, schedule, noise=fresh_noise(start, seed=1))
    torch.testing.assert_close(result, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_euler_equals_diffusers(diffusers):
    oracle = diffusers.FlowMatchEulerDiscreteScheduler()
    oracle.set_timesteps(sigmas=np.linspace(1, 1 / 10, 10))
    schedule, start = Schedule.straight(10), randn(4, 3)
    denoise = gaussian_denoiser(schedule, "velocity")
    nearest = {round(1000 * float(t)): float(t) for t in schedule.times}
    expected = run(oracle, lambda x, t: denoise(x, nearest[round(t)]), start.float())
    torch.testing.assert_close(
        SAMPLERS["euler"](denoise, start, schedule).float(), expected.float(), atol=1e-4, rtol=1e-4
    )


# ------------------------------------------------------------------------------------------------ networks


@pytest.fixture(scope="module")
def network() -> DiT:
    generator = torch.Generator().manual_seed(0)
    network = initialize(DiT(6, hidden=24, depth=2, heads=4), generator).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.requires_grad_(False)


def test_a_closed_network_is_the_network(network):
    schedule, x, condition = DIFFUSION.respace(5), randn(3, 6).float(), randn(3, 24, seed=1).float()
    denoise = denoiser(network, schedule, condition)
    for t in schedule.times:
        torch.testing.assert_close(denoise(x, float(t)), network(x, torch.tensor([float(t)]), condition))


def test_times_are_embedded_once(network, monkeypatch):
    calls = []
    forward = TimestepEmbedder.forward
    monkeypatch.setattr(TimestepEmbedder, "forward", lambda self, t: calls.append(len(t)) or forward(self, t))
    schedule, start = DIFFUSION.respace(5), randn(3, 6).float()
    SAMPLERS["ddim"](denoiser(network, schedule, randn(3, 24).float()), start, schedule)
    assert calls == [5]


def test_half_precision_stays_close_and_returns_the_precision_of_the_start(network):
    schedule, start, condition = DIFFUSION.respace(5), randn(3, 6).float(), randn(3, 24).float()
    full, half = (
        SAMPLERS["ddim"](denoiser(network, schedule, condition, autocast=dtype), start, schedule)
        for dtype in (None, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(half, full, atol=0.05 * full.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++2m"])
@pytest.mark.parametrize("size", [1, 7])
def test_batches_of_any_size_give_the_same_samples(network, name, size):
    n, schedule = 64, DIFFUSION.respace(6)
    condition, noise = randn(n, 24).float(), BlockNoise.for_rows(3, n)

    def sample(rows: np.ndarray) -> torch.Tensor:
        drawn = lambda step: torch.from_numpy(noise.normal(1, step, rows, 6))  # noqa: E731
        return SAMPLERS[name](denoiser(network, schedule, condition[rows]), drawn(0), schedule, noise=drawn)

    together = sample(np.arange(n))
    apart = torch.cat([sample(np.arange(i, min(i + size, n))) for i in range(0, n, size)])
    torch.testing.assert_close(apart, together, atol=1e-5 * together.abs().max().item(), rtol=1e-5)


# ------------------------------------------------------------------------------------------------ wrong use


def test_ancestral_sampling_without_noise_is_an_error():
    with pytest.raises(ValueError, match="source of noise"):
        SAMPLERS["ddpm"](gaussian_denoiser(DIFFUSION), randn(1, 3), DIFFUSION)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_flow_integrators_refuse_a_diffusion(name):
    with pytest.raises(ValueError, match="straight"):
        SAMPLERS[name](gaussian_denoiser(DIFFUSION, "velocity"), randn(1, 3), DIFFUSION, prediction_type="velocity")
