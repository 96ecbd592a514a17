"""What a row tells while it works: console, log.txt, and for each seed history.csv and
TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from configs.diagnosis import DiagnosisConfig
from configs.errors import USER_ERRORS, one_line
from tools.diagnosis.learner import Learner, Measured
from tools.diagnosis.pseudo_labels import rates
from tools.training.files import naming
from tools.training.logging import Clock, Console, open_board, peak_memory
from tools.training.losses import LossTable
from tools.training.runtime import Runtime

ONE_SIDED = 0.95  # share of one class among pseudo-labels that is worth a warning
CURVES = ("f1", "auroc", "balanced_accuracy")  # of the test list, where it is looked at on the way
ENOUGH = 20  # pseudo-labels between two lines to say so

logger = logging.getLogger(__name__)


class RowLog:
    """The log of one row. Every process measures, the main one writes.

    `with RowLog(config, runtime) as log:`, then `log.begin(...)` for every seed, `log.add(...)`
    and `log.write_if_due(...)` after every step. Values are means over the steps since the last
    line, and over the processes.
    """

    def __init__(self, config: DiagnosisConfig, runtime: Runtime) -> None:
        self.config, self.runtime = config, runtime
        self._console = Console(runtime, Path(config.output) / "log.txt")
        self._table: LossTable | None = None
        self._board: Any = None  # TensorBoard's writer
        self._clock = Clock()
        self._before = 0  # steps of the seeds before this one
        self._seed = 0
        self._warned = False
        self._forget()

    def __enter__(self) -> RowLog:
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
        self.end_seed()
        self._console.close()

    def start_bar(self, seeds_done: int) -> None:
        """Show how far all seeds together are."""
        steps = self.config.steps
        self._console.start_bar(seeds_done * steps, len(self.config.seeds) * steps)

    def begin(self, seed: int, folder: Path, step: int, seeds_done: int) -> None:
        """Open the files of a seed, and drop what was logged after `step`."""
        self.end_seed()
        self._seed, self._before = seed, seeds_done * self.config.steps
        self._warned = False
        self._forget()
        self._clock.start(step)
        if self.runtime.is_main:
            with naming(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self._table = LossTable(folder / "history.csv", step)
            self._board = open_board(folder / "tensorboard", step)

    def end_seed(self) -> None:
        """Close the files of a seed."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def add(self, measured: Measured) -> None:
        """Count the values of a step in; they stay on their device until a line is due."""
        self._steps += 1
        for sums, values in (
            (self._values, measured.values),
            (self._pseudo, measured.pseudo),
        ):
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value.clone()

    def write_if_due(self, learner: Learner) -> None:
        """Write a line every train.log_every steps and after the last one."""
        step, steps = learner.step, learner.steps
        self._console.move_bar(self._before + step)
        if step % self.config.train.log_every and step != steps:
            return
        means = self.runtime.mean({n: s / self._steps for n, s in self._values.items()})
        pseudo = self.runtime.mean(self._pseudo)
        self._forget()
        seconds = self._clock.seconds_per_step(step)
        values = {
            **means,
            **rates(pseudo),
            "learning_rate": learner.rate(),
            "clips_per_second": clips_per_step(self.config) / seconds,
            "memory_gib": peak_memory(self.runtime.device),
        }
        self._warn(pseudo)
        if self.runtime.is_main:
            left = len(self.config.seeds) * steps - self._before - step
            self._write(step, f"seed {self._seed} step {step}/{steps}", values, left * seconds)

    def write_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write what the test videos say of a step."""
        if self.runtime.is_main:
            self._write(step, "", {f"test_{name}": scores[name] for name in CURVES}, 0)

    def pause(self) -> None:
        """Leave out of the throughput what happens until the next step."""
        self._clock.pause()

    def resume(self) -> None:
        """Count the time again."""
        self._clock.resume()

    def _forget(self) -> None:
        self._steps = 0
        self._values: dict[str, Tensor] = {}
        self._pseudo: dict[str, Tensor] = {}

    def _warn(self, pseudo: Mapping[str, float]) -> None:
        accepted = pseudo.get("accepted", 0.0) * self.runtime.world_size
        if self._warned or not self.runtime.is_main or accepted < ENOUGH:
            return
        abnormal = rates(dict(pseudo))["pseudo_abnormal"]
        if max(abnormal, 1 - abnormal) > ONE_SIDED:
            self._warned = True
            logger.warning(
                "seed %d: %.0f%% of the pseudo-labels that count are of one class (%s); the "
                "unlabelled videos may be so, or the network has settled on one answer",
                self._seed,
                100 * max(abnormal, 1 - abnormal),
                "abnormal" if abnormal > 0.5 else "normal",
            )

    def _write(self, step: int, title: str, values: Mapping[str, float], left: float) -> None:
        assert self._table is not None
        with naming(self._table.path):
            self._table.write(step, values)
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        if title:
            self._console.line(title, values, left)


def clips_per_step(config: DiagnosisConfig) -> int:
    """Clips that one step learns from."""
    others = 0 if config.method == "supervised" else config.train.unlabelled_batch
    return config.train.labelled_batch + others


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told, so that time can be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
