"""Samplers as functions of a denoiser: noise in, clean latents out.

All share one form. `denoise(noisy, timestep)` gives (B, F, 2C, h, w): predicted noise, then the
variance interpolation; `timestep` is (B,) int64 in the network's own counting. `draw` gives
fresh standard normal noise of the latents' shape and is called once per stochastic step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffusion.schedule import NoiseSchedule, at

Denoise = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[], Tensor]
Report = Callable[[int, int], None]
SamplerName = Literal["ddpm", "ddim", "dpm_solver"]


def sample_ddpm(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, draw: Draw, report: Report
) -> Tensor:
    """Ancestral sampling with learned variance (improved DDPM). No noise in the last step."""
    for done, level in _levels(schedule, noisy, report):
        noise, interpolation = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        noisy = schedule.posterior_mean(start, noisy, level)
        fresh = draw()
        if done < len(schedule):
            noisy = noisy + torch.exp(schedule.log_variance(interpolation, level) / 2) * fresh
    return noisy


def sample_ddim(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, draw: Draw, report: Report
) -> Tensor:
    """Deterministic DDIM (arXiv 2010.02502, equation 12 with eta = 0)."""
    for _, level in _levels(schedule, noisy, report):
        noise, _ = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        signal_squared = at(schedule.signal_squared_before, level, noisy)
        noisy = signal_squared.sqrt() * start + (1 - signal_squared).sqrt() * noise
    return noisy


def sample_dpm_solver(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, draw: Draw, report: Report
) -> Tensor:
    """DPM-Solver++(2M): second order, multistep, deterministic (arXiv 2211.01095, algorithm 2).

    The last step, to zero noise, is of first order. Good from 10 to 50 steps.
    """
    earlier: Tensor | None = None
    earlier_step = 0.0
    for done, level in _levels(schedule, noisy, report):
        noise, _ = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        i = len(schedule) - done  # the level as a number
        if i == 0:
            return start
        step = float(schedule.log_snr[i - 1] - schedule.log_snr[i])  # h of the paper
        estimate = start
        if earlier is not None:
            estimate = start + (start - earlier) * (step / (2 * earlier_step))
        shrink = float(schedule.noise[i - 1] / schedule.noise[i])
        growth = -float(schedule.signal[i - 1] * torch.expm1(torch.tensor(-step).double()))
        noisy = shrink * noisy + growth * estimate
        earlier, earlier_step = start, step
    return noisy


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpm_solver": sample_dpm_solver}


def _levels(schedule: NoiseSchedule, noisy: Tensor, report: Report):  # type: ignore[no-untyped-def]
    """Yield (steps done with this one, (B,) level) from the noisiest level to the cleanest."""
    total = len(schedule)
    for done in range(1, total + 1):
        yield done, torch.full((len(noisy),), total - done, device=noisy.device)
        report(done, total)


def _predict(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    prediction = denoise(noisy, schedule.timesteps.to(level.device)[level]).float()
    noise, interpolation = prediction.chunk(2, dim=2)
    return noise, interpolation
