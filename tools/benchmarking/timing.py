"""Times of variants that take turns in one process, so that a machine's moods meet them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, with the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one number."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)


def alternate(
    variants: Mapping[str, Work], device: torch.device, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every variant in every round: {name: one for each round}.

    In each round every variant runs once; every second round runs backwards, so that none always
    comes after the same other one. On a GPU the time ends when its work has ended.
    """
    for _ in range(warmup):
        for work in variants.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        order = list(variants.items())
        for name, work in order if number % 2 == 0 else reversed(order):
            seconds[name].append(time_of(work, device))
    return seconds


def time_of(work: Work, device: torch.device) -> float:
    """Seconds of one call, the device's queue empty before and after."""
    _finish(device)
    began = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - began


def ratios(baseline: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """How many times faster than the baseline, round by round."""
    return [a / b for a, b in zip(baseline, seconds, strict=True)]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
