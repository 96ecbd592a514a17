"""How long a video takes: steps, solver, layers and reuse; decoding apart from it.

What these choices do to the videos is another question: `tools.sampling_study`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from models.backbones.block_reuse import computed_steps, modulation_changes
from models.backbones.video_transformer import VideoTransformer
from models.interface import VideoNoise
from models.methods.endora import (
    Endora,
    EndoraSampling,
    GuidedDenoiser,
    visited_timesteps,
)
from tools.benchmarking.counting import item_work
from tools.benchmarking.networks import BenchmarkedEndora, LatentsOnly, new_denoiser, write_codec
from tools.benchmarking.reference import REFERENCE, with_layers
from tools.benchmarking.tables import Row, Section, Setup, compared
from tools.benchmarking.timing import Spread, Work, alternate, ratios
from tools.training.compiling import compile_regions, missing_tool
from tools.training.runtime import Runtime
from tools.training.weights import load_for_sampling

TRAINED = Path(__file__).resolve().parents[2] / "configs/demo/weights/endora.safetensors"
PUBLISHED_STEPS = 250


@dataclass(frozen=True)
class Choice:
    """A row: who computes, and what is asked of the sampler."""

    name: str
    sampling: EndoraSampling
    ours: bool  # the project's own layers, in bf16 where that pays; else the published way in fp32


def choices(steps: int) -> list[Choice]:
    """The rows. `steps` of 250 are run by the first ones."""
    ddpm = EndoraSampling(sampler="ddpm", steps=steps)
    solver = EndoraSampling(sampler="dpm_solver", steps=20)
    return [
        Choice("reference, 250 steps", ddpm, False),
        Choice("own layers, 250 steps", ddpm, True),
        Choice("reference, DPM-Solver++ 20 steps", solver, False),
        Choice("own layers, DPM-Solver++ 20 steps", solver, True),
        Choice("the same, reuse 0.1", replace(solver, reuse=0.1), True),
        Choice("the same, reuse 0.15", replace(solver, reuse=0.15), True),
        Choice("own layers, UniPC 12 steps", EndoraSampling(sampler="unipc3", steps=12), True),
    ]


def sampling_sections(setup: Setup) -> list[Section]:
    """Latents, decoding, and both together."""
    latents = latents_section(setup)
    decoding = decoding_section(setup)
    return [latents, decoding, video_section(latents, decoding)]


def latents_section(setup: Setup) -> Section:
    """Seconds a video, until its latents are there."""
    model = replace(setup.model, images=0)
    method = LatentsOnly(model)
    network = new_denoiser(model, setup.device).eval()
    reference = with_layers(network, REFERENCE, images=0).eval()
    if setup.device.type == "cuda" and missing_tool("cuda") is None:
        compile_regions(network)
    steps = setup.sampled_steps or PUBLISHED_STEPS
    runs: dict[str, int] = {}
    works: dict[str, Work] = {}
    for choice in choices(steps):
        sampling, count = choice.sampling, choice.sampling.steps
        if sampling.reuse:
            count = trained_runs(method, sampling)
            sampling = replace(sampling, reuse=threshold(method, network, sampling, count))
        runs[choice.name] = count
        works[choice.name] = functools.partial(
            _sample,
            method,
            network if choice.ours else reference,
            sampling,
            Runtime(setup.device, bf16=choice.ours and setup.bf16),
            setup.items,
        )
    warmup = 1 if setup.device.type == "cuda" else 0
    if not warmup:  # of a few steps is enough for a CPU
        _sample(method, network, EndoraSampling("dpm_solver", 2), Runtime(setup.device), 1)
    measured = alternate(works, setup.device, setup.slow_rounds, warmup)
    seconds = {
        choice.name: [
            value / setup.items * (PUBLISHED_STEPS / steps if choice.sampling.steps == steps else 1)
            for value in measured[choice.name]
        ]
        for choice in choices(steps)
    }
    names = list(seconds)
    gain = Spread.of(ratios(seconds[names[0]], seconds[names[1]])).median
    rows = compared(
        seconds,
        names[0],
        predicted=_predicted(setup, gain, runs, steps),
        notes={name: f"blocks run {runs[name]} times" for name in names[4:6]},
    )
    notes = [
        f"Noise to latents of {model.frames} frames, {setup.items} video(s) at once. Predicted: "
        f"fewer runs of the blocks, times the gain of the layers measured in the second row. How "
        f"many steps reuse leaves out depends on trained weights: the counts are those of the "
        f"shipped demo weights, and the threshold is set such that these random ones run as many."
    ]
    if steps < PUBLISHED_STEPS:
        notes.append(
            f"Extrapolated: rows of {PUBLISHED_STEPS} steps ran {steps} steps, times "
            f"{PUBLISHED_STEPS / steps:g}."
        )
    return Section("sample", f"Sampling latents with {model.size}/2", "s per video", rows, notes)


def decoding_section(setup: Setup) -> Section:
    """Latents to pixels, in fp32 and in bf16."""
    folder = write_codec(setup.folder / "codec", setup.model)
    codec = BenchmarkedEndora(replace(setup.model, images=0), folder).codec.to(setup.device)
    latents = torch.randn(setup.model.latents.batch(setup.items), device=setup.device)
    warmup = 1 if setup.device.type == "cuda" or setup.quick else 0
    works: Mapping[str, Work] = {
        "decoding, fp32": functools.partial(codec.decode, latents),
        "decoding, bf16": functools.partial(codec.decode, latents, bf16=True),
    }
    seconds = {
        name: [value / setup.items for value in values]
        for name, values in alternate(works, setup.device, setup.slow_rounds, warmup).items()
    }
    predicted = {"decoding, bf16": setup.ceilings.bf16 / setup.ceilings.fp32}
    rows = compared(seconds, "decoding, fp32", predicted=predicted)
    return Section("decode", "Decoding latents", "s per video", rows)


def video_section(latents: Section, decoding: Section) -> Section:
    """Sums of medians: what a whole video takes."""
    time_of = {row.name: Spread.of(row.values).median for row in [*latents.rows, *decoding.rows]}
    exact = time_of["decoding, fp32"]
    decoded = min(("decoding, fp32", "decoding, bf16"), key=time_of.__getitem__)
    first, *others = [row.name for row in latents.rows]
    reference = time_of[first] + exact
    rows = [Row(f"{first}, fp32 decoding", [reference], [1.0])]
    for name in others:
        total = time_of[name] + time_of[decoded]
        rows.append(Row(f"{name}, {decoded.split()[-1]} decoding", [total], [reference / total]))
    return Section("video", "A whole video: sums of the medians above", "s per video", rows)


def trained_runs(method: Endora, sampling: EndoraSampling) -> int:
    """How often the blocks of the shipped, trained demo network run with these choices."""
    _, networks, _ = load_for_sampling(TRAINED, 0, torch.device("cpu"))
    denoiser = networks["denoiser"]
    assert isinstance(denoiser, GuidedDenoiser)
    return sum(computed_steps(_changes(method, denoiser.transformer, sampling), sampling.reuse))


def threshold(
    method: Endora, network: GuidedDenoiser, sampling: EndoraSampling, runs: int
) -> float:
    """The smallest `reuse` with which a network runs its blocks at most `runs` times."""
    changes = _changes(method, network.transformer, sampling)
    sums = [sum(changes[a:b]) for a in range(len(changes)) for b in range(a + 1, len(changes) + 1)]
    for candidate in sorted(sums):
        if sum(computed_steps(changes, candidate)) <= runs:
            return candidate
    return sum(changes) + 1


def _changes(
    method: Endora, transformer: VideoTransformer, sampling: EndoraSampling
) -> list[float]:
    schedule = method.schedule.respaced(visited_timesteps(sampling, method.schedule))
    return modulation_changes(transformer, schedule.timesteps.flip(0).tolist())


def _sample(
    method: Endora,
    network: GuidedDenoiser,
    sampling: EndoraSampling,
    runtime: Runtime,
    videos: int,
) -> None:
    noise = VideoNoise(range(videos), runtime.device)
    with torch.no_grad(), runtime.autocast():
        method.sample({"denoiser": network}, noise, sampling)


def _predicted(setup: Setup, gain: float, runs: Mapping[str, int], steps: int) -> dict[str, float]:
    """From the counts of block runs alone, and the measured gain of the layers for one step."""
    item = replace(setup.model, images=0).item
    published = item_work(item, repeated_modulation=True).forward
    own = (
        published
        / setup.ceilings.fp32
        / (item_work(item).forward / setup.ceilings.rate(setup.bf16))
    )
    found: dict[str, float] = {}
    for choice in choices(steps):
        if choice.sampling.steps == steps:
            if choice.ours:
                found[choice.name] = own
            continue
        found[choice.name] = PUBLISHED_STEPS / runs[choice.name] * (gain if choice.ours else 1)
    return found
