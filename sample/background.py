"""Writing finished videos while the device makes the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

WAITING = 2  # batches in memory that are not written yet; then making waits for writing


class BackgroundWriter:
    """Runs writing jobs one after the other in a thread of its own.

    Encoders leave Python's lock while they work, and a GPU needs the main thread only to be given
    its next step. An error of a job is raised by the next call here, at the latest on leaving.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._jobs: deque[Future[None]] = deque()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:  # after an error what is finished is still written; it will not be made again
            self._executor.shutdown(wait=True)

    def submit(self, write: Callable[[], None]) -> None:
        """Run `write` after the jobs before it; wait while too many are not done yet."""
        self._wait(WAITING - 1)
        self._jobs.append(self._executor.submit(write))

    def _wait(self, allowed: int) -> None:
        while self._jobs and (len(self._jobs) > allowed or self._jobs[0].done()):
            self._jobs.popleft().result()
