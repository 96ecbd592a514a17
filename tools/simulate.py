"""Write simulated endoscopy clips, and the truth about them, as files.

    python -m tools.simulate --folder data/demo/videos --clips 24 --styles col,kva,cho

    FOLDER/col_00000.mp4 ...       the clips
    FOLDER/truth/col_00000.npz ... poses, intrinsics, depth, mask, boxes, label, style, seed
    FOLDER/labels.csv              name, style, label (1: bears a lesion), seed
    FOLDER/simulation.json         what each clip was made with

Poses are camera to world (x right, y down, z forward), lengths millimetres, depth along the
optical axis, pixel centres at whole numbers. A clip depends on its own seed alone, whatever the
number of clips and workers. Clips that are there already with the same settings are skipped: to
go on after a stop, run the same command again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs.errors import run_command
from datasets.parallel import in_processes, only_run
from datasets.simulator import SMALLEST, STYLES, SimulatedClip, simulate_clip
from datasets.video_io import write_video
from tools.training.files import whole_file

RECORD, LABELS, TRUTH = "simulation.json", "labels.csv", "truth"
LOOK = 1  # goes up when the same seed gives other pictures, so that old clips are made anew
SEEDS_APART = 100_000  # so many clips of a style have seeds of their own for each --seed
LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal


@dataclass(frozen=True)
class Recipe:
    """All that a clip's files depend on."""

    name: str
    style: str
    seed: int
    frames: int
    size: int
    fps: float
    lesion: bool | None  # None: the seed decides
    truth: bool
    look: int = LOOK


@dataclass(frozen=True)
class Job:
    """A clip to make, and where."""

    folder: Path
    recipe: Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the clips that are not there yet."""
    options = parse(arguments)
    recipes = plan(options)
    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --folder names a folder for the clips")
    (folder / TRUTH if options.truth else folder).mkdir(parents=True, exist_ok=True)
    with only_run(folder):
        remove_leftovers(folder)
        record = read_record(folder)
        todo = [Job(folder, recipe) for recipe in recipes if not finished(folder, recipe, record)]
        begin = time.perf_counter()
        results = in_processes(make_clip, todo, options.workers)
        for recipe, label in with_progress(results, len(todo)):
            record[recipe.name] = {**asdict(recipe), "label": label}
            write_record(folder, record)
        write_labels(folder, record)
    seconds = time.perf_counter() - begin
    print(
        f"{folder}: {len(todo)} clips written in {seconds:.1f} s, "
        f"{len(recipes) - len(todo)} were there already"
    )
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="where the clips go")
    add("--clips", type=int, default=24, help="how many (%(default)s), shared among the styles")
    add("--frames", type=int, default=64, help="per clip (%(default)s)")
    add("--size", type=int, default=128, help="side in pixels, even (%(default)s)")
    add("--styles", default="col", help=f"one or more of {','.join(STYLES)} (%(default)s)")
    add("--seed", type=int, default=0, help="chooses the whole set (%(default)s)")
    add("--fps", type=float, default=25.0, help="frame rate of the files (%(default)s)")
    add("--lesion", choices=["auto", "always", "never"], default="auto", help="(%(default)s)")
    add("--workers", "--num_workers", type=int, default=available_cores(), help="(all cores)")
    add("--truth", action=argparse.BooleanOptionalAction, default=True, help="write truth/*.npz")
    return parser.parse_args(arguments)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan(options: argparse.Namespace) -> list[Recipe]:
    """The clips that the command line asks for, styles in turn.

    Raises:
        ValueError: a setting that no clip can have.
    """
    styles = [style.strip() for style in options.styles.split(",") if style.strip()]
    unknown = [style for style in styles if style not in STYLES]
    if unknown or not styles or len(set(styles)) < len(styles):
        wrong = ", ".join(unknown) or options.styles
        raise ValueError(f"--styles {wrong}: choose one or more of {','.join(STYLES)}, each once")
    if options.size < SMALLEST or options.size % 2:
        raise ValueError(f"--size {options.size}: use an even number of {SMALLEST} pixels or more")
    for name, least in (("clips", 1), ("frames", 1), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} {getattr(options, name)}: use {least} or more")
    if options.clips > SEEDS_APART * len(styles):
        raise ValueError(f"--clips {options.clips}: at most {SEEDS_APART} of each style")
    if not 0 < options.fps <= 1000:
        raise ValueError(f"--fps {options.fps}: use a number above 0, up to 1000")
    return [
        Recipe(
            name=f"{styles[index % len(styles)]}_{index // len(styles):05d}",
            style=styles[index % len(styles)],
            seed=options.seed * SEEDS_APART + index // len(styles),
            frames=options.frames,
            size=options.size,
            fps=options.fps,
            lesion={"auto": None, "always": True, "never": False}[options.lesion],
            truth=options.truth,
        )
        for index in range(options.clips)
    ]


def make_clip(job: Job) -> tuple[Recipe, int]:
    """Render one clip and write its files; the recipe and its label."""
    recipe = job.recipe
    clip = simulate_clip(
        recipe.seed,
        style=recipe.style,  # type: ignore[arg-type]  # checked by `plan`
        frames=recipe.frames,
        size=recipe.size,
        lesion=recipe.lesion,
    )
    if recipe.truth:
        write_truth(truth_path(job.folder, recipe), clip)
    write_video(video_path(job.folder, recipe), clip.video, recipe.fps)
    return recipe, clip.lesion


def write_truth(path: Path, clip: SimulatedClip) -> None:
    """Write all but the pictures: depth as float16 (to 0.05% of itself), the rest exact."""
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        poses=clip.poses,
        intrinsics=clip.intrinsics,
        depth=clip.depth.astype(np.float16),
        mask=clip.mask,
        boxes=clip.lesion_boxes,
        label=clip.lesion,
        style=clip.style,
        seed=clip.seed,
    )
    with whole_file(path) as file:
        file.write(packed.getvalue())


def video_path(folder: Path, recipe: Recipe) -> Path:
    """Where a clip's pictures go."""
    return folder / f"{recipe.name}.mp4"


