"""Steps, solvers and reuse against quality and time, all from the same noise in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.interface import Method, VideoNoise
from models.methods.endora import EndoraSampling, GuidedDenoiser
from tools.metrics.estimate import Estimate
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.frechet import Summary, distance
from tools.metrics.uncertainty import frechet_deviation
from tools.training.runtime import Runtime

Report = Callable[[str], None]

# The first is what all are compared with: it is close to the exact solution of the same equation
# that the other deterministic samplers solve, so each of its videos has a counterpart.
CHOICES = (
    EndoraSampling(sampler="ddim", steps=250),
    EndoraSampling(sampler="ddpm", steps=250),
    EndoraSampling(sampler="ddpm", steps=250, reuse=0.1),
    EndoraSampling(sampler="ddim", steps=50),
    EndoraSampling(sampler="ddim", steps=50, reuse=0.1),
    EndoraSampling(sampler="ddim", steps=20),
    EndoraSampling(sampler="dpm_solver", steps=20),
    EndoraSampling(sampler="dpm_solver", steps=20, reuse=0.1),
    EndoraSampling(sampler="dpm_solver", steps=20, reuse=0.15),
    EndoraSampling(sampler="dpm_solver", steps=12),
    EndoraSampling(sampler="unipc2", steps=12),
    EndoraSampling(sampler="unipc3", steps=20),
    EndoraSampling(sampler="unipc3", steps=20, reuse=0.1),
    EndoraSampling(sampler="unipc3", steps=20, reuse=0.15),
    EndoraSampling(sampler="unipc3", steps=12),
    EndoraSampling(sampler="unipc3", steps=12, decode="bf16"),
)


@dataclass(frozen=True)
class Row:
    """One choice. Distances are Frechet distances by extractor.

    Attributes:
        evaluations  steps of a video that ran the blocks
        seconds      for one video, the median over batches, decoding included; only a quiet
                     machine gives speedups that mean something
        speedup      of the first choice's seconds over these, the median over batches
        psnr         to the first choice's video from the same noise, in dB, mean over videos
        to_first     to the videos of the first choice
        to_real      to the real videos, where there are any
    """

    choice: EndoraSampling
    evaluations: int
    seconds: float
    speedup: float
    psnr: float
    to_first: Mapping[str, Estimate]
    to_real: Mapping[str, Estimate]

    @property
    def name(self) -> str:
        """As in `ddim 50, reuse 0.3`."""
        name = f"{self.choice.sampler} {self.choice.steps}"
        name += f", reuse {self.choice.reuse:g}" if self.choice.reuse else ""
        return name + (", bf16 decode" if self.choice.decode == "bf16" else "")


@dataclass(frozen=True)
class Sampled:
    """Videos of one choice, (N, F, 3, H, W) uint8, and how long each batch took per video."""

    videos: Tensor
    evaluations: int
    seconds: Sequence[float]


def sample_all(
    method: Method,
    denoiser: GuidedDenoiser,
    choices: Sequence[EndoraSampling],
    runtime: Runtime,
    videos: int,
    batch_size: int,
    report: Report,
) -> list[Sampled]:
    """Videos of seeds 0 to videos - 1 by every choice. The choices take turns batch by batch, so
    that a machine that slows down slows all of them. Each choice is tried once for two steps
    before its time counts."""
    made: list[list[Tensor]] = [[] for _ in choices]
    seconds: list[list[float]] = [[] for _ in choices]
    counts = [0] * len(choices)
    for start in range(0, videos, batch_size):
        seeds = range(start, min(start + batch_size, videos))
        for k, choice in enumerate(choices):
            if start == 0:
                _sample(method, denoiser, replace(choice, steps=2), runtime, seeds)
            with _counted(denoiser) as runs:
                began = time.perf_counter()
                pixels = _sample(method, denoiser, choice, runtime, seeds)
                seconds[k].append((time.perf_counter() - began) / len(seeds))
            counts[k] = len(runs)
            made[k].append(pixels)
        report(f"{seeds[-1] + 1} of {videos} videos by {len(choices)} choices")
    return [
        Sampled(torch.cat(parts), count, times)
        for parts, count, times in zip(made, counts, seconds, strict=True)
    ]


def compare(
    choices: Sequence[EndoraSampling],
    sampled: Sequence[Sampled],
    extractors: Sequence[FeatureExtractor],
    real: Mapping[str, Features],
    report: Report,
) -> list[Row]:
    """The table. `real` holds the real videos' features by extractor, or nothing."""
    first = sampled[0]
    reference = {each.name: features(each, first.videos) for each in extractors}
    rows = []
    for choice, found in zip(choices, sampled, strict=True):
        own = {each.name: features(each, found.videos) for each in extractors}
        ratios = [a / b for a, b in zip(first.seconds, found.seconds, strict=True)]
        rows.append(
            Row(
                choice,
                found.evaluations,
                statistics.median(found.seconds),
                statistics.median(ratios),
                psnr(found.videos, first.videos),
                {name: frechet(reference[name], own[name]) for name in own},
                {name: frechet(real[name], own[name]) for name in own if name in real},
            )
        )
        report(f"compared {rows[-1].name}")
    return rows


def features(extractor: FeatureExtractor, videos: Tensor, batch_size: int = 8) -> Features:
    """One row per video (N, F, 3, H, W) uint8, for an extractor of clips of F frames."""
    parts = [extractor(batch) for batch in videos.split(batch_size)]
    outputs = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    return Features(outputs, torch.arange(len(videos)), [str(k) for k in range(len(videos))])


def frechet(first: Features, second: Features) -> Estimate:
    """The distance, with its deviation over bootstrap resamples of the videos of both sides."""
    value = distance(Summary.of(first.values), Summary.of(second.values))
    return Estimate(value, frechet_deviation(first, second).value)


def psnr(videos: Tensor, reference: Tensor) -> float:
    """Mean over videos of 10 log10(255^2 / mean squared difference), in dB; of equal videos inf.

    Inputs:  (N, F, 3, H, W) uint8 both
    """
    errors = (videos.float() - reference.float()).square().flatten(1).mean(1)
    return float((10 * torch.log10(255**2 / errors)).mean())


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    names = list(rows[0].to_first)
    real = list(rows[0].to_real)
    head = ["choice", "block runs", "s / video", "speedup", "PSNR to first, dB"]
    head += [f"{name} to first" for name in names] + [f"{name} to real" for name in real]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row.name, str(row.evaluations), f"{row.seconds:.3f}", f"{row.speedup:.1f}x"]
        cells += [f"{row.psnr:.1f}"]
        cells += [_estimate(row.to_first[name]) for name in names]
        cells += [_estimate(row.to_real[name]) for name in real]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _estimate(score: Estimate) -> str:
    return f"{score.value:.4g} ± {score.deviation:.2g}"


def _sample(
    method: Method,
    denoiser: GuidedDenoiser,
    choice: EndoraSampling,
    runtime: Runtime,
    seeds: Sequence[int],
) -> Tensor:
    with torch.no_grad(), runtime.autocast():
        noise = VideoNoise(seeds, runtime.device)
        videos = method.sample({"denoiser": denoiser}, noise, choice)
    return ((videos + 1) * 127.5).round().to(torch.uint8).cpu()


@contextmanager
def _counted(denoiser: GuidedDenoiser) -> Iterator[list[int]]:
    """A list that grows whenever the blocks run."""
    runs: list[int] = []
    block = denoiser.transformer.spatial[0]
    handle = block.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()
