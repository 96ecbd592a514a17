"""How far a job is: a bar on a terminal, a plain line now and then in a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class VideoProgress:
    """Counts videos, and parts of videos while a batch goes through its steps."""

    def __init__(
        self, total: int, label: str, shown: bool = True, part: str = "step", brief: bool = False
    ) -> None:
        """`part` is what a video has several of: its steps, its frames. `brief` says nothing at
        the end of what took less time than one line would come in."""
        self.total = total
        self.label = label
        self.part = part
        self.brief = brief
        self.shown = shown and total > 0
        self.finished = 0  # whole videos
        self.started = self.last_line = time.monotonic()
        self.bar: tqdm[None] | None = None
        if self.shown and sys.stderr.isatty():
            layout = "{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
            self.bar = tqdm(total=float(total), desc=label, bar_format=layout)

    def __enter__(self) -> VideoProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, videos: int, done: int, steps: int) -> None:
        """`videos` videos that are made together have gone through `done` of `steps` steps."""
        self._show(self.finished + videos * done / max(steps, 1), f"{self.part} {done}/{steps}")

    def finish(self, videos: int) -> None:
        """`videos` more videos are complete."""
        self.finished += videos
        self._show(float(self.finished), "", final=self.finished == self.total)

    def _show(self, position: float, detail: str, final: bool = False) -> None:
        if self.bar is not None:
            self.bar.n = position
            done = f"{self.label}: {self.finished}/{self.total} videos {detail}".rstrip()
            self.bar.set_description_str(done, refresh=False)
            self.bar.refresh()
        elif self.shown and self._is_due(final):
            self.last_line = time.monotonic()
            sys.stderr.write(self._line(position, detail) + "\n")
            sys.stderr.flush()

    def _is_due(self, final: bool) -> bool:
        spoken = self.last_line > self.started or not self.brief
        return (final and spoken) or time.monotonic() - self.last_line >= LINE_EVERY

    def _line(self, position: float, detail: str) -> str:
        elapsed = time.monotonic() - self.started
        left = elapsed * (self.total - position) / position if position else float("inf")
        parts = [f"{self.label}: {self.finished}/{self.total} videos", detail]
        parts.append(f"{tqdm.format_interval(elapsed)} passed")
        if 0 < left < float("inf"):
            parts.append(f"about {tqdm.format_interval(left)} left")
        return ", ".join(part for part in parts if part)