def truth_path(folder: Path, recipe: Recipe) -> Path:
    """Where a clip's truth goes."""
    return folder / TRUTH / f"{recipe.name}.npz"


def finished(folder: Path, recipe: Recipe, record: dict[str, Any]) -> bool:
    """Whether the files of a clip are there and were made with the same settings."""
    made = {key: value for key, value in record.get(recipe.name, {}).items() if key != "label"}
    there = video_path(folder, recipe).is_file()
    return (
        there
        and made == asdict(recipe)
        and (not recipe.truth or truth_path(folder, recipe).is_file())
    )


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for place, pattern in (
        (folder, "*.partial*"),
        (folder, ".*.partial*"),
        (folder / TRUTH, "*.partial"),
    ):
        for file in place.glob(pattern):
            file.unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any]:
    """What earlier runs made, by name of the clip.

    Raises:
        ValueError: the record cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}: not a record of clips ({error}); delete it to start anew"
        ) from None
    if not isinstance(record, dict) or not all(isinstance(e, dict) for e in record.values()):
        raise ValueError(f"{path}: not a record of clips; delete it to start anew")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace the record in one move."""
    with whole_file(folder / RECORD) as file:
        file.write((json.dumps(dict(sorted(record.items())), indent=1) + "\n").encode())


def write_labels(folder: Path, record: dict[str, Any]) -> None:
    """Replace the table of labels by one of all clips in the folder."""
    rows = ["name,style,label,seed"]
    rows += [
        f"{name},{made['style']},{made['label']},{made['seed']}"
        for name, made in sorted(record.items())
        if (folder / f"{name}.mp4").is_file()
    ]
    with whole_file(folder / LABELS) as file:
        file.write(("\n".join(rows) + "\n").encode())


def with_progress(
    results: Iterable[tuple[Recipe, int]], total: int
) -> Iterator[tuple[Recipe, int]]:
    """Pass results on; a bar with the time left on a terminal, now and then a line elsewhere."""
    begin = shown = time.monotonic()
    with tqdm(total=total, unit="clip", disable=not sys.stderr.isatty()) as bar:
        for done, result in enumerate(results, start=1):
            bar.update()
            now = time.monotonic()
            if bar.disable and now - shown > LINE_EVERY:
                left = (now - begin) / done * (total - done)
                print(f"{done}/{total} clips, about {left:.0f} s left", flush=True)
                shown = now
            yield result


if __name__ == "__main__":
    run_command(main)
