"""From videos to features: every video is decoded once for all extractors."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tools.metrics.clips import (
    choose_videos,
    clip_windows,
    frame_indices,
    frame_shares,
    prepare,
)
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.protocol import Protocol
from tools.metrics.sets import VideoSet
from tools.training.runtime import Runtime

Side = Literal["real", "fake"]


@dataclass(frozen=True)
class Extraction:
    """The features of one set, and what was met on the way.

    Attributes:
        features    by the name of the extractor
        used        names of the videos that gave at least one clip or frame
        dropped     names of the videos that are too short for a clip
        sizes       videos by (H, W) of their stored frames; of all videos of the set
        lengths     videos by their number of frames
        containers  videos by how they are stored: "mp4", "png", "npz"
        seconds     wall clock time
        reused      how many of the features' videos came from the cache, over all extractors
    """

    features: Mapping[str, Features]
    used: tuple[str, ...]
    dropped: tuple[str, ...]
    sizes: Counter[tuple[int, int]]
    lengths: Counter[int]
    containers: Counter[str]
    seconds: float
    reused: int = 0


def extract(
    videos: VideoSet,
    side: Side,
    protocol: Protocol,
    extractors: Sequence[FeatureExtractor],
    *,
    cache: Path | None,
    runtime: Runtime,
    batch_size: int = 8,
    workers: int = 2,
    clips_per_video: int | None = None,
) -> Extraction:
    """The features of one side, the same on every process of a run.

    Inputs:  cache a folder, None keeps nothing; batch_size clips at once on the device; workers
             processes that decode; clips_per_video instead of the protocol's number
    Raises:  ValueError, FileNotFoundError in one line naming the set or the video
    """
    started = time.monotonic()
    real = side == "real"
    sources = {source.name: source for source in videos.sources}
    names = list(sources)
    counts = {name: source.count() for name, source in sources.items()}
    stride = protocol.real_stride if real else protocol.fake_stride
    clips = clips_per_video or (protocol.clips_per_real_video if real else 1)
    clip_limit = protocol.max_real_clips if real else protocol.max_fake_clips
    frame_limit = protocol.max_real_frames if real else protocol.max_fake_frames
    offset = protocol.real_offset if real else protocol.fake_offset
    dropped: set[str] = set()
    features = {}
    for extractor in extractors:
        windows: dict[str, list[list[int]]] = {}
        if extractor.frames == 1:
            shares = frame_shares([counts[n] for n in names], frame_limit, protocol.choice)
            for name, share in zip(names, shares, strict=True):
                chosen = frame_indices(name, counts[name], share, protocol.choice, protocol.seed)
                windows[name] = [[index] for index in chosen]
        else:
            if stride < 1:
                raise ValueError("real_stride: 0 stands for the generator's training stride")
            all_windows = {
                name: clip_windows(
                    name, counts[name], extractor.frames, stride, offset, clips, protocol.seed
                )
                for name in names
            }
            usable = [name for name in names if all_windows[name]]
            dropped |= set(names) - set(usable)
            limit = max(1, clip_limit // clips) if clip_limit else 0
            for name in choose_videos(usable, limit, protocol.choice, protocol.seed):
                windows[name] = all_windows[name]
        outputs: dict[str, list[torch.Tensor]] = {each: [] for each in extractor.outputs}
        for name, each_window in windows.items():
            for window in each_window:
                frames = prepare(sources[name].read(window), protocol)
                with torch.inference_mode():
                    found = extractor(frames[None].to(runtime.device))
                for key, values in found.items():
                    outputs[key].append(values.cpu())
        used = [name for name in windows if windows[name]]
        groups = [k for k, name in enumerate(used) for _ in windows[name]]
        features[extractor.name] = Features(
            outputs={key: torch.cat(values) for key, values in outputs.items()},
            groups=torch.tensor(groups, dtype=torch.int64),
            videos=used,
            windows=[window for name in used for window in windows[name]],
        )
    return Extraction(
        features=features,
        used=tuple(n for n in names if any(n in f.videos for f in features.values())),
        dropped=tuple(n for n in names if n in dropped),
        sizes=Counter(source.frame_size() for source in sources.values()),
        lengths=Counter(counts.values()),
        containers=Counter(source.container() for source in sources.values()),
        seconds=time.monotonic() - started,
    )
