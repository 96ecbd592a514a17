"""Samplers as functions of a denoiser: noise in, clean latents out.

All share one form. `denoise(noisy, timestep)` gives (B, F, 2C, h, w): predicted noise, then the
variance interpolation; or (B, F, C, h, w), the noise alone, of a network that learned no variance:
then that of the posterior is taken. `timestep` is (B,) int64 in the network's own counting. `draw`
gives fresh standard normal noise of the latents' shape and is called once per stochastic step.
Predicted clean samples are never clipped.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from diffusion.schedule import NoiseSchedule, at, on_device

Denoise = Callable[[Tensor, Tensor], Tensor]
Draw = Callable[[], Tensor]
Report = Callable[[int, int], None]
Sampler = Callable[[NoiseSchedule, Denoise, Tensor, Draw, Report], Tensor]
SamplerName = Literal["ddpm", "ddim", "dpm_solver", "unipc2", "unipc3"]


def sample_ddpm(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, draw: Draw, report: Report
) -> Tensor:
    """Ancestral sampling (improved DDPM), with the network's variance if it learned one, else the
    posterior's. No noise in the last step."""
    for done, level in _levels(schedule, noisy, report):
        noise, interpolation = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        noisy = schedule.posterior_mean(start, noisy, level)
        fresh = draw()
        if done < len(schedule):
            log_variance = schedule.log_variance(interpolation, level, noisy)
            noisy = noisy + torch.exp(log_variance / 2) * fresh
    return noisy


