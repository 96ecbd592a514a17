"""From videos to features: every video is decoded once for all extractors.

The frames wanted by all extractors together are decoded and prepared in worker processes; the
extractors run in this process. What a video gives is kept in the cache as soon as it is complete,
so a run that was stopped goes on. Of several processes each takes a part of the videos; at the end
all hold the features of all videos, in the order of the videos.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch

from datasets.parallel import in_processes
from datasets.sources import Source, VideoFile, natural_order
from tools.metrics.batching import Assembly, Batches, Outputs
from tools.metrics.cache import Cache
from tools.metrics.decoding import Order, decode, explained, heap_left_alone
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.gathering import gather_outputs, gather_values, share
from tools.metrics.known import Known, know, load
from tools.metrics.plan import Plan, Side, Windows, make_plan
from tools.metrics.protocol import Protocol
from tools.metrics.sets import VideoSet
from tools.training.progress import VideoProgress
from tools.training.runtime import Runtime

__all__ = ["Extraction", "Side", "extract"]

IMAGES_FOR_A_CLIP = 4  # single images in a batch for each clip that a batch of clips would have

logger = logging.getLogger(__name__)


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
        reused      videos of which nothing had to be computed, since the cache had it
    """

    features: Mapping[str, Features]
    used: tuple[str, ...]
    dropped: tuple[str, ...]
    sizes: Counter[tuple[int, int]]
    lengths: Counter[int]
    containers: Counter[str]
    seconds: float
    reused: int = 0


