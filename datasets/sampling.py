"""Which item comes at which step on which rank, and the processes that load it.

Items are numbered without end from 0. Item n is clip `n % N` of the order of epoch `n // N`, and
its random choices come from (seed, n). A step takes the next world_size * batch_size *
accumulation items, so the data depend on nothing but seed, step and that product: not on the
number of workers, nor on how ranks and accumulation divide a step, nor on a stop and resume.
"""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.schema import ClipConfig, DataConfig
from datasets.cached import CachedClips
from datasets.clips import ClipDataset
from datasets.transforms import to_float

Clips = ClipDataset | CachedClips

ORDER, CHOICES = 0, 1  # two streams of random numbers from one seed


class EndlessBatches(Iterator[dict[str, Tensor]]):
    """Micro batches without end; see `endless_batches`.

    Attribute:  dataset, with the numbers of videos, frames and videos left out
    """

    def __init__(self, dataset: Clips, sampler: MicroBatches, seed: int) -> None:
        self.dataset = dataset
        self._sampler = sampler
        self._seed = seed
        self._loaded: Iterator[Loaded] | None = None

    def __next__(self) -> dict[str, Tensor]:
        return as_floats(self.next_stored())

    def next_stored(self) -> dict[str, Tensor]:
        """The next micro batch with its pixels as uint8: a quarter of the bytes to move.

        Beside a GPU its tensors lie in pinned memory, from which copies run by themselves.
        """
        if self._loaded is None:
            self._loaded = self._start()
        batch = next(self._loaded)
        if isinstance(batch, Failure):
            self.close()
            raise batch.error()
        self._sampler.first += 1
        return batch

    def close(self) -> None:
        """End the worker processes. Asked for more, they start anew and go on."""
        # The loader's iterator ends its workers when it is forgotten. A traceback may remember it
        # until the process ends, which then waits for workers that ignore SIGTERM, for ever.
        end_workers = getattr(self._loaded, "_shutdown_workers", None)
        self._loaded = None
        if end_workers is not None:
            end_workers()

    def _start(self) -> Iterator[Loaded]:
        workers = self.dataset.data.workers
        loader: DataLoader[Loaded] = DataLoader(
            _ItemsByNumber(self.dataset, self._seed),
            batch_size=None,  # the sampler yields whole micro batches
            sampler=self._sampler,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            worker_init_fn=begin_worker,
            collate_fn=unchanged,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a seed when it starts; not from the numbers that training uses.
            generator=torch.Generator(),
        )
        # One pass without end: the workers live as long as it does.
        return iter(loader)


def endless_batches(
    data: DataConfig,
    clip: ClipConfig,
    *,
    batch_size: int,
    seed: int,
    rank: int,
    world_size: int,
    first_step: int,
    accumulation: int = 1,
    cached_parts: Sequence[str] = (),
) -> EndlessBatches:
    """One micro batch after another, from micro batch first_step * accumulation on.

    Output:  each videos (B, F, 3, H, W) and, when data.images_per_clip > 0, images (B, I, 3, H,
             W), float32 in [-1, 1]; with data.labels also labels (B,) int64; with data.cache
             `cached_parts` instead of pixels, see `CachedClips.draw`
    Raises:  as `ClipDataset`; and when a file turns out to be broken, ValueError naming it
    """
    dataset = CachedClips(data, clip, cached_parts) if data.cache else ClipDataset(data, clip)
    sampler = MicroBatches(batch_size, rank, world_size, first_step * accumulation)
    return EndlessBatches(dataset, sampler, seed)


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turn the RuntimeError of a loader process that the system has ended into an OSError of one
    line. It is raised by a signal, in whatever the main process is doing then."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            "a data worker was ended by the system, mostly for want of memory or shared memory; "
            "lower data.workers and run the same command again: it goes on from the last checkpoint"
        ) from None


def as_floats(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same micro batch, on whatever device, with float32 pixels in [-1, 1]."""
    return {k: to_float(v) if v.dtype == torch.uint8 else v for k, v in batch.items()}


class MicroBatches(Sampler[list[int]]):
    """The item numbers of one rank's micro batches, from number `first` on, without end."""

    def __init__(self, batch_size: int, rank: int, world_size: int, first: int) -> None:
        self.batch_size, self.rank, self.world_size, self.first = (
            batch_size,
            rank,
            world_size,
            first,
        )

    def __iter__(self) -> Iterator[list[int]]:
        for number in count(self.first):
            begin = (number * self.world_size + self.rank) * self.batch_size
            yield list(range(begin, begin + self.batch_size))


def clip_of(item: int, clips: int, seed: int) -> int:
    """Which of `clips` clips an item is: every epoch has each of them once, in its own order."""
    epoch, place = divmod(item, clips)
    return int(_order(epoch, clips, seed)[place])


@functools.lru_cache(maxsize=2)  # a micro batch may span two epochs
def _order(epoch: int, clips: int, seed: int) -> npt.NDArray[np.int64]:
    return _generator(seed, ORDER, epoch).permutation(clips)


def choices_of(item: int, seed: int) -> np.random.Generator:
    """The random numbers that belong to an item."""
    return _generator(seed, CHOICES, item)


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, stream, number])


# ---------------------------------------------------------------- in the workers


@dataclass(frozen=True)
class Failure:
    """An error on its way to the main process, which would else arrive with a traceback in it."""

    missing: bool
    message: str

    def error(self) -> Exception:
        """What the main process raises."""
        return FileNotFoundError(self.message) if self.missing else ValueError(self.message)


Loaded = dict[str, Tensor] | Failure


class _ItemsByNumber(Dataset[Loaded]):
    """A map from a list of item numbers to their batch, with uint8 pixels.

    Bytes are a quarter of the floats: less to copy between processes, and less of the shared
    memory that containers give sparingly.
    """

    def __init__(self, dataset: Clips, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, numbers: list[int]) -> Loaded:
        try:
            items = [self._item(number) for number in numbers]
        except (ValueError, OSError) as error:
            return Failure(isinstance(error, FileNotFoundError), str(error))
        return {key: torch.stack([item[key] for item in items]) for key in items[0]}

    def _item(self, number: int) -> dict[str, Tensor]:
        index = clip_of(number, len(self.dataset), self.seed)
        return self.dataset.draw(index, choices_of(number, self.seed))


def begin_worker(_worker: int) -> None:
    """A loader process leaves the cores to the others, and stopping to the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers itself


def unchanged(batch: Any) -> Any:
    """What a data set gives is a batch already."""
    return batch
