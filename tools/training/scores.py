"""Light metrics while a run trains: do its samples come nearer to its training clips?

Every train.metrics_every steps the first average samples train.metrics_count videos, always from
the same noise, and their features are compared with those of twice as many training clips, drawn
and prepared as training draws and prepares them. The scores compare steps of one run, or runs of
one recipe, and nothing else, and their names say so. metrics.py makes those for tables.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import RunConfig
from datasets.clips import ClipDataset
from datasets.transforms import to_uint8
from models.interface import Method, VideoNoise
from tools.metrics.extractors.registry import build_extractor
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.frechet import Summary, distance
from tools.metrics.uncertainty import FEWEST_TO_SPLIT, floor
from tools.metrics.weights import WeightsOptions
from tools.training.logging import RunLog
from tools.training.losses import LossTable
from tools.training.runtime import Runtime
from tools.training.state import TrainState
from tools.training.stopping import StoppedError, StopRequest

FILE = "metrics.csv"  # in the run folder
STREAM = 2  # random numbers of our own, beside the streams of datasets.sampling
IMAGES = 4  # frames of a clip that are compared as single images
LABEL = "not_comparable"  # in the name of every score
NOTE = (
    "{caveats}. Few videos, at the sampler's preview settings: compare steps of one run, or runs "
    "of one recipe. The floor is the same score of training clips against other training clips."
)

logger = logging.getLogger(__name__)


class TrainingScores:
    """Measures when it is due. All processes share the work, the main one writes."""

    def __init__(self, config: RunConfig, runtime: Runtime, step: int) -> None:
        """Drop the rows of metrics.csv after `step`: a run going on writes them again.

        Raises:  FileNotFoundError, ValueError now and not after hours, when the extractor's
                 package or the data's videos are missing
        """
        self.config, self.runtime = config, runtime
        self._real: dict[str, Features] = {}
        self._floors: dict[str, float] = {}
        self._extractors: list[FeatureExtractor] = []
        self._table: LossTable | None = None
        if not config.train.metrics_every:
            return
        self._dataset = ClipDataset(replace(config.data, images_per_clip=0), config.clip)
        options = WeightsOptions(cache=Path(config.output))  # nothing is downloaded
        family, frames = config.train.metrics_extractor, config.clip.frames
        self._extractors = [
            build_extractor(f"{family}-{kind}", options, runtime.device, frames=frames)
            for kind in ("clips", "images")
        ]
        if runtime.is_main:
            self._table = LossTable(Path(config.output) / FILE, step)

    def measure_if_due(
        self, method: Method, state: TrainState, log: RunLog, stop: StopRequest
    ) -> None:
        """Every train.metrics_every steps and at the end. A request to stop ends it.

        Training does not notice: its random numbers are set anew before every step, and nothing
        that it owns is changed.
        """
        settings, step = self.config.train, state.step
        last = step == settings.steps
        if not settings.metrics_every or (step % settings.metrics_every and not last):
            return
        log.pause()
        began = time.perf_counter()
        try:
            scores = self._measure(method, state, stop)
        except StoppedError:
            logger.info("no metrics of step %d, for the run is to stop", step)
        else:
            self._write(step, {**scores, "seconds": time.perf_counter() - began}, log)
        log.resume()

    def _measure(self, method: Method, state: TrainState, stop: StopRequest) -> dict[str, float]:
        if not self._real:
            self._real = self._training_features(stop)
            self._floors = _floors(self._real)
        fake = self._generated_features(method, state, stop)
        family = f"{self.config.train.metrics_extractor}_{LABEL}"
        scores = {}
        for kind, real in self._real.items():
            scores[f"{kind}_{family}"] = frechet(real, fake[kind])
            if kind in self._floors:
                scores[f"{kind}_floor_{family}"] = self._floors[kind]
        return scores

    def _training_features(self, stop: StopRequest) -> dict[str, Features]:
        seed, dataset = self.config.train.seed, self._dataset
        count = 2 * self.config.train.metrics_count  # so that halves are as large as the samples
        videos = clips_of_videos(len(dataset), count, seed)

        def read(numbers: Sequence[int]) -> Tensor:
            clips = []
            for number in numbers:
                stop.check()
                choices = _generator(seed, 1 + number)
                clips.append(dataset.draw(videos[number], choices)["videos"])
            return torch.stack(clips)

        return self._shared(videos, read, stop)

    def _generated_features(
        self, method: Method, state: TrainState, stop: StopRequest
    ) -> dict[str, Features]:
        networks = state.averages[0].networks

        def sample(numbers: Sequence[int]) -> Tensor:
            noise = VideoNoise(numbers, self.runtime.device)
            with torch.no_grad(), self.runtime.autocast():
                videos = method.sample(networks, noise, method.preview_sampling(), stop.check)
            return to_uint8(videos.float().nan_to_num(-1))

        return self._shared(list(range(self.config.train.metrics_count)), sample, stop)

    def _shared(
        self,
        videos: Sequence[int],
        clips: Callable[[Sequence[int]], Tensor],
        stop: StopRequest,
    ) -> dict[str, Features]:
        """Features of clips that all processes make together, the same on each of them.

        Inputs:  videos  which video each clip is of, ascending
                 clips   makes those of some numbers: (B, F, 3, H, W) uint8
        Raises:  StoppedError on every process when one was asked to stop
        """
        runtime, size = self.runtime, self.config.train.batch_size  # what training has memory for
        widths = [extractor.outputs["features"] for extractor in self._extractors]
        rows = [
            torch.zeros(len(videos), count, w) for count, w in zip((1, IMAGES), widths, strict=True)
        ]
        for start in range(0, len(videos), size * runtime.world_size):
            first = start + runtime.rank * size
            numbers = list(range(first, min(first + size, len(videos))))
            stopped = False
            try:
                if numbers:
                    self._extract(clips(numbers), [each[first : first + size] for each in rows])
            except StoppedError:
                stopped = True
            if _anywhere(stopped, runtime):
                raise StoppedError
        _, groups = torch.unique(torch.tensor(videos), return_inverse=True)
        names = [str(video) for video in sorted(set(videos))]
        return {
            kind: Features(
                {"features": _sum(values, runtime).flatten(0, 1)},
                groups.repeat_interleave(values.shape[1]),
                names,
            )
            for kind, values in zip(("fvd_like", "fid_like"), rows, strict=True)
        }

    def _extract(self, videos: Tensor, rows: Sequence[Tensor]) -> None:
        """Fill (B, 1, width) and (B, IMAGES, width) with the features of clips and of frames."""
        of_clips, of_images = self._extractors
        rows[0].copy_(of_clips(videos)["features"][:, None])
        frames = torch.linspace(0, videos.shape[1] - 1, IMAGES).round().long().tolist()
        for column, frame in enumerate(frames):
            rows[1][:, column] = of_images(videos[:, frame, None])["features"]

    def _write(self, step: int, scores: Mapping[str, float], log: RunLog) -> None:
        if self._table is None:
            return
        caveats = dict.fromkeys(extractor.caveat for extractor in self._extractors)
        note = NOTE.format(caveats="; ".join(caveats))
        self._table.write(step, scores)
        log.add_scores(step, scores, note)
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        logger.info("metrics of step %d: %s (%s)", step, numbers, "; ".join(caveats))


def frechet(real: Features, fake: Features) -> float:
    """The Frechet distance of two sets of features."""
    return distance(Summary.of(real.values), Summary.of(fake.values))


def clips_of_videos(videos: int, count: int, seed: int) -> list[int]:
    """Which video each of `count` training clips is of, ascending; as evenly as can be."""
    order = _generator(seed, 0).permutation(videos)
    return sorted(int(order[number % videos]) for number in range(count))


def _floors(real: Mapping[str, Features]) -> dict[str, float]:
    """Training clips against those of other videos, where there are enough videos."""
    return {
        kind: floor(features, frechet).value
        for kind, features in real.items()
        if len(features.videos) >= FEWEST_TO_SPLIT
    }


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, STREAM, number])


def _anywhere(stopped: bool, runtime: Runtime) -> bool:
    """Whether any process was asked to stop."""
    if not runtime.is_distributed:
        return stopped
    flag = torch.tensor([int(stopped)], device=runtime.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def _sum(values: Tensor, runtime: Runtime) -> Tensor:
    """The sum over processes; where all but one hold zeros, exactly what that one holds."""
    if not runtime.is_distributed:
        return values
    shared = values.to(runtime.device)
    dist.all_reduce(shared)
    return shared.cpu()
