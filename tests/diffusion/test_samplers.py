"""Samplers on data whose perfect denoiser is known, and against diffusers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.samplers import SAMPLERS, SOLVERS, unipc_weights
from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, log_snr_timesteps

MEAN, DEVIATION = 0.4, 0.3


def perfect_denoiser(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """Predicts the expected noise when every value of the data is N(MEAN, DEVIATION^2)."""

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        signal, noise = schedule.signal[timestep[0]], schedule.noise[timestep[0]]
        variance = (signal * DEVIATION) ** 2 + noise**2
        expected = noise / variance * (noisy.double() - signal * MEAN)
        return torch.cat([expected, torch.full_like(expected, -1)], dim=2).float()

    return denoise


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddpm", 250), ("ddim", 250), ("dpm_solver", 20), ("unipc2", 20), ("unipc3", 15)],
)
def test_samples_have_the_distribution_of_the_data(sampler: str, steps: int) -> None:
    torch.manual_seed(0)
    full = NoiseSchedule.linear()
    shape = (4, 2, 3, 32, 32)
    calls: list[tuple[int, int]] = []
    sample = SAMPLERS[sampler](
        full.respaced(
            log_snr_timesteps(full.log_snr, steps)
            if sampler in SOLVERS
            else fractional_timesteps(1000, steps)
        ),
        perfect_denoiser(full),
        torch.randn(shape),
        lambda: torch.randn(shape),
        lambda done, total: calls.append((done, total)),
    )
    assert sample.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert sample.std().item() == pytest.approx(DEVIATION, rel=0.06)
    assert calls == [(k, steps) for k in range(1, steps + 1)]


def test_ddim_is_deterministic_and_ddpm_is_not() -> None:
    full = NoiseSchedule.linear()
    schedule = full.respaced(fractional_timesteps(1000, 10))
    noise = torch.randn(1, 2, 3, 4, 4)

    def run(name: str, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return SAMPLERS[name](
            schedule,
            perfect_denoiser(full),
            noise,
            lambda: torch.randn(noise.shape, generator=generator),
            lambda done, total: None,
        )

    assert torch.equal(run("ddim", 0), run("ddim", 1))
    assert torch.equal(run("ddpm", 0), run("ddpm", 0))
    assert not torch.equal(run("ddpm", 0), run("ddpm", 1))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpm_solver_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    full = NoiseSchedule.linear()
    kept = fractional_timesteps(1000, 12)
    denoise = perfect_denoiser(full)
    noise = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    ours = SAMPLERS["dpm_solver"](
        full.respaced(kept), denoise, noise, lambda: noise, lambda done, total: None
    )

    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, algorithm_type="dpmsolver++", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(timesteps=kept[::-1])
    sample = noise
    for timestep in scheduler.timesteps:
        prediction = denoise(sample, timestep.reshape(1)).chunk(2, dim=2)[0]
        sample = scheduler.step(prediction, timestep, sample).prev_sample
    # diffusers takes the first level's small noise for exactly zero in its last two steps.
    torch.testing.assert_close(ours, sample, atol=2e-2, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps", [3, 12, 40])
def test_unipc_agrees_with_diffusers(order: int, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    full = NoiseSchedule.linear()
    denoise = perfect_denoiser(full)
    noise = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    scheduler = diffusers.UniPCMultistepScheduler(
        beta_start=1e-4, beta_end=2e-2, solver_order=order, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    sample, earlier = noise, []
    for timestep in scheduler.timesteps:
        prediction = denoise(sample, timestep.reshape(1)).chunk(2, dim=2)[0]
        earlier.append(sample)
        sample = scheduler.step(prediction, timestep, sample).prev_sample

    seen: list[Tensor] = []

    def recording(noisy: Tensor, timestep: Tensor) -> Tensor:
        seen.append(noisy)
        return denoise(noisy, timestep)

    kept = scheduler.timesteps.flip(0).tolist()
    ours = SAMPLERS[f"unipc{order}"](
        full.respaced(kept), recording, noise, lambda: noise, lambda done, total: None
    )
    for one, other in zip([*seen, ours], [*earlier, sample], strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize(("sampler", "order"), [("dpm_solver", 2), ("unipc2", 3), ("unipc3", 4)])
def test_solvers_converge_with_their_order(sampler: str, order: int) -> None:
    """On the exact flow of Gaussian data; a corrector adds one to the order of its predictor."""
    noise = torch.linspace(-2, 2, 24, dtype=torch.float64).view(1, 2, 3, 2, 2)
    errors = []
    for steps in (10, 20, 40):
        log_snr = torch.linspace(1, -2, steps + 1, dtype=torch.float64)
        levels = torch.sigmoid(2 * log_snr)  # signal squared
        before = torch.cat([torch.ones(1, dtype=torch.float64), levels[:-1]])
        schedule = NoiseSchedule(1 - levels / before)
        deviation = ((schedule.signal * DEVIATION) ** 2 + schedule.noise**2).sqrt()
        scores = (noise - schedule.signal[-1] * MEAN) / deviation[-1]  # kept by the exact flow
        reached = schedule.signal[0] * MEAN + deviation[0] * scores
        level = torch.zeros(1, dtype=torch.long)
        denoise = perfect_denoiser(schedule)
        last = denoise(reached, level).chunk(2, dim=2)[0]
        expected = schedule.predict_start(reached, last, level)
        found = SAMPLERS[sampler](schedule, denoise, noise, lambda: noise, lambda done, total: None)
        errors.append((found - expected).abs().max().item())
    orders = [math.log2(one / other) for one, other in itertools.pairwise(errors)]
    assert all(each > order - 0.5 for each in orders), (errors, orders)


def test_unipc_integrates_polynomials_exactly() -> None:
    """Against numerical integration of a quadratic with the weight e^(step u), u from 0 to 1."""
    step, positions = 0.7, [-1.3, 1.0]
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    weight = (step * u).exp()

    def polynomial(at: Tensor) -> Tensor:
        return 2 * at - 3 * at**2  # zero at the start of the step

    expected = (weight * polynomial(u)).sum() / weight.sum()
    points = torch.tensor(positions, dtype=torch.float64)
    differences = polynomial(points) / points
    weights = torch.tensor(unipc_weights(positions, step), dtype=torch.float64)
    torch.testing.assert_close(weights @ differences, expected, atol=1e-4, rtol=0)
