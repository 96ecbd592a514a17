"""One video to one scene: the story of a reconstruction, which goes on where it was stopped."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tools.reconstruction.cameras.judge import Verdict
from tools.reconstruction.cameras.pinhole import Cameras
from tools.reconstruction.cameras.search import Found
from tools.reconstruction.depth.sources import DepthMaps
from tools.reconstruction.frames import Clip
from tools.reconstruction.memory import Memory
from tools.reconstruction.preparing import (
    Frames,
    check_depth,
    fingerprint,
    prepare_cameras,
    prepare_depth,
    prepare_frames,
)
from tools.reconstruction.results.files import Story, write_refusal, write_results
from tools.reconstruction.results.quality import held_out, perceptual_distance
from tools.reconstruction.settings import Reconstruction
from tools.reconstruction.splatting.fit import Fit
from tools.reconstruction.splatting.initial_points import Points, initial_points
from tools.reconstruction.splatting.rasterise import choose_backend
from tools.reconstruction.truth import Truth
from tools.training.progress import VideoProgress
from tools.training.stopping import StopRequest

Say = Callable[[str], None]

CPU_POINTS, GPU_POINTS = 3000, 30_000  # Gaussians that a fit begins with, at most


@dataclass(frozen=True)
class Outcome:
    """What became of a video."""

    name: str
    verdict: Verdict | None  # None: stopped before there was one
    metrics: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False


def reconstruct(
    clip: Clip,
    truth: Truth,
    settings: Reconstruction,
    folder: Path,
    device: torch.device,
    stop: StopRequest,
    say: Say,
) -> Outcome:
    """Make a scene of a clip in a folder, or go on with it.

    Raises:  FileNotFoundError, ValueError in one line for what cannot work
    """
    frames = prepare_frames(clip, settings, device)
    check_depth(clip, settings, truth)
    perceptual = perceptual_distance(settings.quality.lpips, min(frames.size))
    memory = Memory(folder, settings, fingerprint(frames))
    found = memory.cameras()
    if found is None:
        begin = time.perf_counter()
        say("looking for cameras")
        found = prepare_cameras(frames, settings, truth, folder / "colmap")
        memory.keep_cameras(found, time.perf_counter() - begin)
    say(
        f"cameras: {found.verdict.kind}"
        + (f" ({found.verdict.text})" if found.verdict.text and found.cameras else "")
    )
    story = Story(clip, frames, truth, settings, found, memory.seconds)
    if found.cameras is None:
        write_refusal(folder, story)
        return Outcome(clip.name, found.verdict)
    cameras = found.cameras.resized(*frames.size)
    depth = prepare_depth(frames, found, cameras, settings, truth, device)
    say(f"depth: {depth.kind} ({depth.note})")
    test = held_out(len(cameras), settings.quality.test_every)
    fit = start_fit(frames, cameras, depth, found, test, settings, device)
    state = memory.fit_state()
    if state is not None:
        fit.load(state)
    backend = choose_backend(device, settings.fit.backend)[1]
    say(f"fitting {len(fit.gaussians())} Gaussians; {backend}")
    if not run_fit(fit, memory, stop, settings.output.save_seconds):
        return Outcome(clip.name, found.verdict, stopped=True)
    story = replace(
        story,
        cameras=cameras,
        depth=depth,
        test=tuple(cameras.numbers[place] for place in test),
        memory_mb=peak_memory(device),
        history=tuple(memory.history),
    )
    metrics = write_results(folder, story, fit, perceptual, say)
    return Outcome(clip.name, found.verdict, metrics)


def start_fit(
    frames: Frames,
    cameras: Cameras,
    depth: DepthMaps,
    found: Found,
    test: list[int],
    settings: Reconstruction,
    device: torch.device,
) -> Fit:
    """The fit at its first step: of the frames with a pose, but for those kept for the test."""
    posed = list(cameras.numbers)
    pictures = torch.from_numpy(frames.pictures)[posed]
    masks = torch.from_numpy(frames.masks)[posed]
    maps = torch.from_numpy(depth.values)[posed]
    train = [place for place in range(len(posed)) if place not in set(test)]
    sparse = Points(found.points.positions, found.points.colours)
    limit = GPU_POINTS if device.type == "cuda" else CPU_POINTS
    whole = None if depth.kind == "points" else maps  # else interpolated between the points
    points = initial_points(cameras, pictures, masks, whole, sparse, limit, settings.seed, train)
    return Fit(
        pictures,
        masks,
        cameras,
        torch.from_numpy(frames.clip.times)[posed].float(),
        maps,
        points,
        settings.fit,
        settings.seed,
        train=train,
        device=device,
    )


def peak_memory(device: torch.device) -> float:
    """The most memory so far, megabytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_fit(fit: Fit, memory: Memory, stop: StopRequest, save_seconds: float) -> bool:
    """Fit to the end, saving now and then; False where a signal asked to stop (and it is saved)."""
    saved = time.monotonic()
    begin = time.perf_counter()
    with VideoProgress(1, "fit", brief=True) as progress:
        while not fit.done:
            fit_losses = fit.step()
            memory.history.append({"step": fit.steps_done, **fit_losses})
            progress.step(1, fit.steps_done, fit.steps_total)
            stopping = stop.agreed()
            if stopping or fit.done or time.monotonic() - saved > save_seconds:
                memory.seconds["fit"] = memory.seconds.get("fit", 0.0) + time.perf_counter() - begin
                begin = time.perf_counter()
                memory.keep_fit(fit.state())
                saved = time.monotonic()
            if stopping and not fit.done:
                return False
        progress.finish(1)
    return True
