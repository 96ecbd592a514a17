"""The views of every training step: a function of seed and step alone.

Items are numbered without end, as in `datasets.sampling`. Step s takes the next batch of the
labelled videos and the next of the others, each process its part, so neither the number of
processes nor of loader workers nor a stop changes what is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.diagnosis import DiagnosisConfig
from datasets.sampling import Failure, begin_worker, choices_of, clip_of, unchanged
from datasets.windows import Indices, frames_in, published_window, train_window
from tools.diagnosis.augment import strong_view, weak_view
from tools.diagnosis.clips import ClipReader
from tools.diagnosis.preparation import Split
from tools.training.runtime import Runtime

LABELLED, POOL = 0, 1  # streams of random numbers of one seed

Views = dict[str, Tensor]


class StepViews(Dataset["Views | Failure"]):
    """Step -> the views that one process learns from in it.

    labelled  (L, T, 3, S, S) uint8 weak views, with labels (L,)
    weak      (U, T, 3, S, S) uint8 of clips without labels, with truth (U,) for reports
    strong    the same clips, strongly changed; other: a second such view, for CoMatch
    """

    def __init__(
        self, config: DiagnosisConfig, split: Split, seed: int, reader: ClipReader, runtime: Runtime
    ) -> None:
        self.config, self.split, self.seed, self.reader = config, split, seed, reader
        self.rank, self.world_size = runtime.rank, runtime.world_size
        for name, batch in (
            ("labelled_batch", config.train.labelled_batch),
            ("unlabelled_batch", config.train.unlabelled_batch),
        ):
            if batch % self.world_size:
                raise ValueError(
                    f"train.{name}: {batch} clips cannot be shared evenly by "
                    f"{self.world_size} processes"
                )

    def __getitem__(self, step: int) -> Views | Failure:
        try:
            views = self._labelled(step)
            if self.config.method != "supervised":
                views |= self._unlabelled(step)
        except (ValueError, OSError) as error:
            return Failure(isinstance(error, FileNotFoundError), str(error))
        return views

    def _labelled(self, step: int) -> Views:
        clips, labels = [], []
        train, size = self.config.train, self.config.data.size
        for item in self._items(step, train.labelled_batch):
            video = self.split.labelled[self._video(item, LABELLED, len(self.split.labelled))]
            draw = self._choices(item, LABELLED)
            clip = self._clip(video.path, self.config.data.fps, draw)
            clips.append(weak_view(clip, size, _seed(draw), train.weak))
            labels.append(video.label)
        return {"labelled": torch.stack(clips), "labels": torch.tensor(labels)}

    def _unlabelled(self, step: int) -> Views:
        train, size = self.config.train, self.config.data.size
        views: dict[str, list[Tensor]] = {"weak": []}
        truth = []
        for item in self._items(step, train.unlabelled_batch):
            video = self.split.pool[self._video(item, POOL, len(self.split.pool))]
            draw = self._choices(item, POOL)
            clip = self._clip(video.path, video.fps, draw)
            weak, strong, other = _seed(draw), _seed(draw), _seed(draw)
            views["weak"].append(weak_view(clip, size, weak, train.weak))
            if train.loss_on == "strong":
                views.setdefault("strong", []).append(strong_view(clip, size, strong, train.strong))
            if self.config.method == "comatch":
                views.setdefault("other", []).append(strong_view(clip, size, other, "comatch"))
            truth.append(video.truth)
        stacked = {name: torch.stack(clips) for name, clips in views.items()}
        return {**stacked, "truth": torch.tensor(truth)}

    def _items(self, step: int, batch: int) -> range:
        """The numbers of the items of this process."""
        share = batch // self.world_size
        begin = step * batch + self.rank * share
        return range(begin, begin + share)

    def _video(self, item: int, stream: int, videos: int) -> int:
        return clip_of(item, videos, 2 * self.seed + stream)

    def _choices(self, item: int, stream: int) -> np.random.Generator:
        return choices_of(item, 2 * self.seed + stream)

    def _clip(self, path: Path, fps: float | None, draw: np.random.Generator) -> Tensor:
        return self.reader.read(path, window(self.config, self.reader, path, fps, draw))


def window(
    config: DiagnosisConfig,
    reader: ClipReader,
    path: Path,
    fps: float | None,
    draw: np.random.Generator,
) -> Indices:
    """The frames of a training clip of a video."""
    data = config.data
    count = reader.count(path)
    if data.window == "published":
        return published_window(count, data.frames, file_rate(reader, path, fps), draw)
    return train_window(count, data.frames, scene_span(config, reader, path, fps), draw)


def scene_span(config: DiagnosisConfig, reader: ClipReader, path: Path, fps: float | None) -> int:
    """Frames that a clip of a video spans."""
    rate = fps if fps is not None else file_rate(reader, path, None)
    return frames_in(config.data.window_seconds, rate)


def file_rate(reader: ClipReader, path: Path, otherwise: float | None) -> float:
    """Frames per second as the file says. Raises:  ValueError where nothing tells"""
    rate = reader.fps(path)
    rate = otherwise if rate is None else rate
    if rate is None:
        raise ValueError(
            f"{path}: nothing tells its frames per second; give data.fps (labelled videos) or "
            "data.unlabelled_fps"
        )
    return rate


def _seed(draw: np.random.Generator) -> int:
    return int(draw.integers(2**62))


class Steps:
    """The views of one step after another, on the device.

    `with Steps(views, first, steps, workers, device) as steps:` and `next(steps)`.
    """

    def __init__(
        self, views: StepViews, first: int, last: int, workers: int, device: torch.device
    ) -> None:
        self.device = device
        loader: DataLoader[Views | Failure] = DataLoader(
            views,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=begin_worker,
            collate_fn=unchanged,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # not the numbers that training uses
        )
        self._loaded: Iterator[Views | Failure] = iter(loader)

    def __next__(self) -> Views:
        views = next(self._loaded)
        if isinstance(views, Failure):
            raise views.error()
        return {name: part.to(self.device, non_blocking=True) for name, part in views.items()}

    def close(self) -> None:
        """End the workers, which an iterator in a traceback would keep."""
        end_workers = getattr(self._loaded, "_shutdown_workers", None)
        if end_workers is not None:
            end_workers()
