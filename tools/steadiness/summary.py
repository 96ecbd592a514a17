"""Drift over the windows of a set of videos, and what their seams look like."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.steadiness.frames import FrameValues

COLOURS = ("red", "green", "blue")
STATISTICS = (
    *(f"mean {colour}" for colour in COLOURS),
    *(f"deviation {colour}" for colour in COLOURS),
    "sharpness",
    "difference to first frame",
)
FACTORS = ("sharpness",)  # whose change is told as a factor
# What counts as found: a change beyond three standard errors that an eye might see as well.
ERRORS = 3.0
VISIBLE = 4.0  # grey levels of a colour
VISIBLE_FACTOR = 1.15  # of sharpness, and of the frame difference at seams
FEWEST = 3  # videos from which a standard error is one


@dataclass(frozen=True)
class Estimate:
    """A mean over videos with its standard error; nan from one video."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Of one number per video: (N,)."""
        count = len(values)
        error = float(values.std()) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(values.mean()), error)


@dataclass(frozen=True)
class Seams:
    """Differences of neighbouring frames, in grey levels.

    Attributes:
        frames    the first frame after each seam
        at        mean difference across a seam
        within    mean difference of all other neighbours
        ratio     at / within of each video, geometric mean; its error is relative
    """

    frames: tuple[int, ...]
    at: float
    within: float
    ratio: Estimate

    @property
    def visible(self) -> bool:
        """Whether frames change more at seams than elsewhere."""
        logarithm = math.log(self.ratio.value)
        return logarithm > max(ERRORS * self.ratio.error, math.log(VISIBLE_FACTOR))


@dataclass(frozen=True)
class Summary:
    """A set of videos.

    Attributes:
        name     what the set is called
        videos   how many
        windows  (first frame, one beyond the last) of each window's new frames
        values   by statistic, the mean over videos of each window
        change   by statistic, from the first window to the last; of sharpness it is a factor,
                 with a relative error
        wander   by statistic, the mean size of a video's change, whichever way it goes
        seams    none where there are none
    """

    name: str
    videos: int
    windows: tuple[tuple[int, int], ...]
    values: Mapping[str, tuple[float, ...]]
    change: Mapping[str, Estimate]
    wander: Mapping[str, float]
    seams: Seams | None

    @property
    def frames(self) -> int:
        """Of a video."""
        return self.windows[-1][1]

    def drifting(self, real: Summary | None = None) -> list[str]:
        """The statistics that drift: beyond their error and to be seen, and beyond those of real
        videos, where these are given. The difference to the first frame is meant to grow."""
        return [name for name in STATISTICS[:-1] if self._drifts(name, real)]

    def _drifts(self, name: str, real: Summary | None) -> bool:
        change = self.change[name]
        value, error = change.value, change.error
        expected = real.change[name] if real else Estimate(1.0 if name in FACTORS else 0.0, 0.0)
        if name in FACTORS:
            value, limit = math.log(value / expected.value), math.log(VISIBLE_FACTOR)
        else:
            value, limit = value - expected.value, VISIBLE
        spread = math.hypot(error, expected.error)
        return self.videos >= FEWEST and abs(value) > max(limit, ERRORS * spread)


def windows_of(frames: int, seams: Sequence[int], window: int) -> tuple[tuple[int, int], ...]:
    """The parts of a video between its seams; without seams, parts of `window` frames. A rest of
    less than half a part belongs to the part before."""
    cuts = list(seams) or list(range(window, frames, window))
    bounds = [0, *[cut for cut in cuts if 0 < cut < frames], frames]
    usual = bounds[-2] - bounds[-3] if len(bounds) > 2 else 0
    if bounds[-1] - bounds[-2] < usual / 2:
        del bounds[-2]
    return tuple(itertools.pairwise(bounds))


def summarise(
    name: str, videos: Sequence[FrameValues], seams: Sequence[int], window: int
) -> Summary:
    """Statistics of a set of videos window by window, what changed, and how its seams look.

    Inputs:  name, what the set is called; videos of equal length, at least one; seams, the first
             frames of windows; window, frames of a part where there are none
    """
    frames = len(videos[0])
    parts = windows_of(frames, seams, window)
    by_window = {
        statistic: torch.stack(
            [_windows_means(_series(video, statistic), parts) for video in videos]
        )
        for statistic in STATISTICS
    }
    return Summary(
        name=name,
        videos=len(videos),
        windows=parts,
        values={each: tuple(table.mean(0).tolist()) for each, table in by_window.items()},
        change={each: _change(each, table) for each, table in by_window.items()},
        wander={each: _wander(each, table) for each, table in by_window.items()},
        seams=_seams(videos, [seam for seam in seams if 0 < seam < frames]),
    )


def _series(video: FrameValues, statistic: str) -> Tensor:
    kind, _, colour = statistic.partition(" ")
    if kind == "sharpness":
        return video.sharpness
    if kind == "difference":
        return video.distance
    values = video.mean if kind == "mean" else video.deviation
    return values[:, COLOURS.index(colour)]


def _windows_means(series: Tensor, parts: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([series[start:stop].mean() for start, stop in parts])


def _changes(statistic: str, table: Tensor) -> Tensor:
    """Of each video (N,): last window less first, or the logarithm of their ratio."""
    if statistic in FACTORS:
        return table.clamp(min=1e-6).log()[:, [0, -1]].diff(dim=1)[:, 0]
    return table[:, -1] - table[:, 0]


def _change(statistic: str, table: Tensor) -> Estimate:
    estimate = Estimate.of(_changes(statistic, table))
    if statistic in FACTORS:
        return Estimate(math.exp(estimate.value), estimate.error)
    return estimate


def _wander(statistic: str, table: Tensor) -> float:
    size = float(_changes(statistic, table).abs().mean())
    return math.exp(size) if statistic in FACTORS else size


def _seams(videos: Sequence[FrameValues], seams: Sequence[int]) -> Seams | None:
    if not seams:
        return None
    steps = torch.stack([video.step for video in videos])[:, 1:]
    across = torch.zeros(steps.shape[1], dtype=torch.bool)
    across[torch.tensor(list(seams)) - 1] = True
    if bool(across.all()):
        return None  # nothing to compare with
    at, within = steps[:, across].mean(1), steps[:, ~across].mean(1)
    ratios = Estimate.of((at.clamp(min=1e-6) / within.clamp(min=1e-6)).log())
    ratio = Estimate(math.exp(ratios.value), ratios.error)
    return Seams(tuple(seams), float(at.mean()), float(within.mean()), ratio)
