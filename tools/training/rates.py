"""The learning rate as a function of the step."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Share of the full learning rate at a step (the first is 0): linear, then 1.

    (step + 1) / warmup_steps, so the first step moves a little and step `warmup_steps - 1` is
    the first with the full rate.
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def base_rates(optimizer: Optimizer) -> list[float]:
    """The full learning rate of each parameter group, as the optimizer was built."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_rates(optimizer: Optimizer, rates: Sequence[float], factor: float) -> None:
    """Give each parameter group its full rate times a factor."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
