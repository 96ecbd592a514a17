"""Exponential moving averages of the networks' weights: what previews and samples use."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """A float32 copy of networks that follows them slowly.

        average <- decay * average + (1 - decay) * weights

    Buffers (such as running statistics) are copied as they are. With `warmup` the decay of step
    t is min(decay, (1 + t) / (10 + t)), so that a short run's average forgets its random start.
    With `rampup` its half-life is at most rampup * t steps (StyleGAN2-ADA, arXiv 2006.06676).
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        decay: float,
        *,
        warmup: bool = False,
        rampup: float = 0.0,
    ) -> None:
        self.decay = decay
        self.warmup = warmup
        self.rampup = rampup
        self.networks: dict[str, nn.Module] = {
            name: copy.deepcopy(network).float().eval().requires_grad_(False)
            for name, network in networks.items()
        }

    def decay_at(self, step: int) -> float:
        """The decay of the update that follows training step `step` (the first is 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        if self.rampup == 0:
            return decay
        longest = self.rampup * step
        return min(decay, 0.5 ** (1 / longest)) if longest else 0.0

    @torch.no_grad()
    def update(self, networks: Mapping[str, nn.Module], step: int) -> None:
        """Follow the networks once, after training step `step`."""
        weight = 1 - self.decay_at(step)
        for name, average in self.networks.items():
            targets: list[Tensor] = list(average.parameters())
            sources: list[Tensor] = list(networks[name].parameters())
            torch._foreach_lerp_(targets, sources, weight)
            _copy_buffers(average, networks[name])

    @torch.no_grad()
    def reset(self, networks: Mapping[str, nn.Module]) -> None:
        """Start again from the networks' present weights."""
        for name, average in self.networks.items():
            for target, source in zip(
                average.parameters(), networks[name].parameters(), strict=True
            ):
                target.copy_(source)
            _copy_buffers(average, networks[name])

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Weights by network and parameter name."""
        return {name: dict(network.state_dict()) for name, network in self.networks.items()}


def _copy_buffers(target: nn.Module, source: nn.Module) -> None:
    for copied, original in zip(target.buffers(), source.buffers(), strict=True):
        copied.copy_(original)
