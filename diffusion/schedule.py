"""Noise levels of a diffusion process, and the Gaussians that follow from them.

Notation of DDPM (arXiv 2006.11239) and improved DDPM (arXiv 2102.09672): alpha_t = 1 - beta_t,
alpha_bar_t = product of alpha up to t; "start" is the clean sample x_0, "noisy" is x_t.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseSchedule:
    """A sequence of T noise levels, in float64, with the timestep that each one stands for.

    `timesteps[i]` is what the network is told at level i: i itself for a full schedule, the
    training timestep for a respaced one. `cleanest` is alpha_bar of where the last step of a
    sampler arrives: 1 is the clean sample itself.
    """

    def __init__(
        self, betas: Tensor, timesteps: Sequence[int] | None = None, cleanest: float = 1.0
    ) -> None:
        self.betas = betas.double()
        self.timesteps = torch.tensor(
            list(range(len(betas)) if timesteps is None else timesteps), dtype=torch.long
        )
        self.signal_squared = cleanest * torch.cumprod(1 - self.betas, dim=0)  # alpha_bar
        end = torch.full((1,), cleanest, dtype=torch.float64)
        before = torch.cat([end, self.signal_squared[:-1]])
        self.signal_squared_before = before
        self.signal = self.signal_squared.sqrt()
        self.noise = (1 - self.signal_squared).sqrt()
        variance = self.betas * (1 - before) / (1 - self.signal_squared)
        self.posterior_deviation = variance.sqrt()
        # The posterior variance is 0 at t = 0; the next one stands in for its logarithm.
        clipped = torch.cat([variance[1:2], variance[1:]]) if len(betas) > 1 else variance
        self.posterior_log_variance = clipped.log()
        self.log_betas = self.betas.log()
        self.posterior_start_weight = self.betas * before.sqrt() / (1 - self.signal_squared)
        self.posterior_noisy_weight = (
            (1 - before) * (1 - self.betas).sqrt() / (1 - self.signal_squared)
        )

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 2e-2) -> NoiseSchedule:
        """Betas rising linearly, as Endora trains (first and last included)."""
        return cls(torch.linspace(first, last, steps, dtype=torch.float64))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, first: float = 1.5e-3, last: float = 1.55e-2
    ) -> NoiseSchedule:
        """Betas whose square roots rise linearly, as latent diffusion and LVDM train
        (arXiv 2112.10752, 2211.13221; diffusers calls it so)."""
        roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64)
        return cls(roots.square())

    def __len__(self) -> int:
        return len(self.betas)

    def respaced(self, kept: Sequence[int], cleanest: float = 1.0) -> NoiseSchedule:
        """The shorter schedule that visits only the levels `kept` (ascending), with betas
        rebuilt so that alpha_bar at those levels stays the same; see the class for `cleanest`."""
        index = torch.tensor(list(kept))
        levels = self.signal_squared[index]
        before = torch.cat([torch.full((1,), cleanest, dtype=torch.float64), levels[:-1]])
        timesteps = [int(self.timesteps[i]) for i in index]
        return NoiseSchedule(1 - levels / before, timesteps, cleanest)

    @property
    def log_snr(self) -> Tensor:
        """Half the logarithm of the signal-to-noise ratio, log(signal / noise): (T,), falling."""
        return (self.signal / self.noise).log()

    def draw_levels(self, count: int, device: torch.device, *, stratified: bool = False) -> Tensor:
        """Levels for `count` items, each uniform over 0..T-1: (B,) int64.

        `stratified` levels are not independent: one comes from each of B equal parts of the
        range, in random order.
        """
        if not stratified:
            return torch.randint(0, len(self), (count,), device=device)
        places = torch.randperm(count, device=device) + torch.rand(count, device=device)
        return (places * (len(self) / count)).long().clamp(max=len(self) - 1)

    def add_noise(self, start: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Draw from q(x_t | x_0): sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

        Inputs:  start and noise (B, ...), level (B,) int64 in 0..T-1
        """
        return at(self.signal, level, start) * start + at(self.noise, level, start) * noise

    def predict_start(self, noisy: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The clean sample that (noisy, noise) imply: the inverse of `add_noise`."""
        return (noisy - at(self.noise, level, noisy) * noise) / at(self.signal, level, noisy)

    def velocity(self, start: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """signal * noise - deviation * start (arXiv 2202.00512, appendix D), like `start`."""
        return at(self.signal, level, start) * noise - at(self.noise, level, start) * start

    def noise_of_velocity(self, noisy: Tensor, velocity: Tensor, level: Tensor) -> Tensor:
        """The noise that is in `noisy` if its velocity is this."""
        return at(self.signal, level, noisy) * velocity + at(self.noise, level, noisy) * noisy

    def posterior_mean(self, start: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (DDPM, equation 7)."""
        return (
            at(self.posterior_start_weight, level, noisy) * start
            + at(self.posterior_noisy_weight, level, noisy) * noisy
        )

    def log_variance(
        self, interpolation: Tensor | None, level: Tensor, like: Tensor | None = None
    ) -> Tensor:
        """Learned log variance between the posterior's (-1) and log beta (1).

        Input:  interpolation v (B, ...), unbounded (improved DDPM, equation 15, f = (v + 1) / 2);
                none of a network that learned no variance: the posterior's, to multiply `like`
        """
        if interpolation is None:
            assert like is not None
            return at(self.posterior_log_variance, level, like)
        fraction = (interpolation + 1) / 2
        largest = at(self.log_betas, level, interpolation)
        smallest = at(self.posterior_log_variance, level, interpolation)
        return fraction * largest + (1 - fraction) * smallest


def at(table: Tensor, level: Tensor, like: Tensor) -> Tensor:
    """Entries of a (T,) float64 table as float32 (B, 1, ..., 1), to multiply `like` (B, ...)."""
    return on_device(table, level.device)[level].view(-1, *[1] * (like.ndim - 1))


# Copying a table to a GPU waits for it, so each is copied once; the key keeps the table alive.
@functools.lru_cache(maxsize=256)
def on_device(table: Tensor, device: torch.device) -> Tensor:
    """The table on a device, float32 if it is of floating type."""
    return (table.float() if table.is_floating_point() else table).to(device)
