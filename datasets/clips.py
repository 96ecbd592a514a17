"""The data set of clips: F frames of one video, evenly spread, and I single images beside them."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from configs.schema import ClipConfig, DataConfig
from datasets.images import ExtraImages
from datasets.sources import FrameFolder, Source, find_sources, read_list
from datasets.transforms import flip, resize_centre_crop, to_float
from datasets.video_io import VIDEO_SUFFIXES

logger = logging.getLogger(__name__)


class ClipDataset(Dataset[dict[str, Tensor]]):
    """One item for every video that is long enough.

    The videos are those of `data.folder`, or those that `data.list` names. A file that is broken
    is an error, here or when it is read; it is never replaced by another one.

    Attributes:  sources, the usable videos; counts, their frames; skipped, the number of videos
                 with fewer than F frames
    Raises:      FileNotFoundError, ValueError saying what is wrong with which file or setting
    """

    def __init__(self, data: DataConfig, clip: ClipConfig) -> None:
        found = open_sources(data)
        # Counting reads files and decodes nothing; threads overlap the waiting for the disk.
        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(lambda source: source.count(), found))
        usable = [k for k, count in enumerate(counts) if count >= clip.frames]
        self.data = data
        self.clip = clip
        self.sources = [found[k] for k in usable]
        self.counts = [counts[k] for k in usable]
        self.skipped = len(found) - len(usable)
        if not usable:
            raise ValueError(
                f"{data.list or data.folder}: none of its {len(found)} videos has the "
                f"{clip.frames} frames of a clip; the longest has {max(counts)}"
            )
        self.images = ExtraImages(found, counts, clip.size, data.flip)
        self.labels = read_labels(Path(data.labels), self.sources) if data.labels else None
        logger.info(
            "%s: %d videos, %d frames; %d shorter than %d frames left out",
            *(data.list or data.folder, len(usable), sum(self.counts)),
            *(self.skipped, clip.frames),
        )

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One item with float pixels, always the same for an index; for looking and caching.

        videos (F, 3, H, W) and images (I, 3, H, W) float32 in [-1, 1], labels () int64
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = self.draw(index, np.random.default_rng(index))
        return {key: to_float(v) if v.dtype == torch.uint8 else v for key, v in item.items()}

    def draw(self, index: int, random: np.random.Generator) -> dict[str, Tensor]:
        """One item with uint8 pixels: the window, the flips and the images are random."""
        chosen = choose_clip(self.counts[index], self.clip, self.data.flip, random)
        video = resize_centre_crop(self.sources[index].read(chosen.where), self.clip.size)
        if chosen.mirrored:
            video = flip(video)
        item = {"videos": video.contiguous(), **chosen.time_tensors()}
        if self.data.images_per_clip:
            item["images"] = self.images.draw(self.data.images_per_clip, random)
        if self.labels is not None:
            item["labels"] = torch.tensor(self.labels[index], dtype=torch.int64)
        return item


@dataclass(frozen=True)
class Choice:
    """Which frames of a video a clip is made of."""

    where: list[int]
    mirrored: bool
    times: list[int] | None = None  # with random spacing: of the frames, in intervals
    available: int | None = None  # with random spacing: intervals to choose from, plus one

    def time_tensors(self) -> dict[str, Tensor]:
        """What a batch holds of the times: none of evenly spaced frames."""
        if self.times is None or self.available is None:
            return {}
        return {
            "times": torch.tensor(self.times, dtype=torch.float32),
            "available": torch.tensor(self.available, dtype=torch.int64),
        }


def choose_clip(
    available: int, clip: ClipConfig, mirror: bool, random: np.random.Generator
) -> Choice:
    """Draw the frames of a clip from a video of `available` frames, and whether to mirror them."""
    if clip.spacing == "random":
        where, times, usable = random_times(available, clip, random)
        return Choice(where, mirror and random.random() < 0.5, times, usable)
    where = window(available, clip.frames, clip.frame_interval, random)
    return Choice(where, mirror and random.random() < 0.5)


def random_times(
    available: int, clip: ClipConfig, random: np.random.Generator
) -> tuple[list[int], list[int], int]:
    """Frames at random times (StyleGAN-V, arXiv 2112.14683, section 3.3).

    Of a video longer than clip.longest_video intervals a random window counts. The first and the
    last frame lie a span apart, see `FrameTimes.spans`, the others anywhere in between.

    Output:  indices of the frames, their times in the window, frames that times may name
    """
    stride = min(clip.frame_interval, available // clip.frames)
    assert stride >= 1, f"a video of {available} frames is too short for {clip.frames}"
    length = (available - 1) // stride + 1
    usable = min(length, clip.longest_video)
    begin = int(random.integers(length - usable + 1))
    span = int(random.choice(clip.times.spans(usable)))
    first = int(random.integers(usable - span))
    between = 1 + random.permutation(span - 1)[: clip.frames - 2]
    times = [first, *sorted(first + int(each) for each in between), first + span]
    return [(begin + time) * stride for time in times], times, usable


def window(available: int, frames: int, interval: int, random: np.random.Generator) -> list[int]:
    """Indices of a clip: `frames` spread evenly over a random stretch of a video.

    The stretch has frames * interval source frames, the first and the last of which belong to
    the clip. Where the video is shorter, the interval is the largest that fits.
    """
    stride = min(interval, available // frames)
    assert stride >= 1, f"a video of {available} frames is too short for {frames}"
    span = frames * stride
    start = int(random.integers(available - span + 1))
    return [start + k * (span - 1) // (frames - 1) for k in range(frames)]


def open_sources(data: DataConfig) -> list[Source]:
    """The videos that the settings name, in natural order of their names.

    Raises:  FileNotFoundError, ValueError where there are none
    """
    if data.list is not None:
        return read_list(Path(data.list))
    folder = Path(data.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"data.folder: {folder}: no such folder")
    sources = find_sources(
        folder, videos=data.layout in ("auto", "videos"), frames=data.layout in ("auto", "frames")
    )
    if not sources:
        kinds = {"videos": "video files", "frames": "folders of frames"}
        wanted = kinds.get(data.layout, "video files and no folders of frames")
        raise ValueError(f"data.folder: {folder}: no {wanted} in it (data.layout: {data.layout})")
    folders = sum(isinstance(source, FrameFolder) for source in sources)
    if 0 < folders < len(sources):
        logger.warning(
            "%s holds %d video files and %d folders of frames; data.layout chooses one kind",
            *(folder, len(sources) - folders, folders),
        )
    return sources


class Named(Protocol):
    """What carries the name of a video."""

    @property
    def name(self) -> str:
        """Its path below the root of the data set, without a suffix."""


def read_labels(path: Path, sources: Sequence[Named]) -> list[int]:
    """The label of each video, from a CSV file with the columns name and label.

    A name is that of the video below the root of the data set, with or without its suffix; its
    last part will do.
    Raises:  FileNotFoundError, ValueError naming the line or the video without a label
    """
    if not path.is_file():
        raise FileNotFoundError(f"data.labels: {path}: no such file")
    labels: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if not {"name", "label"} <= set(table.fieldnames or ()):
            raise ValueError(f"data.labels: {path}: expected the columns name,label")
        for row in table:
            try:
                label = int(row["label"])
            except (TypeError, ValueError):
                label = -1
            if label < 0:
                raise ValueError(
                    f"data.labels: {path}: line {table.line_num}: a label is a whole number from "
                    f"0, got {row['label']!r}"
                )
            labels[_without_suffix(row["name"])] = label
    missing = [s.name for s in sources if _label_of(s.name, labels) is None]
    if missing:
        raise ValueError(
            f"data.labels: {path}: no label for {len(missing)} videos, such as {missing[0]}"
        )
    return [_label_of(source.name, labels) or 0 for source in sources]


def _label_of(name: str, labels: dict[str, int]) -> int | None:
    return labels.get(name, labels.get(name.rpartition("/")[2]))


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.strip().rpartition(".")
    return stem if dot + suffix.lower() in VIDEO_SUFFIXES else name.strip()
