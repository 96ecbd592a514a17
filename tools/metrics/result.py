"""What an evaluation found: scores with everything that is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tools.metrics.catalogue import METRICS, ScoreKind

if TYPE_CHECKING:
    from tools.metrics.memorisation import Memorisation

PUBLISHED = (
    "Published values are targets of order of magnitude only: compare rows of one table, made "
    "with one protocol and equal numbers of videos."
)


@dataclass(frozen=True)
class Count:
    """How much a side of a score holds: samples (clips or frames) of so many videos."""

    videos: int
    samples: int
    unit: Literal["clips", "frames"]

    def __str__(self) -> str:
        return f"{self.videos} videos, {self.samples} {self.unit}"


@dataclass(frozen=True)
class Level:
    """What a score is read against.

    Attributes:
        kind       "halves": disjoint halves of the real videos against each other, the floor;
                   "real": the real set's own score, where nothing is compared;
                   "expected": what new videos would get
        value, deviation  over the draws of halves, or as the score's own
        videos     in each half, or in the real set
    """

    kind: Literal["halves", "real", "expected"]
    value: float
    deviation: float | None
    videos: int


@dataclass(frozen=True)
class Score:
    """One number of one set of generated videos.

    Attributes:
        metric, name       the metric and which of its numbers this is ("prdc", "recall")
        deviation          standard deviation, over what `deviation_over` says; None: not known
        repeats_deviation  over seeds of the choice of clips (--repeats)
        real, fake         what went in; real is None where a score looks at no real video
        level              the floor, or the real set's own score; None with too few videos
        extractor, fingerprint  which features
        comparable, caveat      whether it may stand beside published scores; what to print if not
        publishable        False where there are too few samples for a score worth publishing
        seconds            for this number, its deviation included, extraction not
        extra              further findings by name, such as fvd_inf
    """

    metric: str
    name: str
    value: float
    deviation: float | None
    deviation_over: str
    real: Count | None
    fake: Count
    level: Level | None
    extractor: str
    fingerprint: str
    comparable: bool
    caveat: str
    publishable: bool = True
    repeats_deviation: float | None = None
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.name}: the score is not a finite number: {self.value}")

    @property
    def kind(self) -> ScoreKind:
        """The label and the better direction of this number."""
        return next(kind for kind in METRICS[self.metric].kinds if kind.name == self.name)


@dataclass(frozen=True)
class SetFacts:
    """What is known about one folder of videos after it was read.

    Attributes:
        videos      found; `used` of them gave clips or frames
        dropped     names of those that were too short for a clip
        sizes       "WIDTHxHEIGHT" -> number of videos, before preparation
        containers  kinds of file and codecs -> number of videos
        seconds     reading, preparation and networks together
    """

    name: str
    path: str
    videos: int
    used: int
    dropped: Sequence[str]
    sizes: Mapping[str, int]
    containers: Mapping[str, int]
    seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetResult:
    """The scores of one set of generated videos, in the order of tables.

    Attributes:
        step, run     training step of the weights that made the videos, and their run folder
        held_out      real videos that took the place of generated ones
        memorisation  the search for copies of training clips, where it was asked for
        sheet         draws the closest pairs of that search into a file
    """

    facts: SetFacts
    scores: Sequence[Score]
    step: int | None = None
    run: str | None = None
    held_out: bool = False
    memorisation: Memorisation | None = None
    sheet: Callable[[Path], None] | None = None

    @property
    def name(self) -> str:
        """As it stands in tables."""
        return self.facts.name


@dataclass(frozen=True)
class Caution:
    """A sentence that a reader of the scores has to know.

    Attributes:
        sets    the sets it is about; none: all of them, or none in particular
        labels  the metrics it is about, likewise
    """

    sentence: str
    sets: Sequence[str] = ()
    labels: Sequence[str] = ()

    def __str__(self) -> str:
        about = [f"{', '.join(each)}: " for each in (self.labels, self.sets) if each]
        return "".join(about) + self.sentence


@dataclass(frozen=True)
class Result:
    """All sets that were compared with the same real videos in the same way."""

    protocol: Mapping[str, Any]
    family: str
    sets: Sequence[SetResult]
    real: SetFacts | None
    extractors: Mapping[str, Mapping[str, Any]]  # name -> fingerprint, provenance, ...
    cautions: Sequence[Caution]
    environment: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def caveats(self) -> list[str]:
        """What every output must say, each once: why scores are not comparable."""
        found = [score.caveat for each in self.sets for score in each.scores if score.caveat]
        return list(dict.fromkeys(found))

    def kinds(self) -> list[ScoreKind]:
        """The numbers that at least one set has, in the order of tables."""
        found = [score.kind for each in self.sets for score in each.scores]
        return list(dict.fromkeys(found))

    def score(self, set_result: SetResult, kind: ScoreKind) -> Score | None:
        """The number of that kind, None where the set has none."""
        return next((each for each in set_result.scores if each.name == kind.name), None)


def merged_cautions(found: Sequence[Caution], names: Sequence[str]) -> list[Caution]:
    """The same sentence about several metrics or sets becomes one; about all of `names`, none."""
    by_sentence = _grouped(found, lambda caution: (caution.sentence, tuple(caution.labels)))
    about_sets = [
        Caution(sentence, () if set(sets) == set(names) else sets, labels)
        for (sentence, labels), group in by_sentence.items()
        for sets in [_union(caution.sets for caution in group)]
    ]
    by_sets = _grouped(about_sets, lambda caution: (caution.sentence, tuple(caution.sets)))
    return [
        Caution(sentence, sets, _union(caution.labels for caution in group))
        for (sentence, sets), group in by_sets.items()
    ]


def _grouped(
    found: Iterable[Caution], key: Callable[[Caution], tuple[str, tuple[str, ...]]]
) -> dict[tuple[str, tuple[str, ...]], list[Caution]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Caution]] = {}
    for caution in found:
        groups.setdefault(key(caution), []).append(caution)
    return groups


def _union(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))
