"""Frames -> the shards of a cache: read ahead, encoded in batches, written whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from datasets.cache_index import CacheIndex, shard_name
from datasets.cache_shards import shard_content
from datasets.sources import FrameFolder, Source
from datasets.transforms import flip, resize_centre_crop, to_float
from models.interface import Method
from tools.training.files import whole_file

Item = TypeVar("Item")
Result = TypeVar("Result")


class Block(NamedTuple):
    """Neighbouring frames of one video: first to last - 1 of source number `source`."""

    source: int
    first: int
    last: int


class Encoder:
    """Makes shards. Frames go through the frozen networks in fp32, without autocast, as they do
    in training without a cache.

    Inputs:  batch, the number of frames that go through together (each from both sides);
             threads that read frames
    """

    def __init__(
        self,
        index: CacheIndex,
        sources: Sequence[Source],
        method: Method,
        device: torch.device,
        batch: int,
        threads: int = 1,
    ) -> None:
        self.index, self.sources, self.method = index, sources, method
        self.device, self.batch = device, batch
        # Folders of frames may be read by several threads; decoders of videos are one each.
        folders = all(isinstance(source, FrameFolder) for source in sources)
        self.threads = threads if folders else 1

    def write(self, shard: int, folder: Path, done: Callable[[int], None]) -> None:
        """Make one shard; `done` is told of the frames of each batch. OSError as `whole_file`."""
        content = shard_content(self.encode(shard, done), self.index.shard_key(shard))
        with whole_file(folder / shard_name(shard)) as file:
            file.write(content)

    def encode(self, shard: int, done: Callable[[int], None]) -> dict[str, Tensor]:
        """The parts of one shard, each (frames, views, ...) on the CPU.

        Raises:  ValueError where a video is broken, or a value does not fit into the type
        """
        blocks = list(self.blocks(shard))
        frames, views = sum(b.last - b.first for b in blocks), self.index.views
        parts = {
            name: torch.empty((frames, views, *part.shape), dtype=getattr(torch, part.dtype))
            for name, part in self.index.parts.items()
        }
        place = 0
        with ThreadPoolExecutor(self.threads) as pool:
            for block, pixels in zip(
                blocks, ahead(pool, self.read, blocks, 2 + self.threads), strict=True
            ):
                end = place + len(pixels)
                for name, values in self.encode_pixels(pixels).items():
                    parts[name][place:end] = values
                    self._check(parts[name][place:end], name, block)
                place = end
                done(len(pixels))
        return parts

    def blocks(self, shard: int) -> Iterator[Block]:
        """The batches of a shard; none reaches over two videos."""
        for source, first, last in self.index.segments(shard):
            for begin in range(first, last, self.batch):
                yield Block(source, begin, min(begin + self.batch, last))

    def read(self, block: Block) -> Tensor:
        """(n, 3, size, size) uint8, as training sees them before it mirrors some."""
        source, wanted = self.sources[block.source], range(block.first, block.last)
        if isinstance(source, FrameFolder):  # whose images may differ in size
            pieces = [resize_centre_crop(source.read([k]), self.index.size) for k in wanted]
            return torch.cat(pieces)
        return resize_centre_crop(source.read(list(wanted)), self.index.size)

    def encode_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """Parts (n, views, ...) float32 of frames (n, 3, size, size) uint8, on the device."""
        sides = [pixels, flip(pixels)] if self.index.flips else [pixels]
        frames = to_float(torch.stack(sides, dim=1).to(self.device)).flatten(0, 1)
        with torch.no_grad():
            parts = self.method.cached_parts(frames)
        return {name: values.unflatten(0, (len(pixels), -1)) for name, values in parts.items()}

    def _check(self, stored: Tensor, name: str, block: Block) -> None:
        if not bool(stored.isfinite().all()):
            raise ValueError(
                f"{self.sources[block.source].path}: frames {block.first} to {block.last - 1}: "
                f"{name} has values that {self.index.parts[name].dtype} cannot hold; try "
                f"--dtype bf16, or fp32 where that does not help"
            )


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    depth: int,
) -> Iterator[Result]:
    """`map`, at most `depth` results ahead of whoever takes them."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
