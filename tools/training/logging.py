"""What a run tells while it works: console, log.txt, losses.csv and TensorBoard."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from configs.errors import USER_ERRORS, one_line
from configs.load import to_yaml
from configs.schema import RunConfig
from tools.training.environment import describe_environment
from tools.training.files import naming
from tools.training.losses import LossTable
from tools.training.runtime import Runtime

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

OURS = ("train", "configs", "datasets", "diffusion", "models", "tools")  # loggers that may inform

BAR_COLUMNS = 60  # of a terminal: the bar itself, its counts and times

logger = logging.getLogger(__name__)


class RunLog:
    """The log of one run. Every process measures, the main one writes.

    `with RunLog(config, runtime) as log:`, then `log.begin(state.step)` once, `log.add(...)` for
    every phase and `log.write_if_due(...)` after every step. Values are means over the steps
    since the last line and over the processes.
    """

    def __init__(self, config: RunConfig, runtime: Runtime) -> None:
        self.config = config
        self.runtime = runtime
        self.folder = Path(config.output)
        self._console = Console(runtime, self.folder / "log.txt")
        self._table: LossTable | None = None
        self._board: SummaryWriter | None = None
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._clock = Clock()

    def __enter__(self) -> RunLog:
        self._console.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, OSError):  # the disk may be full
            bug = not isinstance(error, USER_ERRORS)
            only_file = {"only_file": True}  # the command itself tells the terminal
            logger.error("stopped: %s", one_line(error), exc_info=bug, extra=only_file)
        if self._board is not None:
            self._board.close()
        self._console.close()

    def begin(self, step: int) -> None:
        """Describe the run in its folder, and drop what was logged after `step`."""
        self._clock.start(step)
        if not self.runtime.is_main:
            return
        environment = describe_environment(self.runtime)
        with naming(self.folder):
            (self.folder / "config.yaml").write_text(to_yaml(self.config))
            text = json.dumps(environment, indent=2)
            (self.folder / "environment.json").write_text(text + "\n")
            self._table = LossTable(self.folder / "losses.csv", step)
        self._board = open_board(self.folder / "tensorboard", step)
        logger.info(
            "%s step %d of %d on %d x %s%s, commit %s",
            "from" if step == 0 else "going on from",
            step,
            self.config.train.steps,
            self.runtime.world_size,
            environment["device"],
            " in bf16" if self.runtime.bf16 else "",
            environment["git_commit"],
        )
        self._console.start_bar(step, self.config.train.steps)

    def add(self, measured: Mapping[str, Tensor]) -> None:
        """Count scalars in; they stay on their device until a line is due."""
        for name, value in measured.items():
            known = name in self._sums
            self._sums[name] = self._sums[name] + value if known else value.detach().clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def write_if_due(self, step: int, clips: int, rates: Mapping[str, float]) -> None:
        """Write a line every train.log_every steps and after the last one.

        `clips` were seen so far; `kimg` in the line are thousands of their frames.
        """
        train = self.config.train
        self._console.move_bar(step)
        if step % train.log_every and step != train.steps:
            return
        means = self.runtime.mean({n: s / self._counts[n] for n, s in self._sums.items()})
        self._sums, self._counts = {}, {}
        items = train.batch_size * train.accumulation * self.runtime.world_size
        seconds = self._clock.seconds_per_step(step)
        values = {
            **means,
            **{f"learning_rate/{name}": rate for name, rate in rates.items()},
            "kimg": clips * self.config.clip.frames / 1000,
            "clips_per_second": items / seconds,
            "memory_gib": peak_memory(self.runtime.device),
        }
        if self.runtime.is_main:
            self._write(step, values, remaining=(train.steps - step) * seconds)

    def add_preview(self, step: int, strip: Tensor) -> None:
        """Show a picture (3, H, W) uint8 in TensorBoard."""
        if self._board is not None:
            self._board.add_image("preview", strip, step)

    def add_scores(self, step: int, scores: Mapping[str, float], note: str) -> None:
        """Show light metrics in TensorBoard, with what has to be known to read them."""
        if self._board is not None:
            with naming(self.folder):
                for name, value in scores.items():
                    self._board.add_scalar(f"metrics/{name}", value, step)
                self._board.add_text("metrics/note", note, step)

    def pause(self) -> None:
        """Leave out of the throughput what happens until the next step (previews, saving)."""
        self._clock.pause()

    def resume(self) -> None:
        """Count the time again."""
        self._clock.resume()

    def _write(self, step: int, values: Mapping[str, float], remaining: float) -> None:
        assert self._table is not None
        with naming(self.folder):
            self._table.write(step, values)
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        self._console.line(f"step {step}/{self.config.train.steps}", values, remaining)


class Clock:
    """Seconds per step since the last reading, without the pauses."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, step: int) -> None:
        """Begin at a step."""
        self._step = step
        self._began = time.perf_counter()
        self._paused_at = self._began

    def pause(self) -> None:
        """Stop counting."""
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        """Go on counting."""
        self._began += time.perf_counter() - self._paused_at

    def seconds_per_step(self, step: int) -> float:
        """The mean duration of the steps since the last reading."""
        seconds = max(1e-9, time.perf_counter() - self._began) / max(1, step - self._step)
        self.start(step)
        return seconds


