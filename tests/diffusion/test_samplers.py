"""Samplers on data whose perfect denoiser is known, and against diffusers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.samplers import SAMPLERS
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


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 250), ("ddim", 250), ("dpm_solver", 20)])
def test_samples_have_the_distribution_of_the_data(sampler: str, steps: int) -> None:
    torch.manual_seed(0)
    full = NoiseSchedule.linear()
    shape = (4, 2, 3, 32, 32)
    calls: list[tuple[int, int]] = []
    sample = SAMPLERS[sampler](
        full.respaced(
            log_snr_timesteps(full.log_snr, steps)
            if sampler == "dpm_solver"
            else fractional_timesteps(1000, steps)
        ),
        perfect_denoiser(full),
        torch.randn(shape),
        lambda: torch.randn(shape),
        lambda done, total: calls.append((done, total)),
    )
    assert sample.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert sample.std().item() == pytest.approx(DEVIATION, rel=0.06)
    if sampler == "ddpm":
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
