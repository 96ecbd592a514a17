"""The built-in data set of diagnosis: short simulated clips of organs with and without a polyp."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.labelled import open_video
from datasets.parallel import in_processes
from datasets.simulator import FRAME_RATE, simulate_clip
from datasets.video_io import write_video
from tools.training.files import whole_file


@dataclass(frozen=True)
class Recipe:
    """One clip.

    The scope travels `interval` times as fast, so the clip shows as much of the way as every
    `interval`-th frame of a recording does, at a fraction of its cost.
    """

    path: Path
    seed: int
    lesion: bool
    frames: int
    size: int
    interval: int


def plan(
    folder: Path, clips: int, first_seed: int, frames: int, size: int, interval: int
) -> list[Recipe]:
    """The clips of a set: their seeds follow each other from `first_seed` on, every second organ
    bears a polyp."""
    return [
        Recipe(
            folder / f"{number:05d}.mp4",
            first_seed + number,
            number % 2 == 1,
            frames,
            size,
            interval,
        )
        for number in range(clips)
    ]


def clip_rate(interval: int) -> float:
    """Frames per second of the scene in such a clip."""
    return FRAME_RATE / interval


def make_clips(recipes: Sequence[Recipe], workers: int) -> Iterator[Recipe]:
    """Render the clips that are not there yet, and yield each as it is made.

    A clip depends on its recipe alone, and a file is whole or absent: a stopped run goes on.
    Raises:  OSError (configs.errors.WriteError) where files cannot be written
    """
    todo = [recipe for recipe in recipes if not recipe.path.is_file()]
    for recipe in todo:
        recipe.path.parent.mkdir(parents=True, exist_ok=True)
    yield from in_processes(_make_clip, todo, workers)


def write_list(path: Path, recipes: Sequence[Recipe]) -> None:
    """The table of names (relative to its own folder) and labels of the clips."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "label"))
    for recipe in recipes:
        table.writerow((recipe.path.relative_to(path.parent).as_posix(), int(recipe.lesion)))
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def make_noise(videos: Sequence[Path], folder: Path, rate: float) -> list[Path]:
    """Shuffle the pixels of videos, alike in all frames: the same colours, and nothing to see.

    Videos that are there already are kept. Raises:  ValueError for an unreadable video
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, video in enumerate(videos):
        path = folder / f"{number:06d}.mp4"
        written.append(path)
        if path.is_file():
            continue
        frames = np.stack([frame.permute(1, 2, 0).numpy() for frame in open_video(video).iterate()])
        count, height, width, _ = frames.shape
        order = np.random.default_rng(number).permutation(height * width)
        shuffled = frames.reshape(count, -1, 3)[:, order].reshape(frames.shape)
        write_video(path, shuffled, rate)
    return written


def _make_clip(recipe: Recipe) -> Recipe:
    clip = simulate_clip(
        recipe.seed,
        style="col",
        frames=recipe.frames,
        size=recipe.size,
        lesion=recipe.lesion,
        motion=float(recipe.interval),
    )
    write_video(recipe.path, clip.video, clip_rate(recipe.interval))
    return recipe