class Console:
    """Lines in log.txt and on standard error; on a terminal a progress bar in place of lines."""

    def __init__(self, runtime: Runtime, path: Path) -> None:
        self.runtime = runtime
        self.path = path
        self._bar: tqdm[Any] | None = None
        self._handlers: list[logging.Handler] = []

    def open(self) -> None:
        """Send what our modules log to the run's file and to standard error."""
        level = logging.INFO if self.runtime.is_main else logging.WARNING
        self._handlers = [_ConsoleHandler(self)]
        if self.runtime.is_main:
            with naming(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handlers.append(_LogFile(self.path))
        for handler in self._handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            handler.setLevel(level)
        for name in OURS:
            ours = logging.getLogger(name)
            ours.setLevel(logging.INFO)
            for handler in self._handlers:
                ours.addHandler(handler)

    def close(self) -> None:
        """Give back the loggers as they were."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        for name in OURS:
            for handler in self._handlers:
                logging.getLogger(name).removeHandler(handler)
        for handler in self._handlers:
            handler.close()

    def start_bar(self, step: int, steps: int) -> None:
        """Show a bar if a person is looking."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def move_bar(self, step: int) -> None:
        """Show how far the run is."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def line(self, title: str, values: Mapping[str, float], remaining: float) -> None:
        """Report a step: in the bar and in the file, or as a line in both."""
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            columns = shutil.get_terminal_size().columns
            self._bar.set_postfix(values_that_fit(values, columns - BAR_COLUMNS), refresh=False)
        text = f"{title}  {numbers}  remaining {duration(remaining)}"
        logger.info("%s", text, extra={"only_file": self._bar is not None})

    def show(self, text: str) -> None:
        """Write a line to standard error, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "only_file", False):
            self.console.show(self.format(record))


class _LogFile(logging.FileHandler):
    """A log file whose failure (disk full) stops the run, as it would stop a checkpoint too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.path = path

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            with naming(self.path):
                raise error
        super().handleError(record)


def peak_memory(device: torch.device) -> float:
    """GiB: the most that tensors took on a GPU, or the most that this process took on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def values_that_fit(values: Mapping[str, float], columns: int) -> dict[str, str]:
    """The first values, as text, that a progress bar has so many columns for. Those whose name
    has a slash belong to one network and are left to the file."""
    shown: dict[str, str] = {}
    for name in (name for name in values if "/" not in name):
        text = f"{values[name]:.3g}"
        columns -= len(f", {name}={text}")
        if columns < 0:
            break
        shown[name] = text
    return shown


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 0:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def open_board(folder: Path, step: int) -> SummaryWriter | None:
    """TensorBoard's files in a folder, less what was logged after `step`.

    None where the package is not installed.
    """
    try:
        # Here, for it takes seconds to import and only this process needs it.
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("no TensorBoard files: the package tensorboard is not installed")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
