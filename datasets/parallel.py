"""Work on many videos in several processes, so that a stop leaves nothing behind."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from configs.errors import naming

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCK = ".lock"
PATIENCE = 5.0  # seconds that the workers of a killed run may need to notice


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[Result]:
    """Results as they come, in any order. One worker or item: in this process.

    Raises:  what `function` raises, after the other workers were stopped; OSError when the
             system ends a worker
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(workers, len(items)), initializer=_begin, initargs=(os.getpid(),)
    )
    try:
        for future in as_completed([pool.submit(function, item) for item in items]):
            yield future.result()
    except BrokenProcessPool:
        raise OSError(
            "a worker process was ended by the system, mostly for want of memory; "
            "run again with fewer --num_workers"
        ) from None
    except BaseException:
        # Whoever stops the run should not wait for the videos that are under way.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; the system lets go when all our processes end.

    Raises:  OSError when another run holds it or the lock cannot be written
    """
    with naming(folder / LOCK):
        file = (folder / LOCK).open("w")
    with file:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OSError(f"{folder}: another run is writing there") from None
                time.sleep(0.1)
        yield


def _begin(parent: int) -> None:
    """Prepare a worker: one thread, Ctrl-C left to the parent, an end when the parent ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