@dataclass(frozen=True)
class Measured:
    """What a video is, without its pixels."""

    count: int  # frames
    size: tuple[int, int]  # (H, W)


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

    Extractors of single images (frames == 1) get the frames that the protocol chooses, all others
    clips of their length.

    Inputs:  cache a folder, None keeps nothing; batch_size clips at once on the device; workers
             processes that decode, 0 decodes in this one; clips_per_video instead of the
             protocol's number
    Raises:  ValueError, FileNotFoundError in one line naming the set or the video
    """
    if len({extractor.name for extractor in extractors}) < len(extractors):
        raise ValueError(f"extractors: a name twice in {[each.name for each in extractors]}")
    started = time.monotonic()
    job = _Job(videos, side, protocol, extractors, Cache(cache) if cache else None, runtime)
    measured = job.measure(workers)
    counts = {name: each.count for name, each in measured.items()}
    lengths = [extractor.frames for extractor in extractors]
    plan = make_plan(str(videos.path), counts, side, protocol, lengths, clips_per_video)
    used = [name for name in counts if any(name in each for each in plan.windows.values())]
    _check_sizes(videos, protocol, {measured[name].size for name in used})
    found, computed = job.run(plan, used, measured, batch_size, workers)
    everywhere = gather_outputs(found, plan, used, extractors, runtime)
    return Extraction(
        features={
            each.name: _joined(plan.windows[each.frames], everywhere[each.name])
            for each in extractors
        },
        used=tuple(used),
        dropped=plan.dropped,
        sizes=Counter(each.size for each in measured.values()),
        lengths=Counter(counts.values()),
        containers=Counter(source.container() for source in videos.sources),
        seconds=time.monotonic() - started,
        reused=len(used) - sum(gather_values(computed, runtime)),
    )


class _Job:
    """The part of an extraction that one process does."""

    def __init__(
        self,
        videos: VideoSet,
        side: Side,
        protocol: Protocol,
        extractors: Sequence[FeatureExtractor],
        cache: Cache | None,
        runtime: Runtime,
    ) -> None:
        sources = {source.name: source for source in videos.sources}
        self.sources = {name: sources[name] for name in natural_order(sources)}
        kind = "generated" if side == "fake" else side
        self.title = f"{kind} videos of {videos.name}"
        self.protocol = protocol
        self.extractors = extractors
        self.cache = cache
        self.runtime = runtime
        self.found: dict[str, dict[str, Outputs]] = {each.name: {} for each in extractors}
        self.known: dict[str, Known] = {}

    def measure(self, workers: int) -> dict[str, Measured]:
        """Every video's number of frames and their size, in the order of the set."""
        mine = share(list(self.sources.values()), self.runtime.rank, self.runtime.world_size)
        found = []
        progress = self._progress(len(mine), "looking at", brief=True)
        with heap_left_alone(), progress:
            for each in in_processes(partial(_measure, self.cache), mine, workers):
                found.append(each)
                progress.finish(1)
        everywhere = dict(pair for part in gather_values(found, self.runtime) for pair in part)
        return {name: everywhere[name] for name in self.sources}

    def run(
        self,
        plan: Plan,
        used: Sequence[str],
        measured: Mapping[str, Measured],
        batch_size: int,
        workers: int,
    ) -> tuple[dict[str, dict[str, Outputs]], int]:
        """Outputs by extractor and video of this process's share, and how many were computed."""
        mine = share(used, self.runtime.rank, self.runtime.world_size)
        wanted = self._not_in_cache(plan, mine, workers)
        orders = []
        for number, name in enumerate(mine):
            if wanted[name]:
                windows = plan.of_video(name, [each.frames for each in wanted[name]])
                indices = sorted(
                    {k for each in windows.values() for window in each for k in window}
                )
                source = self.sources[name]
                unchanged = self.known[name].identity_of(source, indices) if self.cache else None
                orders.append(Order(number, source, measured[name].size, indices, unchanged))
        if len(orders) < len(mine):
            logger.info("%s: %d of %d in the cache", self.title, len(mine) - len(orders), len(mine))
        self._compute(orders, mine, wanted, plan, batch_size, workers)
        return self.found, len(orders)

    def _not_in_cache(
        self, plan: Plan, names: Sequence[str], workers: int
    ) -> dict[str, list[FeatureExtractor]]:
        """For each video the extractors that have to see it; what is in the cache is taken."""
        wanting = {
            name: [each for each in self.extractors if name in plan.windows[each.frames]]
            for name in names
        }
        if self.cache is None:
            return wanting
        items = [
            (self.sources[name], plan.of_video(name, [each.frames for each in wanting[name]]))
            for name in names
        ]
        progress = self._progress(len(items), "comparing", brief=True)
        with heap_left_alone(), progress:
            for name, known in in_processes(
                partial(know, self.cache, self.protocol), items, workers
            ):
                self.known[name] = known
                progress.finish(1)
        for name in names:
            missing = []
            for extractor in wanting[name]:
                key = self.known[name].key(extractor, self.runtime.device)
                outputs = load(
                    self.cache, key, len(plan.windows[extractor.frames][name]), extractor
                )
                if outputs is None:
                    missing.append(extractor)
                else:
                    self.found[extractor.name][name] = outputs
            wanting[name] = missing
        return wanting

    def _compute(
        self,
        orders: Sequence[Order],
        names: Sequence[str],
        wanted: Mapping[str, Sequence[FeatureExtractor]],
        plan: Plan,
        batch_size: int,
        workers: int,
    ) -> None:
        batches = {
            each.name: Batches(
                each,
                batch_size * (IMAGES_FOR_A_CLIP if each.frames == 1 else 1),
                self.runtime.device,
                partial(self._keep, each),
            )
            for each in self.extractors
        }
        first_rows = {
            length: dict(zip(each, accumulate(map(len, each.values()), initial=0), strict=False))
            for length, each in plan.windows.items()
        }
        under_way: dict[int, Assembly] = {}
        totals = {order.number: len(order.wanted) for order in orders}
        decoded: Counter[int] = Counter()
        with (
            explained(),
            exact_arithmetic(),
            self._progress(len(orders), "features of") as progress,
            contextlib.closing(decode(orders, self.protocol, workers)) as pieces,
        ):
            for piece in pieces:
                name, number = names[piece.number], piece.number
                if number not in under_way:
                    parts = []
                    for each in wanted[name]:
                        windows = plan.windows[each.frames][name]
                        first = first_rows[each.frames][name]
                        batches[each.name].begin(name, first, len(windows))
                        parts.append((batches[each.name], windows))
                    under_way[number] = Assembly(name, parts)
                under_way[number].add(piece.indices, torch.from_numpy(piece.frames))
                decoded[number] += len(piece.indices)
                if decoded[number] == totals[number]:
                    assert under_way.pop(number).done, f"{name}: frames without a clip"
                    progress.finish(1)
                else:
                    progress.step(1, decoded[number], totals[number])
            for each_batches in batches.values():
                each_batches.flush()

    def _keep(self, extractor: FeatureExtractor, name: str, outputs: Outputs) -> None:
        self.found[extractor.name][name] = outputs
        if self.cache is not None:
            key = self.known[name].key(extractor, self.runtime.device)
            self.cache.store_features(key, outputs)

    def _progress(self, total: int, doing: str, brief: bool = False) -> VideoProgress:
        runtime = self.runtime
        shared = f" on process 0 of {runtime.world_size}" if runtime.world_size > 1 else ""
        label = f"{doing} {self.title}{shared}"
        return VideoProgress(total, label, runtime.is_main, part="frame", brief=brief)


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Plain float32 and the same kernels every time, whatever the program has chosen."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _measure(cache: Cache | None, source: Source) -> tuple[str, Measured]:
    """Counting the frames of a video file takes reading it, so the cache remembers the number."""
    if cache is None or not isinstance(source, VideoFile):
        return source.name, Measured(source.count(), source.frame_size())

    def find() -> list[int]:
        return [source.count(), *source.frame_size()]

    count, height, width = cache.remembered("frames, height, width", [source.path], find)
    return source.name, Measured(count, (height, width))


def _check_sizes(videos: VideoSet, protocol: Protocol, sizes: set[tuple[int, int]]) -> None:
    if protocol.frame_size == 0 and len(sizes) > 1:
        told = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"{videos.path}: its videos differ in size ({told}), and the protocol takes frames as "
            f"they are stored; set frame_size to bring them to one size"
        )


def _joined(windows: Mapping[str, Windows], found: Mapping[str, Outputs]) -> Features:
    """The rows of all videos, in natural order of their names."""
    groups = [number for number, each in enumerate(windows.values()) for _ in each]
    outputs = {
        key: torch.cat([found[name][key] for name in windows])
        for key in next(iter(found.values()), {})
    }
    rows = [window for each in windows.values() for window in each]
    return Features(outputs, torch.tensor(groups, dtype=torch.int64), list(windows), rows)
