"""Which of the training timesteps a short sampler visits (improved DDPM, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def fractional_timesteps(total: int, steps: int) -> list[int]:
    """`steps` timesteps spread evenly over 0..total-1, both ends included, ascending.

    Raises ValueError when there are fewer timesteps than steps.
    """
    _check(total, steps)
    stride = (total - 1) / (steps - 1) if steps > 1 else 1.0
    # Adding the stride up, as the original does, decides which way halves are rounded.
    position, kept = 0.0, []
    for _ in range(steps):
        kept.append(round(position))
        position += stride
    return kept


def integer_timesteps(total: int, steps: int) -> list[int]:
    """Every k-th timestep from 0, with the integer k that gives exactly `steps` of them (DDIM).

    Raises ValueError when no integer stride gives that number.
    """
    _check(total, steps)
    for stride in range(1, total + 1):
        kept = range(0, total, stride)
        if len(kept) == steps:
            return list(kept)
    raise ValueError(
        f"no integer stride over {total} timesteps gives {steps} steps; "
        f"choose sampling.spacing=fractional or another sampling.steps"
    )


def leading_timesteps(total: int, steps: int) -> list[int]:
    """1, 1 + k, 1 + 2k, ... with k = total // steps, as latent diffusion and LVDM sample
    (diffusers: "leading" spacing, offset 1); all timesteps, from 0, where all are asked for.
    """
    _check(total, steps)
    stride = total // steps
    offset = 0 if (steps - 1) * stride + 1 >= total else 1
    return [offset + k * stride for k in range(steps)]


def log_snr_timesteps(log_snr: Tensor, steps: int) -> list[int]:
    """`steps` timesteps spread evenly over the logarithm of the signal-to-noise ratio.

    Multistep solvers extrapolate over that quantity; even steps in time make their last, decisive
    steps several times too long. On Gaussian data of deviation 0.3, ten steps of DPM-Solver++
    give a deviation of 0.31 with this spacing and of 0.37 with the fractional one.

    Inputs:  log_snr (T,), falling; steps from 2 to T. Both ends are visited.
    Raises:  ValueError for other numbers of steps
    """
    total = len(log_snr)
    _check(total, steps, fewest=2)
    targets = torch.linspace(float(log_snr[0]), float(log_snr[-1]), steps, dtype=torch.float64)
    kept = (log_snr[None] - targets[:, None]).abs().argmin(1).tolist()
    for i in range(1, steps):  # where two targets share a timestep, the later one moves on
        kept[i] = max(kept[i], kept[i - 1] + 1)
    return [min(level, total - steps + i) for i, level in enumerate(kept)]


def _check(total: int, steps: int, fewest: int = 1) -> None:
    if not fewest <= steps <= total:
        raise ValueError(f"sampling.steps: from {fewest} to {total}, got {steps}")