def sample_ddim(
    schedule: NoiseSchedule,
    denoise: Denoise,
    noisy: Tensor,
    draw: Draw,
    report: Report,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (arXiv 2010.02502, equation 12). `eta` 0 is deterministic; 1 adds as much noise as
    ancestral sampling does, in every step but one that ends at the clean sample."""
    for _, level in _levels(schedule, noisy, report):
        noise, _ = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        signal_squared = at(schedule.signal_squared_before, level, noisy)
        deviation = eta * at(schedule.posterior_deviation, level, noisy)
        remaining = (1 - signal_squared - deviation.square()).clamp_min(0)
        noisy = signal_squared.sqrt() * start + remaining.sqrt() * noise
        if eta > 0:
            noisy = noisy + deviation * draw()
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
            noisy = start
            continue
        step = float(schedule.log_snr[i - 1] - schedule.log_snr[i])  # h of the paper
        estimate = start
        if earlier is not None:
            estimate = start + (start - earlier) * (step / (2 * earlier_step))
        noisy = _advance(schedule, noisy, estimate, i, i - 1)
        earlier, earlier_step = start, step
    return noisy


def sample_unipc(
    schedule: NoiseSchedule,
    denoise: Denoise,
    noisy: Tensor,
    draw: Draw,
    report: Report,
    order: int = 3,
) -> Tensor:
    """UniPC of order 1 to 3 with B(h) = e^h - 1, deterministic (arXiv 2302.04867, algorithm 5).

    It predicts the clean sample, as DPM-Solver++ does. The prediction at a new level also
    corrects the step that led there, so each step still costs one call. The order rises over the
    first steps, and falls over the last ones, where the log signal-to-noise ratio ends.
    """
    log_snr, total = schedule.log_snr.tolist(), len(schedule)
    starts: list[Tensor] = []  # predicted clean samples, newest first, and their levels
    visited: list[int] = []
    before, used = noisy, 1  # the sample at visited[0], and the order of the step from there
    for done, level in _levels(schedule, noisy, report):
        i = total - done  # the level as a number
        noise, _ = _predict(schedule, denoise, noisy, level)
        start = schedule.predict_start(noisy, noise, level)
        if i == 0:
            noisy = start  # the step to zero noise is of first order: the prediction itself
            continue
        if starts:  # corrector: the same step again, with the prediction at its end
            corrected = _unipc_step(log_snr, visited, starts, i, used, start)
            noisy = _advance(schedule, before, corrected, visited[0], i)
        starts, visited = [start, *starts[: order - 1]], [i, *visited[: order - 1]]
        before, used = noisy, min(order, len(starts), i + 1)
        predicted = _unipc_step(log_snr, visited, starts, i - 1, used, None)
        noisy = _advance(schedule, before, predicted, i, i - 1)
    return noisy


def _unipc_step(
    log_snr: Sequence[float],
    visited: Sequence[int],
    starts: Sequence[Tensor],
    target: int,
    order: int,
    reached: Tensor | None,
) -> Tensor:
    """The clean sample that stands for the whole step from visited[0] to target.

    Divided differences of the predictions, weighted by `unipc_weights`. `reached`, the prediction
    at the target itself, makes the predictor of order p a corrector of order p + 1.
    """
    step = log_snr[target] - log_snr[visited[0]]  # h of the paper
    others = [(log_snr[level] - log_snr[visited[0]]) / step for level in visited[1:order]]
    differences = [
        (start - starts[0]) / r for start, r in zip(starts[1:order], others, strict=True)
    ]
    if reached is not None:
        differences.append(reached - starts[0])
        others.append(1.0)
    estimate = starts[0]
    for weight, difference in zip(unipc_weights(others, step), differences, strict=True):
        estimate = estimate + weight * difference
    return estimate


def unipc_weights(positions: Sequence[float], step: float) -> list[float]:
    """Weights a of the divided differences at `positions` r (in steps from the start of one).

    The exact step weighs the clean sample at position u by e^(step u). With the k-th moment
    of that weight, M_k = 1 / (1 - e^-step) - k M_(k-1) / step and M_0 = 1, the condition of order
    (theorem 3.1 of the paper) is sum_m a_m r_m^(k-1) = M_k for k = 1, 2, ... One position gets
    1/2, which has the same order, as the paper takes it.
    """
    if len(positions) <= 1:
        return [0.5] * len(positions)
    moments = [1.0]
    for k in range(1, len(positions) + 1):
        moments.append(-1 / math.expm1(-step) - k * moments[-1] / step)
    powers = torch.tensor(
        [[r**k for r in positions] for k in range(len(positions))], dtype=torch.float64
    )
    right = torch.tensor(moments[1:], dtype=torch.float64)
    return torch.linalg.solve(powers, right).tolist()


def _advance(
    schedule: NoiseSchedule, noisy: Tensor, estimate: Tensor, level: int, target: int
) -> Tensor:
    """From one level to a cleaner one along the exact solution for a constant clean sample."""
    step = float(schedule.log_snr[target] - schedule.log_snr[level])
    shrink = float(schedule.noise[target] / schedule.noise[level])
    return shrink * noisy - float(schedule.signal[target]) * math.expm1(-step) * estimate


SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm_solver": sample_dpm_solver,
    "unipc2": functools.partial(sample_unipc, order=2),
    "unipc3": functools.partial(sample_unipc, order=3),
}
SOLVERS = ("dpm_solver", "unipc2", "unipc3")  # extrapolate over the log signal-to-noise ratio


def _levels(schedule: NoiseSchedule, noisy: Tensor, report: Report) -> Iterator[tuple[int, Tensor]]:
    """Yield (steps done with this one, (B,) level) from the noisiest level to the cleanest."""
    total = len(schedule)
    for done in range(1, total + 1):
        yield done, torch.full((len(noisy),), total - done, device=noisy.device)
        report(done, total)


def _predict(
    schedule: NoiseSchedule, denoise: Denoise, noisy: Tensor, level: Tensor
) -> tuple[Tensor, Tensor | None]:
    prediction = denoise(noisy, on_device(schedule.timesteps, level.device)[level]).float()
    if prediction.shape == noisy.shape:
        return prediction, None
    noise, interpolation = prediction.chunk(2, dim=2)
    return noise, interpolation
