"""The built-in data set of diagnosis: short simulated clips of organs with and without a polyp."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets.parallel import in_processes
from datasets.simulator import FRAME_RATE, simulate_clip
from datasets.simulator_styles import build_setting
from datasets.video_io import write_video
from tools.training.files import whole_file

LABELS = "labels.csv"  # name,label: what `datasets.labelled.read_labelled` takes


@dataclass(frozen=True)
class Recipe:
    """One clip. The scope travels `interval` times as fast, so the clip shows as much of the way
    as every `interval`-th frame of a recording, at a fraction of its cost."""

    path: Path
    seed: int
    frames: int
    size: int
    interval: int


def plan(
    folder: Path, clips: int, first_seed: int, frames: int, size: int, interval: int
) -> list[Recipe]:
    """The clips of a set: their seeds follow each other from `first_seed` on."""
    return [
        Recipe(folder / f"{number:05d}.mp4", first_seed + number, frames, size, interval)
        for number in range(clips)
    ]


def label_of(recipe: Recipe) -> int:
    """1 where the organ bears a polyp, which its seed decides evenly."""
    return int(build_setting(recipe.seed, "col", None).lesion)


def make(folder: Path, recipes: list[Recipe], workers: int) -> Iterator[Recipe]:
    """Render the clips that are not there yet, and write the table of labels when all are.

    A clip depends on its recipe alone, and a file is whole or absent: a stopped run goes on.
    Yields each clip as it is made.
    Raises:  OSError (configs.errors.WriteError) where files cannot be written
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [recipe for recipe in recipes if not recipe.path.is_file()]
    yield from in_processes(_make_clip, todo, workers)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("name", "label"))
    rows.writerows((recipe.path.name, label_of(recipe)) for recipe in recipes)
    with whole_file(folder / LABELS) as file:
        file.write(table.getvalue().encode())


def _make_clip(recipe: Recipe) -> Recipe:
    clip = simulate_clip(
        recipe.seed,
        style="col",
        frames=recipe.frames,
        size=recipe.size,
        motion=float(recipe.interval),
    )
    write_video(recipe.path, clip.video, FRAME_RATE / recipe.interval)
    return recipe
