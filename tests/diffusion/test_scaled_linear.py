"""The schedule of latent diffusion and LVDM, and samplers of networks without learned variance."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.samplers import SAMPLERS, SOLVERS, Denoise, sample_ddim, sample_ddpm
from diffusion.schedule import NoiseSchedule
from diffusion.spacing import fractional_timesteps, leading_timesteps, log_snr_timesteps

# Level, then beta, alpha_bar, its roots, posterior variance and weights, in float64 from the
# definitions: betas are squares of a line from sqrt(0.0015) to sqrt(0.0155).
TABLE = [
    (0, 0.0015, 0.99849999, 0.9992497, 0.0387298, 0, 1, 0),
    (1, 0.001506658, 0.996995628, 0.9984967, 0.0548124, 7.522262e-4, 0.5011079, 0.4988919),
    (10, 0.00156724, 0.983260155, 0.9915947, 0.1293826, 1.42274e-3, 0.0929092, 0.9070879),
    (100, 0.002238741, 0.828817904, 0.9103944, 0.4137416, 2.21442e-3, 0.0119196, 0.9880285),
    (250, 0.003623268, 0.535476029, 0.7317622, 0.68156, 3.60808e-3, 0.00571808, 0.9940025),
    (500, 0.006667921, 0.150070056, 0.3873888, 0.9219164, 6.660019e-3, 0.00304935, 0.9954792),
    (750, 0.01063396, 0.017394474, 0.1318881, 0.9912646, 1.063194e-2, 0.00143497, 0.9944795),
    (999, 0.0155, 0.000668665, 0.0258586, 0.9996656, 1.549984e-2, 0.000404221, 0.9922093),
]
# Index of a sampler of 50 steps, its timestep, alpha_bar there and of the next, deviation at eta 1.
STEPS = [
    (0, 1, 0.996995628, 0.99849999, 0.027426625),
    (1, 21, 0.966003478, 0.996995628, 0.052412979),
    (25, 501, 0.149067298, 0.170003504, 0.346585645),
    (49, 981, 0.000882854, 0.001192451, 0.509461068),
]
SHAPE = (2, 3, 4, 8, 8)


@pytest.fixture
def full() -> NoiseSchedule:
    return NoiseSchedule.scaled_linear()


def ending_at_first_level(full: NoiseSchedule, steps: int) -> NoiseSchedule:
    return full.respaced(leading_timesteps(len(full), steps), float(full.signal_squared[0]))


def perfect_denoiser(schedule: NoiseSchedule, mean: float, deviation: float) -> Denoise:
    """The expected noise, and nothing else, where every value is N(mean, deviation^2)."""

    def denoise(noisy: Tensor, timestep: Tensor) -> Tensor:
        signal, noise = schedule.signal[timestep[0]], schedule.noise[timestep[0]]
        variance = (signal * deviation) ** 2 + noise**2
        return (noise / variance * (noisy.double() - signal * mean)).float()

    return denoise


@pytest.mark.parametrize("row", TABLE)
def test_the_schedule_has_the_values_of_its_definition(
    full: NoiseSchedule, row: tuple[float, ...]
) -> None:
    level = int(row[0])
    found = [
        full.betas[level],
        full.signal_squared[level],
        full.signal[level],
        full.noise[level],
        full.posterior_deviation[level] ** 2,
        full.posterior_start_weight[level],
        full.posterior_noisy_weight[level],
    ]
    assert [float(value) for value in found] == pytest.approx(row[1:], rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("row", STEPS)
def test_fifty_steps_visit_every_twentieth_level_and_end_at_the_first(
    full: NoiseSchedule, row: tuple[float, ...]
) -> None:
    index, schedule = int(row[0]), ending_at_first_level(full, 50)
    found = [
        schedule.timesteps[index],
        schedule.signal_squared[index],
        schedule.signal_squared_before[index],
        schedule.posterior_deviation[index],
    ]
    assert [float(value) for value in found] == pytest.approx(row[1:], rel=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 30, 50, 300, 500, 999, 1000])
def test_leading_timesteps_are_as_many_as_asked_and_levels_of_the_schedule(steps: int) -> None:
    kept = leading_timesteps(1000, steps)
    assert len(kept) == len(set(kept)) == steps
    assert kept == sorted(kept)
    assert 0 <= kept[0] <= kept[-1] < 1000
    with pytest.raises(ValueError, match="from 1 to 1000, got 1001"):
        leading_timesteps(1000, 1001)


def test_leading_timesteps_are_those_of_diffusers() -> None:
    scheduler = library_ddim()
    for steps in (4, 30, 50, 300):
        scheduler.set_timesteps(steps)
        assert leading_timesteps(1000, steps) == sorted(scheduler.timesteps.tolist())


def library_ddim() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [4, 30, 50])
def test_ddim_agrees_with_diffusers(full: NoiseSchedule, eta: float, steps: int) -> None:
    scheduler = library_ddim()
    scheduler.set_timesteps(steps)
    denoise = perfect_denoiser(full, 0.4, 0.3)
    torch.manual_seed(0)
    noise, draws = torch.randn(SHAPE), [torch.randn(SHAPE) for _ in range(steps)]
    sample = noise
    for timestep, drawn in zip(scheduler.timesteps, draws, strict=True):
        prediction = denoise(sample, timestep.reshape(1))
        sample = scheduler.step(
            prediction, timestep, sample, eta=eta, variance_noise=drawn if eta else None
        ).prev_sample
    ours = sample_ddim(
        ending_at_first_level(full, steps),
        denoise,
        noise,
        functools.partial(next, iter(draws)),
        lambda done, total: None,
        eta=eta,
    )
    torch.testing.assert_close(ours, sample, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_each_step_of_ddpm_agrees_with_diffusers(full: NoiseSchedule) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_start=0.0015,
        beta_end=0.0155,
        beta_schedule="scaled_linear",
        variance_type="fixed_small",
        clip_sample=False,
    )
    torch.manual_seed(0)
    noisy, prediction = torch.randn(SHAPE), torch.randn(SHAPE)
    for level in (999, 998, 500, 100, 10, 1, 0):
        torch.manual_seed(level)
        theirs = scheduler.step(prediction, level, noisy).prev_sample
        torch.manual_seed(level)
        index = torch.full((len(noisy),), level)
        start = full.predict_start(noisy, prediction, index)
        ours = full.posterior_mean(start, noisy, index)
        if level:
            ours = ours + torch.exp(full.log_variance(None, index, noisy) / 2) * torch.randn(SHAPE)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ddpm", 200), ("ddim", 100), ("dpm_solver", 20), ("unipc2", 20), ("unipc3", 15)],
)
def test_networks_without_learned_variance_give_the_distribution_of_the_data(
    full: NoiseSchedule, sampler: str, steps: int
) -> None:
    torch.manual_seed(0)
    kept = (
        log_snr_timesteps(full.log_snr, steps)
        if sampler in SOLVERS
        else fractional_timesteps(1000, steps)
    )
    shape = (4, 2, 3, 32, 32)
    # Far outside [-1, 1]: a clipped clean sample would be told.
    sample = SAMPLERS[sampler](
        full.respaced(kept),
        perfect_denoiser(full, 4.0, 0.7),
        torch.randn(shape),
        lambda: torch.randn(shape),
        lambda done, total: None,
    )
    assert sample.mean().item() == pytest.approx(4.0, abs=0.15)
    assert sample.std().item() == pytest.approx(0.7, rel=0.06)


def test_a_learned_variance_at_its_lower_end_is_that_of_the_posterior(full: NoiseSchedule) -> None:
    schedule = full.respaced(fractional_timesteps(1000, 10))
    alone = perfect_denoiser(full, 0.4, 0.3)
    noise = torch.randn(SHAPE)

    def with_variance(noisy: Tensor, timestep: Tensor) -> Tensor:
        prediction = alone(noisy, timestep)
        return torch.cat([prediction, torch.full_like(prediction, -1)], dim=2)

    def run(denoise: Denoise) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return sample_ddpm(
            schedule,
            denoise,
            noise,
            lambda: torch.randn(SHAPE, generator=generator),
            lambda done, total: None,
        )

    assert torch.equal(run(alone), run(with_variance))


def test_ddim_repeats_itself_at_eta_0_and_only_there(full: NoiseSchedule) -> None:
    schedule, noise = ending_at_first_level(full, 5), torch.randn(SHAPE)

    def run(eta: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_ddim(
            schedule,
            perfect_denoiser(full, 0.4, 0.3),
            noise,
            lambda: torch.randn(SHAPE, generator=generator),
            lambda done, total: None,
            eta=eta,
        )

    assert torch.equal(run(0.0, 0), run(0.0, 1))
    assert not torch.equal(run(1.0, 0), run(1.0, 1))
