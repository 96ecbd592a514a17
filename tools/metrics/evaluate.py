"""Sets of generated videos against one set of real ones: extraction, scores, cautions."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from configs.errors import one_line
from tools.metrics import cautions, scores
from tools.metrics.catalogue import MEMORISATION, METRICS
from tools.metrics.choices import Choices, RealSide, with_real_stride
from tools.metrics.closest_pairs import search, write_contact_sheet
from tools.metrics.extraction import Extraction, Side, extract
from tools.metrics.facts import caveat_of, described, environment, facts_of, run_folder
from tools.metrics.features import FeatureExtractor, Features
from tools.metrics.frozen import frozen_name
from tools.metrics.memorisation import Memorisation
from tools.metrics.networks import FROZEN, Networks, build_networks
from tools.metrics.result import (
    Caution,
    Count,
    Level,
    Result,
    Score,
    SetResult,
    merged_cautions,
)
from tools.metrics.sets import Generated, VideoSet
from tools.training.runtime import Runtime

logger = logging.getLogger(__name__)


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
    networks, found = build_networks(choices, runtime.device)
    return _Evaluation(choices, runtime, names, networks, found).run(generated, real, started)


@dataclass
class _Evaluation:
    choices: Choices
    runtime: Runtime
    names: Sequence[str]
    networks: Networks
    found: list[Caution] = field(default_factory=list)
    levels: dict[str, Mapping[str, Level]] = field(default_factory=dict)

    @property
    def _plain_metrics(self) -> list[str]:
        """Those that are computed from the features of the protocol's clips and frames."""
        return [name for name in self.networks.metrics if name != MEMORISATION]

    def run(
        self, generated: Sequence[Generated], real: RealSide | None, started: float
    ) -> Result | None:
        choices = self.choices
        real_found = self._extract(real.set, "real", self.networks.plain()) if real else None
        if real_found is not None and real is not None:
            self._check_side(real.set, real_found)
        rows: list[SetResult] = []
        for name, each in zip(self.names, generated, strict=True):
            fake = self._extract(each.set, "fake", self.networks.with_frozen())
            self._check_side(each.set, fake)
            self._check_sizes(each.set, fake, real_found)
            if self.runtime.is_main:
                row = self._scored(name, each.set, fake, real_found)
                rows.append(replace(row, step=each.step, run=run_folder(each)))
                self._caution(name, each, row, real_found, real)
            if MEMORISATION in self.networks.metrics and real is not None:
                copies = self._search(name, each, real.set)
                if copies is not None and rows:
                    rows[-1] = self._with_memorisation(rows[-1], each.set, real, copies)
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
            extractors={each.name: described(each) for each in self.networks.plain()},
            cautions=merged_cautions(self.found, [row.name for row in rows if not row.held_out]),
            environment=environment(self.runtime),
            seconds=time.monotonic() - started,
        )

    # ------------------------------------------------------------ features

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
                    f"{videos.path}: the limits of the protocol leave {len(features.videos)} of "
                    f"{len(videos)} videos, and a set needs at least two; raise max_real_clips, "
                    f"max_fake_clips, max_real_frames or max_fake_frames with --set"
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
        for metric in self._plain_metrics:
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
        extractor = self.networks.of(metric)
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
                caveat=caveat_of(extractor),
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
        name = self.networks.of(metric).name
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
            other = self._extract(real.set, "real", self.networks.plain(), seed) if real else None
            for each, found in zip(generated, values, strict=True):
                fake = self._extract(each.set, "fake", self.networks.with_frozen(), seed)
                if self.runtime.is_main:
                    found.append(self._values(fake, other))
        return values

    def _values(self, fake: Extraction, real: Extraction | None) -> dict[str, float]:
        """The values alone; a metric that cannot be computed has said so before."""
        values: dict[str, float] = {}
        for metric in self._plain_metrics:
            with contextlib.suppress(ValueError):
                sides = self._sides(metric, fake, real)
                numbers = scores.compute(metric, *sides, self.choices.protocol, quick=True)
                values |= {number.name: number.value for number in numbers}
        return values

    def _held_out(self, videos: VideoSet, real: Extraction | None) -> list[SetResult]:
        """Real videos in the place of generated ones: what a perfect generator would get."""
        found = self._extract(videos, "real", self.networks.with_frozen())
        self._check_side(videos, found)
        self._check_sizes(videos, found, real)
        if not self.runtime.is_main:
            return []
        return [replace(self._scored("held-out real", videos, found, real), held_out=True)]

    # ------------------------------------------------------------ what to know

    def _leave_out(self, metric: str, error: Exception, name: str) -> None:
        if self.choices.needs_scores:
            raise error
        label = METRICS[metric].kinds[0].label
        reason = one_line(error).removeprefix(f"{label}: ")
        self.found.append(Caution(f"{label} is left out: {reason}", (name,)))

    # ------------------------------------------------------------ copies of training clips

    def _search(self, name: str, generated: Generated, real: VideoSet) -> Memorisation | None:
        """On every process; mirrored clips too, since training may have mirrored them.

        Copies move as the generator was trained, at whatever stride the protocol reads real clips.
        """
        choices, protocol = self.choices, self.choices.protocol
        if generated.training_stride is not None:
            stride = generated.training_stride * protocol.fake_stride
            protocol = replace(protocol, real_stride=stride)
        try:
            return search(
                generated.set,
                real,
                protocol,
                self.networks.of(MEMORISATION),
                flips=True,
                cache=choices.cache,
                runtime=self.runtime,
                batch_size=choices.batch_size,
                workers=choices.workers,
            )
        except ValueError as error:
            self._leave_out(MEMORISATION, error, name)
            return None

    def _with_memorisation(
        self, row: SetResult, videos: VideoSet, real: RealSide, copies: Memorisation
    ) -> SetResult:
        extractor = self.networks.of(MEMORISATION)
        if not real.is_training_set:
            self.found.append(Caution(cautions.OTHER_SET_NOTE))
        score = Score(
            metric=MEMORISATION,
            name=MEMORISATION,
            value=copies.share_below(0.05),
            deviation=None,
            deviation_over="",
            real=Count(copies.training_videos, len(copies.reference), "clips"),
            fake=Count(copies.generated_videos, len(copies.pairs), "clips"),
            level=Level("expected", 0.05, None, copies.training_videos),
            extractor=extractor.name,
            fingerprint=extractor.fingerprint,
            comparable=extractor.comparable,
            caveat=caveat_of(extractor),
            publishable=cautions.is_publishable(
                MEMORISATION,
                len(copies.reference),
                len(copies.pairs),
                min(copies.training_videos, copies.generated_videos),
                0,
            ),
            extra={
                "verdict": copies.verdict(),
                "chance_without_copying": copies.chance,
                "ratio_of_medians": copies.ratio_of_medians,
            },
        )
        return replace(
            row,
            scores=[*row.scores, score],
            memorisation=copies,
            sheet=lambda path: write_contact_sheet(path, copies, real.set.sources, videos.sources),
        )

    def _caution(
        self,
        name: str,
        each: Generated,
        row: SetResult,
        real: Extraction | None,
        side: RealSide | None,
    ) -> None:
        protocol = self.choices.protocol
        widths = {e.name: e.outputs["features"] for e in self.networks.plain()}
        clips = any(METRICS[score.metric].unit == "clips" for score in row.scores)
        self.found += cautions.of_scores(name, row.scores, widths, protocol)
        if side is not None and real is not None:
            if each.set.path.resolve() == side.set.path.resolve():
                self.found.append(Caution(cautions.SAME_SET_NOTE, (name,)))
            self.found += cautions.of_sides(facts_of("real", side.set, real), row.facts, clips)
            if clips:
                self.found += cautions.of_strides(name, each.training_stride, protocol)
        self.found += [Caution(remark, (name,)) for remark in each.set.remarks]


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


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation of at least two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
