"""The rows of a study, several at a time: each is a run of semi_fixmatch.py of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.diagnosis.rows import RESULT

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = "console.txt"  # what a row's process says
LOOK_EVERY = 0.5  # seconds
LINES_SHOWN = 3  # of the console of a row that failed


@dataclass(frozen=True)
class Job:
    """A row that is to be trained: `command` is for this interpreter, without its name."""

    name: str
    folder: Path
    command: tuple[str, ...]
    seeds: tuple[int, ...]

    def done(self) -> int:
        """How many of its seeds are finished."""
        return sum((self.folder / f"seed_{seed}" / RESULT).is_file() for seed in self.seeds)


def run_jobs(jobs: Sequence[Job], workers: int, say: Callable[[str], None]) -> None:
    """Run all jobs, at most `workers` at a time, each on one core where there are several.

    Finished seeds are kept, so a stopped study goes on. Whatever ends this function ends all
    processes that it has started.
    Raises:  ValueError with the last words of a job that failed
    """
    waiting, running = list(jobs), dict[Job, subprocess.Popen[bytes]]()
    began, known = time.monotonic(), {job: job.done() for job in jobs}
    before = sum(known.values())
    with ended_by_sigterm(), _ending(running):
        while waiting or running:
            while waiting and len(running) < max(workers, 1):
                job = waiting.pop(0)
                running[job] = _start(job, alone=workers <= 1)
            time.sleep(LOOK_EVERY)
            for job in list(running):
                status = running[job].poll()
                if job.done() > known[job]:
                    known[job] = job.done()
                    done, total = sum(known.values()), sum(len(job.seeds) for job in jobs)
                    left = (time.monotonic() - began) / (done - before) * (total - done)
                    say(
                        f"{job.name}: {known[job]} of {len(job.seeds)} seeds; {done} of {total} "
                        f"runs, about {_clock(left)} left"
                    )
                if status is None:
                    continue
                del running[job]
                if status or known[job] < len(job.seeds):  # asked to stop, a row's status is 0
                    raise ValueError(f"{job.name} stopped with status {status}: {_last_words(job)}")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C would, so that it can end what it has started."""
    earlier = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


@contextmanager
def _ending(running: dict[Job, subprocess.Popen[bytes]]) -> Iterator[None]:
    """End all processes at the end of the block."""
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()  # a row saves its state then
        for process in running.values():
            process.wait()


def _start(job: Job, *, alone: bool) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    threads = {} if alone else {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (job.folder / CONSOLE).open("ab") as console:
        return subprocess.Popen(
            [sys.executable, *job.command],
            env={**os.environ, **threads},
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
        )


def _last_words(job: Job) -> str:
    path = job.folder / CONSOLE
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' / '.join(lines[-LINES_SHOWN:])} (more in {path})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
