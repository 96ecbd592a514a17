"""Stop between two steps when asked to: SIGTERM and SIGUSR1 (Slurm), or Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from tools.training.readback import Readback
from tools.training.runtime import Runtime

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ECHO_SECONDS = 3.0  # a launcher repeats the signal that its processes have had already


class StoppedError(Exception):
    """Long work that may be left out was interrupted, for the run is to stop."""


class StopRequest:
    """Notices signals, and lets all processes stop after the same step.

    `with StopRequest(runtime) as stop:` and then in every step `stop.share()` at its start and
    `stop.agreed()` at its end. A second Ctrl-C ends the process at once.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.signal_number = 0  # 0: nobody has asked
        self._noticed_at = 0.0
        self._shared: Readback | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def share(self) -> None:
        """Tell the other processes. The answer is read later, so no device has to wait for it."""
        if self.runtime.is_distributed:
            known = torch.full((1,), self.signal_number, device=self.runtime.device)
            dist.all_reduce(known, op=dist.ReduceOp.MAX)
            self._shared = Readback(known)

    def agreed(self) -> bool:
        """Whether to stop now; the same on every process."""
        if self.runtime.is_distributed:
            # What only this process knows has to wait for the next step.
            shared = 0 if self._shared is None else int(self._shared.read())
            self.signal_number = max(self.signal_number, shared)
            return bool(shared)
        return bool(self.signal_number)

    def check(self, done: int = 0, total: int = 0) -> None:
        """As a progress callback: raise StoppedError once this process has been asked to stop."""
        if self.signal_number:
            raise StoppedError

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Let child processes started inside ignore SIGTERM.

        A scheduler signals every process of a job. Data workers that end at once would take the
        step that is to be finished with them; they end by themselves when this process does.
        """
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, as a shell expects; 0 otherwise, for a scheduler's stop is no fault."""
        return 130 if self.signal_number == signal.SIGINT else 0

    def _notice(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal_number:
            self.signal_number, self._noticed_at = number, now
        elif number == signal.SIGINT and now - self._noticed_at > ECHO_SECONDS:
            raise KeyboardInterrupt
