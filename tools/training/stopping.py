"""Stop between two steps when asked to: SIGTERM and SIGUSR1 (Slurm), or Ctrl-C."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tools.training.runtime import Runtime

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Notices signals, and lets all processes stop after the same step.

    `with StopRequest(runtime) as stop:` and then in every step `stop.share()` at its start and
    `stop.agreed()` at its end. A second signal has its usual effect, so that a run that hangs
    can still be ended.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.signal_number = 0  # 0: nobody has asked
        self._shared: Tensor | None = None
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
            self._shared = torch.tensor([self.signal_number], device=self.runtime.device)
            dist.all_reduce(self._shared, op=dist.ReduceOp.MAX)

    def agreed(self) -> bool:
        """Whether to stop now; the same on every process."""
        if self._shared is not None:
            self.signal_number = max(self.signal_number, int(self._shared))
            return bool(int(self._shared))
        return bool(self.signal_number)

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, as a shell expects; 0 otherwise, for a scheduler's stop is no fault."""
        return 130 if self.signal_number == signal.SIGINT else 0

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        for known, handler in self._previous.items():
            signal.signal(known, handler)
