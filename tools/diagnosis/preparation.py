"""Which videos a seed learns from, with and without labels, and which it is judged on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.diagnosis import REST, DiagnosisConfig
from datasets.labelled import (
    LabelledVideo,
    choose_labelled,
    read_labelled,
    require_apart,
    unlabelled_videos,
)
from tools.diagnosis.clips import ClipReader

UNKNOWN = -1  # label of a video that nobody labelled
PUBLISHED_LARGEST = 320 / 224  # frames of the published weak view, as a share of the view

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolVideo:
    """A video to learn from without its label.

    truth  1 or 0 where it is known, else -1: for reports, never for training
    fps    frames per second of the scene; none: as its file says
    """

    path: Path
    truth: int
    fps: float | None


@dataclass(frozen=True)
class Videos:
    """The videos of all seeds: lists, and folders without labels."""

    train: list[LabelledVideo]
    test: list[LabelledVideo]
    pool: list[PoolVideo]  # of folders; `split` adds the rest of the train list


@dataclass(frozen=True)
class Split:
    """The videos of one seed."""

    labelled: list[LabelledVideo]
    pool: list[PoolVideo]

    @property
    def digest(self) -> str:
        """Changes when other videos are learned from."""
        lines = [f"{video.path.name} {video.label}" for video in self.labelled]
        lines += [f"{video.path.name} {video.fps}" for video in self.pool]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def find_videos(config: DiagnosisConfig) -> Videos:
    """Read the lists and folders of a row.

    Raises:  FileNotFoundError, ValueError in one line for lists and folders that cannot be used:
             see `datasets.labelled`; videos that lie in two of the sets; those without labels
             that have fewer frames than a clip
    """
    data = config.data
    folder = Path(data.folder)
    train = read_labelled(folder, folder / data.train_list)
    test = read_labelled(folder, folder / data.test_list)
    train_paths, test_paths = [v.path for v in train], [v.path for v in test]
    require_apart(train_paths, test_paths, names=("train", "test"))
    choose_labelled(train, data.labelled_per_class, _choice(config, 0))  # enough of each class?
    pool: list[PoolVideo] = []
    for name in config.pools:
        if name != REST:
            pool += _folder(Path(name), data.unlabelled_fps)
    paths = [video.path for video in pool]
    require_apart(paths, test_paths, names=("unlabelled", "test"))
    require_apart(paths, train_paths, names=("unlabelled", "train"))
    return Videos(train, test, pool)


def split(videos: Videos, config: DiagnosisConfig, seed: int) -> Split:
    """The labelled videos of a seed, and all that it may use without labels.

    Raises:  ValueError where the word rest is to be used and nothing is left
    """
    per_class = config.data.labelled_per_class
    labelled, rest = choose_labelled(videos.train, per_class, _choice(config, seed))
    if REST not in config.pools:
        return Split(labelled, videos.pool)
    if not rest:
        raise ValueError(
            f"unlabelled=rest: data.labelled_per_class={per_class} leaves no video of "
            f"{config.data.train_list} without its label"
        )
    left = [PoolVideo(video.path, video.label, config.data.fps) for video in rest]
    return Split(labelled, left + videos.pool)


def open_reader(config: DiagnosisConfig) -> ClipReader:
    """Reads frames at the size that views are made of."""
    data = config.data
    stored = data.stored
    if data.store_size is None and config.train.weak == "compat":
        stored = round(data.size * PUBLISHED_LARGEST)
    return ClipReader(
        stored, match_resolution=data.match_resolution, memory=data.memory_mib * 2**20
    )


def check_lengths(videos: Videos, config: DiagnosisConfig, reader: ClipReader) -> None:
    """Open every video once, so that a broken one is known before the first step.

    Raises:  ValueError, FileNotFoundError naming the video, or how many of those without labels
             have fewer frames than a clip
    """
    for labelled in (*videos.train, *videos.test):
        reader.count(labelled.path)
    short = [v.path for v in videos.pool if reader.count(v.path) < config.data.frames]
    if short:
        raise ValueError(
            f"{len(short)} of {len(videos.pool)} unlabelled videos have fewer frames than the "
            f"{config.data.frames} of a clip (data.frames), such as {short[0]}; leave them out"
        )


def _choice(config: DiagnosisConfig, seed: int) -> int | Literal["first"]:
    return "first" if config.data.choice == "first" else seed


def _folder(folder: Path, fps: float | None) -> list[PoolVideo]:
    """The videos of a folder, with the truth about them where a labels.csv beside them tells."""
    truth: dict[Path, int] = {}
    table = folder / "labels.csv"
    if table.is_file():
        try:
            truth = {video.path: video.label for video in read_labelled(folder, table)}
        except (ValueError, FileNotFoundError) as error:
            logger.info("the truth about %s is not known: %s", folder, error)
    return [PoolVideo(path, truth.get(path, UNKNOWN), fps) for path in unlabelled_videos(folder)]
