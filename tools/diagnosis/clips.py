"""Frames of videos at the size they are kept at, read from disk as seldom as memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labelled import open_video
from datasets.sources import Source

MEMORY = 2**30  # bytes of frames to keep
SHARE = 8  # a video of more than this part of the memory is not kept


class ClipReader:
    """Reads frames of videos, and keeps whole videos in memory that are small enough.

    Inputs:  store_size, what the short side of a frame is reduced to, larger ones only;
             match_resolution, what it goes through before, so that recordings are no sharper
             than the videos of a generator of that size (None: as recorded);
             memory, bytes of frames to keep; 0 reads every clip anew
    Raises:  ValueError for sizes below 1
    """

    def __init__(
        self, store_size: int, *, match_resolution: int | None = None, memory: int = MEMORY
    ) -> None:
        for name, size in (("store_size", store_size), ("match_resolution", match_resolution)):
            if size is not None and size < 1:
                raise ValueError(f"{name}: at least 1 pixel, got {size}")
        self.store_size = store_size
        self.match_resolution = match_resolution
        self.memory = memory
        self._sources: dict[Path, Source] = {}
        self._counts: dict[Path, int] = {}
        self._kept: OrderedDict[Path, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def count(self, path: Path) -> int:
        """Frames of a video. Raises:  FileNotFoundError, ValueError naming the file"""
        if path not in self._counts:
            self._counts[path] = self._source(path).count()
        return self._counts[path]

    def fps(self, path: Path) -> float | None:
        """Frames per second as its file says, None where nothing tells."""
        return self._source(path).fps()

    def read(self, path: Path, indices: Sequence[int]) -> Tensor:
        """Those frames: (len(indices), 3, H, W) uint8, a tensor of its own.

        Raises:  FileNotFoundError, ValueError naming the file, IndexError
        """
        whole = self._whole(path)
        if whole is not None:
            count = len(whole)
            outside = [index for index in indices if not 0 <= index < count]
            if outside:
                raise IndexError(f"{path}: frame {outside[0]} asked for, it has {count}")
            return whole[list(indices)]
        return self._stored(self._source(path).read(list(indices)))

    def _source(self, path: Path) -> Source:
        if path not in self._sources:
            self._sources[path] = open_video(path)
        return self._sources[path]

    def _whole(self, path: Path) -> Tensor | None:
        """All frames of a video, from memory or for it; None for a video too large to keep."""
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        source = self._source(path)
        height, width = self._stored_size(*source.frame_size())
        size = self.count(path) * 3 * height * width
        if size > self.memory // SHARE:
            return None
        whole = torch.cat([self._stored(frame[None]) for frame in source.iterate()])
        self._kept[path] = whole
        self._kept_bytes += whole.numel()
        while self._kept_bytes > self.memory:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.numel()
        return whole

    def _stored(self, frames: Tensor) -> Tensor:
        if self.match_resolution is not None:
            frames = _reduced(frames, self.match_resolution)
        return _reduced(frames, self.store_size).contiguous()

    def _stored_size(self, height: int, width: int) -> tuple[int, int]:
        for side in (self.match_resolution, self.store_size):
            if side is not None:
                height, width = _reduced_size(height, width, side)
        return height, width


def _reduced_size(height: int, width: int, side: int) -> tuple[int, int]:
    short = min(height, width)
    if short <= side:
        return height, width
    return round(height * side / short), round(width * side / short)


def _reduced(frames: Tensor, side: int) -> Tensor:
    """Frames with a short side of at most `side` pixels."""
    height, width = frames.shape[-2:]
    size = _reduced_size(height, width, side)
    if size == (height, width):
        return frames
    return F.interpolate(frames, size=size, mode="bicubic", antialias=True)
