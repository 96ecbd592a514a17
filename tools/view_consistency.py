"""How many videos of each generator pass the judge of cameras: a measure of view consistency.

    python -m tools.view_consistency SAMPLES... --output DIR

Each folder right below a SAMPLES folder that holds videos is a set; videos directly in it are a
set too. Every video gives as many frames (`--frames`, each `--stride`-th), so compare only sets
whose frames lie equally far apart in time and have one size.

    DIR/pass_rates.md .csv .json   one row for each set: share that passes with its 95 % interval,
                                   share whose view stands still, what the others failed on
    DIR/videos.csv                 one row for each video with all figures
    DIR/videos/SET/NAME.json       the same of one video; finished ones are kept when run again
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from configs.errors import run_command
from datasets.parallel import in_processes, only_run
from datasets.sources import Source, find_sources
from tools.reconstruction.cameras.judge import Limits
from tools.reconstruction.cameras.masks import automatic_masks
from tools.reconstruction.cameras.search import CameraOptions, find_cameras
from tools.reconstruction.results.pass_rates import Row, write_tables
from tools.training.files import whole_file
from tools.training.progress import VideoProgress

VERSION = 4  # goes up when the same video gives other figures, so that old ones are made anew


@dataclass(frozen=True)
class Judging:
    """How the videos are looked at."""

    frames: int = 16
    stride: int = 1  # frames of the video from one to the next
    field_of_view: float = 90.0
    time_limit: float = 300.0
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A video to judge, and where the result goes."""

    set_name: str
    source: Source
    path: Path
    key: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all videos that are not judged yet, then write the tables."""
    given = parse(arguments)
    judging = Judging(given.frames, given.stride, given.fov, given.time_limit, given.seed)
    sets = find_sets(given.samples)
    output: Path = given.output
    output.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        rows = judge_sets(sets, judging, output, given.workers)
        text = write_tables(output, rows, asdict(judging))
    print(f"{text}\nwritten to {output}")
    return 0


def find_sets(folders: Sequence[Path]) -> dict[str, list[Source]]:
    """Videos by the name of their set.

    Raises:
        FileNotFoundError: no such folder, or no video in it.
    """
    sets: dict[str, list[Source]] = {}
    for folder in folders:
        sources = find_sources(folder, arrays=True)
        if not sources:
            raise FileNotFoundError(f"{folder}: no videos, arrays or folders of frames in it")
        root = folder.resolve().name
        for source in sources:
            first, _, below = source.name.partition("/")
            name = f"{root}/{first}" if below else root
            sets.setdefault(name, []).append(source)
    return sets


def judge_sets(
    sets: dict[str, list[Source]], judging: Judging, output: Path, workers: int = 1
) -> list[Row]:
    """One row for each video, finished ones from their files.

    Args:
        sets: videos by the name of their set.
        judging: how.
        output: folder of the results.
        workers: processes.
    """
    rows, todo = [], []
    limits = json.loads(json.dumps(asdict(Limits())))  # as they come back from a file
    for name, sources in sets.items():
        for source in sources:
            path = output / "videos" / name / f"{source.name}.json"
            key = {**asdict(judging), "limits": limits}
            key |= {"bytes": source.size_on_disk(), "version": VERSION}
            kept = read_kept(path, key)
            if kept is None:
                todo.append(Job(name, source, path, key))
            else:
                rows.append(kept)
    threads = -1 if workers <= 1 else 1
    work = partial(judge_video, judging=judging, threads=threads)
    with VideoProgress(len(todo), "judging") as progress:
        for row in in_processes(work, todo, workers):
            rows.append(row)
            progress.finish(1)
    order = {name: place for place, name in enumerate(sets)}
    return sorted(rows, key=lambda row: (order[row.set_name], row.video))


def judge_video(job: Job, judging: Judging, threads: int) -> Row:
    """Judge one video and keep the result."""
    options = CameraOptions(
        field_of_view=judging.field_of_view,
        time_limit=judging.time_limit,
        seed=judging.seed,
        threads=threads,
    )
    needed = Limits().frames
    place = Path(tempfile.mkdtemp(prefix="colmap_"))
    try:
        count = job.source.count()
        chosen = list(range(0, count, judging.stride))[: judging.frames]
        if len(chosen) < needed:
            raise ValueError(
                f"{len(chosen)} frames with --stride {judging.stride}; {needed} are needed"
            )
        frames = job.source.read(chosen).permute(0, 2, 3, 1).contiguous()
        with torch.no_grad():
            masks = automatic_masks(frames)
        verdict = find_cameras(frames, masks, options, place).verdict
        outcome = verdict.outcome
        figures = {**verdict.figures, "frames_given": len(chosen)}
        row = Row(job.set_name, job.source.name, outcome, list(verdict.reasons), figures)
    except ValueError as error:
        row = Row(job.set_name, job.source.name, "left out", [str(error)], {})
    finally:
        shutil.rmtree(place, ignore_errors=True)
    with whole_file(job.path) as file:
        content = {"key": job.key, **asdict(row)}
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return row


def read_kept(path: Path, key: dict[str, Any]) -> Row | None:
    """The result of an earlier run with the same key, None where there is none."""
    try:
        content = json.loads(path.read_text())
        if content.pop("key") != key:
            return None
        return Row(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.view_consistency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("samples", nargs="+", type=Path, metavar="SAMPLES", help="folder of sets of videos")
    add("--output", type=Path, required=True, metavar="DIR", help="for tables and results")
    add("--frames", type=int, default=16, help="of each video (%(default)s)")
    add("--stride", type=int, default=1, help="every so many-th frame (%(default)s)")
    add("--fov", type=float, default=90.0, help="horizontal, degrees, to start (%(default)s)")
    add("--time-limit", type=float, default=300.0, help="seconds a stage (%(default)s)")
    add("--seed", type=int, default=0, help="of COLMAP (%(default)s)")
    add("--workers", "--num_workers", type=int, default=1, help="processes (%(default)s)")
    given = parser.parse_args(arguments)
    for name, least in (("frames", Limits().frames), ("stride", 1), ("workers", 1), ("seed", 0)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name} {getattr(given, name)}: use {least} or more")
    if not given.time_limit > 0:
        raise ValueError(f"--time-limit {given.time_limit:g}: use a number of seconds above 0")
    if not 10 <= given.fov <= 170:
        raise ValueError(f"--fov {given.fov:g}: use 10 to 170 degrees")
    return given


if __name__ == "__main__":
    run_command(partial(main, sys.argv[1:]))
