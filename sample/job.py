"""Generate numbered videos from a checkpoint; the part that one device and many share.

Video k is made from its own seed and written as soon as it is finished, so a job that was
stopped goes on with the videos that are missing, on any number of processes.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from configs.load import load_sampling, merge_sources, to_plain
from configs.schema import SampleConfig
from models.interface import Method, Networks, Progress, VideoNoise
from models.registry import method_class
from sample.background import BackgroundWriter
from sample.record import (
    Parts,
    Source,
    check_record,
    content_hash,
    made_by,
    missing_videos,
    video_name,
    write_record,
)
from sample.writers import (
    Frames,
    read_sample,
    remove_unfinished,
    sample_path,
    to_frames,
    write_contact_sheet,
    write_sample,
)
from tools.training.compiling import compile_regions, wants_compiling
from tools.training.lock import only_process
from tools.training.progress import VideoProgress
from tools.training.runtime import Runtime, start_runtime
from tools.training.weights import Weights, networks_for_sampling, read_weights

Made = TypeVar("Made")

SHEET_NAME = "contact_sheet.png"
SHEET_ROWS = 8
MANY_VIDEOS = 32  # of one process, from which on compiling its network is worth the minute


@dataclass(frozen=True)
class Job:
    """Which videos to make from which weights, and where they go."""

    config: SampleConfig
    folder: Path
    weights: Weights

    @functools.cached_property
    def source(self) -> Source:
        """Hashes all weights, so only the process that writes the record asks for it."""
        sha256 = content_hash(self.weights.networks)
        return Source(self.weights.method_name, self.weights.step, sha256)


def command_line(description: str | None) -> argparse.ArgumentParser:
    """The command line of both sampling commands."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings, such as configs/col/sample.yaml"
    )
    parser.add_argument(
        "--checkpoint", metavar="PATH", help="a run folder, a .pt checkpoint or exported weights"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, such as count=16 seed=0 formats=[mp4,png] sampling.steps=50",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do the whole job, or this process's share of it where a launcher started several."""
    job = read_job(arguments.config, arguments.checkpoint, arguments.overrides)
    with start_runtime(job.config.precision) as runtime, only_process(job.folder, runtime):
        runtime.check_equal(
            job.weights.step,
            f"{job.config.checkpoint}: the processes found checkpoints of different steps, so it "
            f"is being written; name a checkpoint file (.pt) of it",
        )
        missing = _from_main(runtime, lambda: prepare(job, runtime))
        make_videos(job, runtime, missing[runtime.rank :: runtime.world_size])
        runtime.barrier()
        if runtime.is_main:
            sheet = finish(job, runtime)
            print(f"{job.config.count} videos in {job.folder} ({len(missing)} of them made now)")
            print(f"contact sheet: {sheet}")
    return 0


def read_job(path: Path | None, checkpoint: str | None, overrides: Sequence[str]) -> Job:
    """The checked settings. The checkpoint decides which `sampling.*` choices there are.

    Raises:  FileNotFoundError, or ValueError in one line naming the setting or the file
    """
    given = [*overrides, *([f"checkpoint={checkpoint}"] if checkpoint is not None else [])]
    merged = merge_sources(path, given)
    named, ema = merged.get("checkpoint"), merged.get("ema", SampleConfig.ema)
    if not isinstance(named, str):
        raise ValueError("checkpoint: say what to sample from, with --checkpoint PATH")
    weights = read_weights(Path(named), ema if isinstance(ema, int) else SampleConfig.ema)
    clip = weights.run_config(Path(named)).clip  # of this project, before a folder is claimed
    config = load_sampling(path, given, method_class(weights.method_name).Sampling())
    if config.frames == clip.frames:  # the same videos, so the same record
        config = replace(config, frames=None)
    folder = Path(config.output) if config.output else default_folder(Path(named), weights)
    return Job(config, folder, weights)


def default_folder(checkpoint: Path, weights: Weights) -> Path:
    """`samples/step_N` in the run folder, or beside exported weights."""
    run_folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if run_folder.name == "checkpoints":
        run_folder = run_folder.parent
    return run_folder / "samples" / f"step_{weights.step:08d}"


def prepare(job: Job, runtime: Runtime) -> list[int]:
    """Claim the folder for this job; the videos that are still to be made."""
    defaults = to_plain(type(job.config.sampling)())
    check_record(job.folder, made_by(job.config, job.source, _precision(runtime)), defaults)
    remove_unfinished(job.folder)
    _write_record(job, runtime, complete=False)
    return missing_videos(job.folder, job.config)


def make_videos(job: Job, runtime: Runtime, indices: Sequence[int]) -> None:
    """Make and write some videos of a job, a batch at a time; files are written meanwhile."""
    if not indices:
        return
    config = job.config
    path = Path(config.checkpoint)
    method, networks, _ = networks_for_sampling(job.weights, path, runtime.device)
    if runtime.is_main:
        _write_record(job, runtime, complete=False, parts=_parts(job, method))
    compiled = _compile(networks, config.compile, runtime, len(indices))
    shared = f" on process 0 of {runtime.world_size}" if runtime.world_size > 1 else ""
    label = f"sampling{shared}"
    with (
        VideoProgress(len(indices), label, runtime.is_main) as progress,
        BackgroundWriter() as writer,
    ):
        for start in range(0, len(indices), config.batch_size):
            batch = indices[start : start + config.batch_size]
            # Compiled code is for one size, so a last, smaller batch is filled up.
            extra = config.batch_size - len(batch) if compiled and start else 0

            def report(done: int, steps: int, videos: int = len(batch)) -> None:
                progress.step(videos, done, steps)

            made = [*batch, *[batch[-1]] * extra]
            videos = _generate(method, networks, job, runtime, made, report)
            writer.submit(functools.partial(_write_batch, job, batch, videos, progress))


def finish(job: Job, runtime: Runtime) -> Path:
    """Draw the contact sheet and note that all videos are there."""
    sample_format = job.config.formats[0]
    first = range(min(job.config.count, SHEET_ROWS))
    paths = [sample_path(job.folder, video_name(index), sample_format) for index in first]
    sheet = job.folder / SHEET_NAME
    write_contact_sheet(sheet, [read_sample(path, sample_format) for path in paths])
    _write_record(job, runtime, complete=True)
    return sheet


def _generate(
    method: Method,
    networks: Networks,
    job: Job,
    runtime: Runtime,
    indices: Sequence[int],
    progress: Progress,
) -> Tensor:
    """(B, F, 3, H, W) in [-1, 1] on the device, which may still be at work on it."""
    noise = VideoNoise([job.config.seed + index for index in indices], runtime.device)
    with torch.no_grad(), runtime.autocast():
        return method.sample(networks, noise, job.config.sampling, progress, job.config.frames)


def _write_batch(job: Job, indices: Sequence[int], videos: Tensor, progress: VideoProgress) -> None:
    """Check and write the first len(indices) of some videos."""
    for index, video in zip(indices, videos, strict=False):
        if not bool(video.isfinite().all()):
            raise FloatingPointError(
                f"the video of seed {job.config.seed + index} has pixels that are not finite; try "
                f"precision=fp32 or an earlier checkpoint"
            )
    for index, video in zip(indices, videos, strict=False):
        _write_missing(job, index, to_frames(video))
    progress.finish(len(indices))


def _compile(networks: Networks, setting: bool | str, runtime: Runtime, videos: int) -> bool:
    """Compile networks in place where that is asked for or pays; whether it was done."""
    wanted = videos >= MANY_VIDEOS if setting == "auto" else setting
    if not wanted or not wants_compiling(setting, runtime.device):
        return False
    for network in networks.values():
        compile_regions(network)
    return True


def _write_missing(job: Job, index: int, frames: Frames) -> None:
    for sample_format in job.config.formats:
        path = sample_path(job.folder, video_name(index), sample_format)
        if not path.exists():
            write_sample(path, frames, sample_format, job.config.fps)


def _write_record(job: Job, runtime: Runtime, complete: bool, parts: Parts | None = None) -> None:
    how = made_by(job.config, job.source, _precision(runtime))
    write_record(job.folder, job.config, how, str(runtime.device), complete, parts)


def _parts(job: Job, method: Method) -> Parts:
    clip, frames = method.shape.frames, job.config.frames
    return Parts(clip, frames or clip, method.seams(job.config.sampling, frames))


def _precision(runtime: Runtime) -> str:
    return "bf16" if runtime.bf16 else "fp32"


def _from_main(runtime: Runtime, make: Callable[[], Made]) -> Made:
    """What the main process makes, on every process. An error there ends them all."""
    made: list[Any] = [make() if runtime.is_main else None]
    if runtime.is_distributed:
        dist.broadcast_object_list(made, src=0)
    return made[0]
