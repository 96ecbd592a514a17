"""Features of two sets -> numbers, each with its deviation and what it is read against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tools.metrics.catalogue import METRICS
from tools.metrics.features import Features
from tools.metrics.frechet import Summary, distance
from tools.metrics.inception_score import inception_score
from tools.metrics.jedi import jedi
from tools.metrics.kernel import kernel_distance
from tools.metrics.neighbours import precision_recall
from tools.metrics.protocol import Protocol
from tools.metrics.result import Level
from tools.metrics.uncertainty import (
    FEWEST_TO_SPLIT,
    deviation_over_videos,
    extrapolate,
    floor,
    frechet_deviation,
    frechet_floor,
)

LARGEST_SUBSET = 1000  # samples of a side in one kernel distance
SUBSETS = 100
NEIGHBOURS = 3  # of precision and its kin
FEWEST_TO_EXTRAPOLATE = 16  # videos of a side: a quarter of them must still have a covariance


@dataclass(frozen=True)
class Number:
    """One number of one metric: value, standard deviation (None: unknown) and what that is over."""

    name: str
    value: float
    deviation: float | None
    deviation_over: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def compute(
    metric: str,
    real: Features | None,
    fake: Features,
    protocol: Protocol,
    *,
    quick: bool = False,
) -> list[Number]:
    """The numbers of a metric, in the order of its kinds.

    Inputs:  real and fake features of the metric's extractor; real may be None where it looks at
             no real videos; quick leaves out deviations and extrapolations
    Raises:  ValueError where there are too few samples, saying how many are needed
    """
    started = time.monotonic()
    family = COMPUTE[metric]
    numbers = family(metric, real, fake, protocol, quick)
    seconds = (time.monotonic() - started) / len(numbers)
    return [
        Number(each.name, each.value, each.deviation, each.deviation_over, each.extra, seconds)
        for each in numbers
    ]


def levels(metric: str, real: Features, protocol: Protocol) -> dict[str, Level]:
    """What each number of a metric is read against; empty where there are too few videos."""
    if not METRICS[metric].needs_real:
        try:
            own = compute(metric, None, real, protocol)
        except ValueError:
            return {}
        return {n.name: Level("real", n.value, n.deviation, len(real.videos)) for n in own}
    if len(real.videos) < FEWEST_TO_SPLIT:
        return {}
    if METRICS[metric].frechet:
        halves = frechet_floor(real, protocol.ddof, seed=protocol.seed)
        return {metric: Level("halves", halves.value, halves.deviation, halves.videos_per_half)}
    found = {}
    try:
        for name, score in _point_scores(metric, protocol).items():
            halves = floor(real, score, seed=protocol.seed)
            found[name] = Level("halves", halves.value, halves.deviation, halves.videos_per_half)
    except ValueError:  # halves too small for this metric: its table has no floor
        return {}
    return found


def _point_scores(metric: str, protocol: Protocol) -> dict[str, Callable[..., float]]:
    """The values alone, as functions of two sets."""
    known: dict[tuple[Sequence[str], ...], dict[str, float]] = {}

    def score(real: Features, fake: Features, name: str) -> float:
        key = (tuple(real.videos), tuple(fake.videos))
        if key not in known:  # the numbers of one metric come together
            numbers = compute(metric, real, fake, protocol, quick=True)
            known[key] = {number.name: number.value for number in numbers}
        return known[key][name]

    return {kind.name: partial(score, name=kind.name) for kind in METRICS[metric].kinds}


def _frechet(
    metric: str, real: Features | None, fake: Features, protocol: Protocol, quick: bool
) -> list[Number]:
    real = _needed(metric, real, fake, least=2)
    value = distance(Summary.of(real.values, protocol.ddof), Summary.of(fake.values, protocol.ddof))
    if quick:
        return [Number(metric, value, None, "")]
    spread = frechet_deviation(real, fake, protocol.ddof, seed=protocol.seed)
    extra: dict[str, Any] = {"resamples": spread.resamples}
    clips = METRICS[metric].unit == "clips"
    if clips and min(len(real.videos), len(fake.videos)) >= FEWEST_TO_EXTRAPOLATE:
        extra[f"{metric}_inf"] = extrapolate(real, fake, protocol.ddof, protocol.seed)
    over = f"over {spread.resamples} bootstrap resamples of the videos of both sides"
    return [Number(metric, value, spread.value, over, extra)]


def _kernel(
    metric: str, real: Features | None, fake: Features, protocol: Protocol, quick: bool
) -> list[Number]:
    real = _needed(metric, real, fake, least=2)
    size = max(2, min(LARGEST_SUBSET, len(real) // 2, len(fake) // 2))
    found = kernel_distance(real.values, fake.values, size, SUBSETS, protocol.seed)
    extra = {"subsets": SUBSETS, "subset_size": size}
    over = f"over {SUBSETS} subsets of {size} samples"
    return [Number(metric, found.value, found.deviation, over, extra)]


def _jedi(
    metric: str, real: Features | None, fake: Features, protocol: Protocol, quick: bool
) -> list[Number]:
    real = _needed(metric, real, fake, least=2)
    value = jedi(real.values, fake.values)
    if quick or min(len(real.videos), len(fake.videos)) < FEWEST_TO_SPLIT:
        return [Number(metric, value, None, "")]

    def score(first: Features, second: Features) -> float:
        return jedi(first.values, second.values)

    spread = deviation_over_videos(score, real, fake, seed=protocol.seed)
    over = f"over {spread.resamples} random halves of the videos"
    return [Number(metric, value, spread.value, over)]


def _inception(
    metric: str, real: Features | None, fake: Features, protocol: Protocol, quick: bool
) -> list[Number]:
    label = METRICS[metric].kinds[0].label
    wanted = protocol.is_samples
    if metric == "video_is" and wanted and protocol.max_fake_clips:
        wanted = min(wanted, protocol.max_fake_clips)
    if len(fake) < wanted:
        raise ValueError(
            f"{label}: the protocol wants {wanted} samples and there are {len(fake)}; make more "
            f"videos, or give --set is_samples=0"
        )
    if len(fake) < 2 * protocol.is_splits:
        raise ValueError(
            f"{label}: {len(fake)} samples do not fill {protocol.is_splits} splits, and a split of "
            f"one sample scores 1 whatever it shows; give more videos, or fewer splits with --set "
            f"is_splits=N"
        )
    found = inception_score(fake.outputs["logits"], protocol.is_splits, protocol.seed)
    extra = {"splits": protocol.is_splits, "samples_per_split": len(fake) // protocol.is_splits}
    over = f"over {protocol.is_splits} splits"
    deviation = found.deviation if protocol.is_splits > 1 else None
    return [Number(metric, found.value, deviation, over, extra)]


def _neighbours(
    metric: str, real: Features | None, fake: Features, protocol: Protocol, quick: bool
) -> list[Number]:
    real = _needed(metric, real, fake, least=NEIGHBOURS + 1)
    values = precision_recall(real.values, fake.values, NEIGHBOURS)
    names = [kind.name for kind in METRICS[metric].kinds]
    half = min(len(real.videos), len(fake.videos)) // 2
    if quick or half <= NEIGHBOURS:
        return [Number(name, values[name], None, "") for name in names]
    numbers = []
    for name, score in _point_scores(metric, protocol).items():
        spread = deviation_over_videos(score, real, fake, seed=protocol.seed)
        over = f"over {spread.resamples} random halves of the videos"
        extra = {"neighbours": NEIGHBOURS}
        numbers.append(Number(name, values[name], spread.value, over, extra))
    return numbers


def _needed(metric: str, real: Features | None, fake: Features, least: int) -> Features:
    """The real side; ValueError where there is none or a side is too small."""
    label = METRICS[metric].kinds[0].label
    if real is None:
        raise ValueError(f"{label} compares with real videos: give them with --real_path")
    for side, features in (("real", real), ("generated", fake)):
        if len(features) < least:
            raise ValueError(
                f"{label} needs at least {least} samples of each side; there "
                f"{'is' if len(features) == 1 else 'are'} {len(features)} on the {side} one"
            )
    return real


Computed = Callable[[str, "Features | None", Features, Protocol, bool], list[Number]]

COMPUTE: Mapping[str, Computed] = {
    "fvd": _frechet,
    "fid": _frechet,
    "is": _inception,
    "kid": _kernel,
    "kvd": _kernel,
    "video_is": _inception,
    "cdfvd": _frechet,
    "fd_dinov2": _frechet,
    "jedi": _jedi,
    "prdc": _neighbours,
    "fvd_frozen": _frechet,
}
