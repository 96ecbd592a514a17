"""What the machine can do: the rate of its largest matrix products, and of its memory."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from tools.benchmarking.timing import alternate

SIDES = {"cpu": 1536, "cuda": 8192}  # of the square matrices
COPIED = {"cpu": 2**28, "cuda": 2**31}  # bytes, beyond any cache
FASTER = 1.2  # so much faster must bf16 be at products to be worth its rounding


@dataclass(frozen=True)
class Ceilings:
    """Rates that nothing on this machine exceeds much, each the best of some rounds.

    Attributes:
        fp32       floating-point operations a second of a large product (with TF32 on a GPU)
        bf16       the same in bfloat16
        bandwidth  bytes read plus bytes written a second, of a large copy
    """

    fp32: float
    bf16: float
    bandwidth: float

    @property
    def bf16_pays(self) -> bool:
        """Whether products are faster in bf16; on CPUs without instructions for it they are not."""
        return self.bf16 > FASTER * self.fp32

    def rate(self, bf16: bool) -> float:
        """Operations a second in one of the two precisions."""
        return self.bf16 if bf16 else self.fp32


def measure_ceilings(device: torch.device, *, quick: bool = False) -> Ceilings:
    """The three rates, measured in turns; about 3 seconds, in a hurry less."""
    side, size = SIDES[device.type], COPIED[device.type]
    if quick:
        side, size = side // 3, size // 8
    exact = [torch.randn(side, side, device=device) for _ in range(2)]
    rounded = [matrix.bfloat16() for matrix in exact]
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    times = alternate(
        {
            "fp32": functools.partial(torch.mm, *exact),
            "bf16": functools.partial(torch.mm, *rounded),
            "copy": functools.partial(target.copy_, source),
        },
        device,
        rounds=3 if quick else 9,
        warmup=2,
    )
    best = {name: min(seconds) for name, seconds in times.items()}
    operations = 2 * side**3
    return Ceilings(operations / best["fp32"], operations / best["bf16"], 2 * size / best["copy"])


def processor() -> str:
    """The name of the CPU and the number of cores that this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def load_average() -> float | None:
    """Processes that wanted to run in the last minute; above the number of cores, times are worth
    little. None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
