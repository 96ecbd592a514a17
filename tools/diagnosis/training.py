"""Train and judge the seeds of a row, one after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.diagnosis import REST, DiagnosisConfig
from configs.load import to_yaml
from datasets.labelled import ABNORMAL, NORMAL
from datasets.sampling import naming_lost_workers
from tools.diagnosis.baselines import trivial_rows
from tools.diagnosis.checkpoint import SeedFiles
from tools.diagnosis.clips import ClipReader
from tools.diagnosis.evaluation import judge_videos, write_predictions
from tools.diagnosis.feeding import Steps, StepViews
from tools.diagnosis.learner import Learner
from tools.diagnosis.measures import scores
from tools.diagnosis.preparation import (
    Split,
    Videos,
    check_lengths,
    find_videos,
    open_reader,
    split,
)
from tools.diagnosis.report import write_report
from tools.diagnosis.rows import read_row
from tools.diagnosis.run_log import RowLog, clips_per_step, synchronise
from tools.training.environment import describe_environment
from tools.training.files import whole_file
from tools.training.lock import only_process
from tools.training.randomness import reseed
from tools.training.runtime import Runtime, start_runtime
from tools.training.stopping import StoppedError, StopRequest

logger = logging.getLogger(__name__)


def train_row(config: DiagnosisConfig) -> int:
    """Train all seeds that are not done yet, until somebody asks to stop; the exit status.

    Raises:  FileNotFoundError, ValueError in one line for settings and videos that cannot be used
    """
    with (
        start_runtime(config.train.precision) as runtime,
        only_process(Path(config.output), runtime),
        RowLog(config, runtime) as log,
        naming_lost_workers(),
        StopRequest(runtime) as stop,
    ):
        videos = find_videos(config)
        row = Row(config, runtime, log, stop, videos, open_reader(config))
        check_lengths(videos, config, row.reader)
        row.describe()
        for done, seed in enumerate(config.seeds):
            if not row.train_seed(seed, done):
                logger.info("stopped as asked; run the same command to go on")
                return stop.exit_status
        if config.report and runtime.is_main:
            row.report()
    return 0


@dataclass
class Progress:
    """What is saved beside the learner: the time it took, and the best step by the test list
    (which only the published choice looks at)."""

    seconds: float = 0.0
    best_step: int = 0
    best_f1: float = -1.0
    best: list[float] = field(default_factory=list)


@dataclass
class Row:
    """What the seeds of a row have in common."""

    config: DiagnosisConfig
    runtime: Runtime
    log: RowLog
    stop: StopRequest
    videos: Videos
    reader: ClipReader

    def describe(self) -> None:
        """Say what is about to be compared, and keep the settings."""
        config = self.config
        if not self.runtime.is_main:
            return
        with whole_file(Path(config.output) / "config.yaml") as file:
            file.write(to_yaml(config).encode())
        if config.compat == "endora":
            logger.info(
                "compat=endora: as published, with its flaws: the weak view is taught, short "
                "videos repeat their last frame, the average hardly moves, and the best epoch "
                "is chosen on the test list"
            )
        if config.algorithm != config.method:
            logger.info("no unlabelled videos: %s becomes supervised training", config.algorithm)
        if config.method == config.algorithm == "supervised" and config.pools:
            logger.info("algorithm=supervised leaves the unlabelled videos aside")
        logger.info(
            "%s: %d seeds of %d steps, %d of %d train videos labelled, %d in folders without "
            "labels, %d test videos",
            config.method,
            len(config.seeds),
            config.steps,
            2 * config.data.labelled_per_class,
            len(self.videos.train),
            len(self.videos.pool),
            len(self.videos.test),
        )

    def report(self) -> None:
        """Write the table of all seeds, with what trivial rules reach."""
        config = self.config
        row = read_row(Path(config.output), row_name(config), config.seeds)
        trivial = trivial_rows(config, self.videos, self.reader)
        write_report(Path(config.output), [row, *trivial])
        logger.info("table and page: %s", Path(config.output) / "report.html")

    def train_seed(self, seed: int, done: int) -> bool:
        """Train and judge one seed, `done` being those before it; false when asked to stop."""
        chosen = split(self.videos, self.config, seed)
        files = SeedFiles(self.config, seed, chosen.digest, self.runtime)
        finished = files.is_finished()
        self.runtime.check_equal(
            int(finished), f"{files.folder}: the processes see different files"
        )
        if finished:
            logger.info("seed %d: done before", seed)
            return True
        reseed(seed, 0, 0)  # the same new networks on every process
        learner = Learner(self.config, chosen, self.runtime)
        progress = Progress(**files.load(learner))
        if learner.imported and done == 0:
            logger.info(
                "%s: %d spatial and %d temporal tensors, sha256 %s",
                self.config.network.weights,
                learner.imported.spatial,
                learner.imported.temporal,
                learner.imported.checksum,
            )
        self.log.begin(seed, files.folder, learner.step, done)
        self._learn(seed, learner, chosen, files, progress)
        if learner.step < learner.steps:
            return False
        try:
            probabilities = self._final(seed, learner, progress)
        except StoppedError:
            return False
        if self.runtime.is_main:
            self._write(seed, learner, chosen, files, progress, probabilities)
        self.runtime.barrier()
        return True

    def _learn(
        self, seed: int, learner: Learner, chosen: Split, files: SeedFiles, progress: Progress
    ) -> None:
        """Take steps until all are done or somebody asks to stop, and save."""
        config, save_every = self.config, self.config.train.save_every
        views = StepViews(config, chosen, seed, self.reader, self.runtime)
        with self.stop.shielded():
            steps = Steps(
                views, learner.step, learner.steps, config.data.workers, self.runtime.device
            )
        began = time.perf_counter()
        try:
            while learner.step < learner.steps and not self.stop.agreed():
                self.stop.share()
                batch = next(steps)
                # After the data, for a loader may use up random numbers when it starts.
                reseed(seed, self.runtime.rank, learner.step)
                self.log.add(learner.take(batch))
                self.log.write_if_due(learner)
                if self._is_judged_now(learner):
                    self.log.pause()
                    paused = time.perf_counter()
                    self._keep_best(seed, learner, progress)
                    began += time.perf_counter() - paused
                    self.log.resume()
                if learner.step % save_every == 0 and learner.step < learner.steps:
                    progress.seconds, began = self._timed(progress, began)
                    files.save(learner, asdict(progress))
        finally:
            steps.close()
        progress.seconds, _ = self._timed(progress, began)
        files.save(learner, asdict(progress))

    def _timed(self, progress: Progress, began: float) -> tuple[float, float]:
        """Seconds of training so far, and now."""
        synchronise(self.runtime.device)
        now = time.perf_counter()
        return progress.seconds + now - began, now

    def _is_judged_now(self, learner: Learner) -> bool:
        ends = learner.ends_epoch() or learner.step == learner.steps
        return self.config.evaluate.choose == "best_on_test" and ends

    def _keep_best(self, seed: int, learner: Learner, progress: Progress) -> None:
        """The published choice: the epoch with the highest F1 on the test list."""
        # Not cut short by a request to stop: a step of this kind is saved with what it scored.
        probabilities = self._judge(seed, learner, lambda: None)
        measured = self._scores(probabilities)
        self.log.write_scores(learner.step, measured)
        if measured["f1"] > progress.best_f1:
            progress.best_step, progress.best_f1 = learner.step, measured["f1"]
            progress.best = probabilities.tolist()

    def _final(self, seed: int, learner: Learner, progress: Progress) -> Tensor:
        if self.config.evaluate.choose == "best_on_test":
            return torch.tensor(progress.best, dtype=torch.float64)
        progress.best_step = learner.step
        # One of several processes must not leave the others waiting for its part.
        each = (lambda: None) if self.runtime.is_distributed else self.stop.check
        return self._judge(seed, learner, each)

    def _judge(self, seed: int, learner: Learner, each: Callable[[], None]) -> Tensor:
        network = learner.average.networks["classifier"]
        published = self.config.evaluate.supervised == "training_mode"
        if published and self.config.method == "supervised":
            network = learner.classifier  # in training mode, as published
            reseed(seed, self.runtime.rank, learner.step)
        with self.stop.shielded():
            return judge_videos(
                self.config, network, self.videos.test, self.reader, self.runtime, each
            )

    def _scores(self, probabilities: Tensor) -> dict[str, float]:
        labels = torch.tensor([video.label for video in self.videos.test])
        return scores(labels.numpy(), probabilities.numpy())

    def _write(
        self,
        seed: int,
        learner: Learner,
        chosen: Split,
        files: SeedFiles,
        progress: Progress,
        probabilities: Tensor,
    ) -> None:
        config, test = self.config, self.videos.test
        write_predictions(
            files.folder / "predictions.csv", Path(config.data.folder), test, probabilities
        )
        measured = self._scores(probabilities)
        imported = asdict(learner.imported) if learner.imported else None
        result: dict[str, Any] = {
            "seed": seed,
            "method": config.method,
            "steps": learner.steps,
            "judged_step": progress.best_step,
            "scores": measured,
            "counts": {
                "labelled": len(chosen.labelled),
                "labelled_abnormal": sum(v.label == ABNORMAL for v in chosen.labelled),
                "unlabelled": 0 if config.method == "supervised" else len(chosen.pool),
                "test": len(test),
                "test_normal": sum(v.label == NORMAL for v in test),
                "test_abnormal": sum(v.label == ABNORMAL for v in test),
            },
            "weights": imported and {"file": config.network.weights, **imported},
            "seconds": progress.seconds,
            "clips_per_second": learner.steps * clips_per_step(config) / progress.seconds,
            "environment": describe_environment(self.runtime),
        }
        files.finish(learner, result)
        logger.info(
            "seed %d: F1 %.3f, AUROC %.3f, balanced accuracy %.3f on %d test videos",
            seed,
            measured["f1"],
            measured["auroc"],
            measured["balanced_accuracy"],
            len(test),
        )


def row_name(config: DiagnosisConfig) -> str:
    """What a table calls the row of these settings."""
    if config.method == "supervised":
        name = "supervised"
    else:
        pools = " + ".join("rest of train" if p == REST else Path(p).name for p in config.pools)
        name = f"{config.method}, {pools}"
    return f"{name}, compat=endora" if config.compat == "endora" else name
