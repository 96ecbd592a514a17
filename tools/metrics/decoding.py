"""Frames of many videos, decoded and prepared in worker processes, in pieces of bounded size."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datasets import video_io
from datasets.sources import ArrayFile, Source, VideoFile
from tools.metrics.cache import Identity, identity
from tools.metrics.clips import prepare
from tools.metrics.protocol import Protocol

PIECE_BYTES = 1 << 26  # of decoded frames in one piece
LEAST_FRAMES, MOST_FRAMES = 16, 64  # frames of one piece, whatever their size
AHEAD = 2  # pieces that a worker decodes ahead
WORTH_SEEKING = 32  # frames passed over for one that is wanted, above which seeking is quicker

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Order:
    """Which frames of a video are wanted.

    `wanted` is ascending and without repeats; `unchanged` is the identity of its files, which
    must be the same when the last frame has been read, None where it does not matter.
    """

    number: int
    source: Source
    size: tuple[int, int]  # (H, W) as stored
    wanted: Sequence[int]
    unchanged: Identity | None = None


@dataclass(frozen=True)
class Piece:
    """Some frames of a video, prepared: (len(indices), 3, H, W) uint8."""

    number: int  # of the order
    indices: Sequence[int]
    frames: Pixels


@dataclass(frozen=True)
class _Failure:
    """An error on its way to the main process, which would else arrive with a traceback in it."""

    missing: bool
    message: str

    def error(self) -> Exception:
        return FileNotFoundError(self.message) if self.missing else ValueError(self.message)


def decode(
    orders: Sequence[Order], protocol: Protocol, workers: int
) -> Generator[Piece, None, None]:
    """All frames of all orders; those of one video in ascending order of their indices.

    The order of the pieces depends on the number of workers, their content does not. Work with
    them inside `explained`.

    Raises:  ValueError, FileNotFoundError naming the video
    """
    if not orders:
        return
    workers = min(workers, len(orders))
    with warnings.catch_warnings(), heap_left_alone():
        # More workers than cores are allowed: their number may come from another machine.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[Piece | _Failure] = DataLoader(
            _Pieces(share_out(orders, max(1, workers)), protocol),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=_begin_worker,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # the loader draws a seed: not from anybody's numbers
        )
        pieces = iter(loader)
    try:
        for piece in pieces:
            if isinstance(piece, _Failure):
                raise piece.error()
            yield piece
    finally:
        del pieces  # with it the workers end, even where an error keeps this frame alive


@contextmanager
def heap_left_alone() -> Iterator[None]:
    """Keep processes that start in this block from tidying up what they inherit.

    A decoded frame that this process has forgotten would, collected in a child, wait for ever for
    threads of the decoder that are here.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def explained() -> Iterator[None]:
    """Say in one line that the system ended a worker; the news may come at any moment."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise OSError(
            "a process that decodes videos was ended by the system, mostly for want of memory; "
            "run again with fewer workers"
        ) from None


def share_out(orders: Sequence[Order], workers: int) -> list[list[Order]]:
    """Orders for each worker, with about as many frames for each."""
    shares: list[list[Order]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for order in sorted(orders, key=lambda order: (-len(order.wanted), order.number)):
        least = loads.index(min(loads))
        shares[least].append(order)
        loads[least] += len(order.wanted)
    return [sorted(share, key=lambda order: order.number) for share in shares]


# ---------------------------------------------------------------- in the workers


def read_pieces(order: Order, protocol: Protocol) -> Iterator[Piece]:
    """The frames of one order, with a bounded number of them in memory.

    Raises:  ValueError, FileNotFoundError naming the video
    """
    height, width = order.size
    most = min(MOST_FRAMES, max(LEAST_FRAMES, PIECE_BYTES // (3 * height * width)))
    for indices, frames in _groups(order, most):
        yield Piece(order.number, indices, prepare(frames, protocol).numpy())
    if order.unchanged not in (None, identity(order.source.files(order.wanted))):
        raise ValueError(f"{order.source.path}: it changed while it was read; run again")


def _groups(order: Order, most: int) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Indices and frames as stored, at most `most` at once."""
    source, wanted = order.source, order.wanted
    if _is_read_in_one_pass(source, wanted, most):
        yield from _one_pass(source, wanted, most)
        return
    for start in range(0, len(wanted), most):
        indices = wanted[start : start + most]
        yield indices, source.read(indices)


def _is_read_in_one_pass(source: Source, wanted: Sequence[int], most: int) -> bool:
    """Whether all frames up to the last one are decoded, rather than each group sought."""
    if isinstance(source, ArrayFile):
        return True
    if not isinstance(source, VideoFile) or len(wanted) <= most:
        return False
    unseekable = not video_io.frame_table(source.path).reliable
    return unseekable or wanted[-1] < WORTH_SEEKING * len(wanted)


def _one_pass(
    source: Source, wanted: Sequence[int], most: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    group: list[Tensor] = []
    due = 0  # place in `wanted` of the next frame
    for index, frame in enumerate(source.iterate()):
        if due < len(wanted) and index == wanted[due]:
            if group and frame.shape != group[0].shape:
                raise ValueError(f"{source.path}: the frame size changes at frame {index}")
            group.append(frame)
            due += 1
            if len(group) == most or due == len(wanted):
                yield wanted[due - len(group) : due], _stacked(group)
                group = []
        if due == len(wanted) and not isinstance(source, ArrayFile):
            return  # an array is read to its end, where its checksum is
    if due < len(wanted):
        raise ValueError(f"{source.path}: it ends before its frame {wanted[due]}; is it damaged?")


def _stacked(frames: Sequence[Tensor]) -> Tensor:
    """(n, 3, H, W) from (3, H, W) each, as they lie in memory: colours last, the quicker copy."""
    return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(0, 3, 1, 2)


class _Pieces(IterableDataset[Any]):
    """The pieces of one share of the orders: that of the worker which asks."""

    def __init__(self, shares: Sequence[Sequence[Order]], protocol: Protocol) -> None:
        self.shares = shares
        self.protocol = protocol

    def __iter__(self) -> Iterator[Piece | _Failure]:
        worker = get_worker_info()
        try:
            for order in self.shares[worker.id if worker else 0]:
                yield from read_pieces(order, self.protocol)
        except (ValueError, OSError) as error:
            yield _Failure(isinstance(error, FileNotFoundError), str(error))


def _begin_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers itself
    # A worker whose pieces nobody takes any more would wait for ever.
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _unchanged(piece: Any) -> Any:
    return piece
