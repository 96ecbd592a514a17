"""Whether generated clips are copies: the training clip nearest to each of them.

A distance alone says nothing, so every one is placed among distances that cannot be copies: those
of training clips to the nearest clip of another training video. A generator that invents clips
as different from each other as the training videos are lands in that distribution; one that
copies lands below it.

Distances are root mean square differences of features, each feature divided by its standard
deviation over the training set, so that 1 is an ordinary difference and no feature counts more
for its unit. Features are not decorrelated: a covariance of as few videos as there are here
would stretch its smallest, noisiest directions most, and re-encoding alone would hide a copy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tools.metrics.features import Features
from tools.metrics.nearest import (
    Standard,
    chance_of_at_least,
    nearest,
    video_weights,
    weighted_quantile,
    within_videos,
)
from tools.metrics.pixel_match import Match

SURPRISING = 0.01  # chance under which too many close clips are called a sign of copying


@dataclass(frozen=True)
class Pair:
    """A generated clip and the training clip nearest to it.

    Attributes:
        row                 of the generated clip in its features; `generated_window` its frames
        training_row        of the training clip, in the features of the training set
        flipped             whether it is the mirrored training clip that is so near
        distance            root mean square, in standard deviations of the training set
        quantile            share of training clips that are nearer to another training video
        match               the second look, at pixels; only for the closest pairs
    """

    row: int
    generated: str
    generated_window: Sequence[int]
    training_row: int
    training: str
    training_window: Sequence[int]
    flipped: bool
    distance: float
    quantile: float
    match: Match | None = None


@dataclass(frozen=True)
class Memorisation:
    """All that was found; `pairs` has one entry per generated clip, in their order.

    Attributes:
        reference       (R,) distances of training clips to the nearest clip of another video
        reference_rows  (R,) which training clip that is; `training` tells video and frames of each
        weights         (R,) that sum to 1 and give every training video the same say
        same_video      (S,) distances of training clips to the nearest other clip of their own
                        video: how far apart a copy and its original may lie; may be empty
        reference_matches  the second look at the closest pairs of different training videos
    """

    extractor: str
    caveat: str
    pairs: Sequence[Pair]
    training: Sequence[tuple[str, Sequence[int]]]
    reference: Tensor
    reference_rows: Tensor
    weights: Tensor
    same_video: Tensor
    training_videos: int
    generated_videos: int
    flips: bool
    reference_matches: Sequence[Match] = field(default_factory=list)

    @property
    def distances(self) -> Tensor:
        """(M,) distances of the generated clips."""
        return torch.tensor([pair.distance for pair in self.pairs], dtype=torch.float64)

    def threshold(self, share: float) -> float:
        """The distance below which that share of the train-to-train distances lies."""
        return weighted_quantile(self.reference, self.weights, share)

    def share_below(self, share: float) -> float:
        """The part of the generated clips below a quantile of train-to-train; `share` if new."""
        return float((self.distances < self.threshold(share)).double().mean())

    @property
    def ratio_of_medians(self) -> float:
        """Median distance of generated clips over that of training clips; 1 if new, 0 if copied."""
        return float(self.distances.median()) / max(1e-12, self.threshold(0.5))

    @property
    def nearer_than_all(self) -> list[Pair]:
        """Generated clips nearer to training than any training clip is to another video."""
        smallest = float(self.reference.min())
        return [pair for pair in self.pairs if pair.distance < smallest]

    @property
    def chance(self) -> float:
        """How probable so many clips below the 5th percentile would be without copying.

        Clips of one video are alike, so videos count: each by the share of its clips.
        """
        clips = Counter(pair.generated for pair in self.pairs)
        threshold = self.threshold(0.05)
        near = Counter(pair.generated for pair in self.pairs if pair.distance < threshold)
        below = math.floor(1e-9 + math.fsum(near[name] / clips[name] for name in near))
        rank = max(1, round(0.05 * self.training_videos))
        return chance_of_at_least(below, len(clips), rank, self.training_videos)

    @property
    def closest(self) -> list[Pair]:
        """Pairs from the closest on."""
        return sorted(self.pairs, key=lambda pair: (pair.distance, pair.row))

    @property
    def copies(self) -> list[Pair]:
        """Pairs that the pixels show to be copies; see `Match.is_copy`."""
        return [pair for pair in self.closest if pair.match and self.is_copy(pair.match)]

    def is_copy(self, match: Match) -> bool:
        """Whether a pair agrees in its pixels as no pair of different training videos does."""
        ordinary = max((each.correlation for each in self.reference_matches), default=0.0)
        return match.correlation > 1 - (1 - ordinary) / 2 and match.correlation > 0.8

    def verdict(self) -> str:
        """Sentences for a report: what was found, how sure that is, what cannot be seen."""
        return " ".join([_finding(self), *_limits(self)])

    def to_plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries, for JSON."""
        quantiles = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
        return {
            "extractor": self.extractor,
            "caveat": self.caveat,
            "verdict": self.verdict(),
            "generated_clips": len(self.pairs),
            "generated_videos": self.generated_videos,
            "training_clips": len(self.reference),
            "training_videos": self.training_videos,
            "flipped_training_clips_searched": self.flips,
            "share_below_1st_percentile": self.share_below(0.01),
            "share_below_5th_percentile": self.share_below(0.05),
            "chance_without_copying": self.chance,
            "nearer_than_all_training_pairs": len(self.nearer_than_all),
            "ratio_of_medians": self.ratio_of_medians,
            "copies_confirmed_by_pixels": [pair.generated for pair in self.copies],
            "pairs_looked_at": sum(pair.match is not None for pair in self.pairs),
            "train_to_train_quantiles": {f"{q:g}": self.threshold(q) for q in quantiles},
            "same_video_median": float(self.same_video.median()) if len(self.same_video) else None,
            "largest_pixel_correlation_of_training_pairs": max(
                (match.correlation for match in self.reference_matches), default=None
            ),
            "pairs": [_plain(pair) for pair in self.pairs],
        }


def find_nearest(
    real: Features,
    fake: Features,
    *,
    flipped: Features | None = None,
    extractor: str = "",
    caveat: str = "",
) -> Memorisation:
    """The nearest training clip of every generated clip, and the distances to compare with.

    Inputs:  real     clips of the training videos, several of each, overlapping
             fake     generated clips
             flipped  the same rows as `real`, of mirrored frames, where training mirrors clips
    Raises:  ValueError with fewer than two training videos, for then there is nothing to compare
    """
    if len(real.videos) < 2 or not len(fake):
        raise ValueError(
            f"memorisation needs clips of at least 2 training videos and 1 generated one, got "
            f"{len(real.videos)} and {len(fake.videos)}"
        )
    scale = Standard.of(real)
    bank, groups = scale(real.values), real.groups
    own = bank
    if flipped is not None:
        bank, groups = torch.cat([bank, scale(flipped.values)]), torch.cat([groups, groups])
    distances, rows = nearest(scale(fake.values), bank)
    reference, others = nearest(own, bank, real.groups, groups)
    weights = video_weights(real.groups)
    windows = real.windows or [[]] * len(real)
    fake_windows = fake.windows or [[]] * len(fake)
    pairs = [
        Pair(
            row=index,
            generated=fake.videos[int(fake.groups[index])],
            generated_window=fake_windows[index],
            training_row=row % len(real),
            training=real.videos[int(real.groups[row % len(real)])],
            training_window=windows[row % len(real)],
            flipped=row >= len(real),
            distance=distance,
            quantile=float(weights[reference < distance].sum()),
        )
        for index, (distance, row) in enumerate(zip(distances.tolist(), rows.tolist(), strict=True))
    ]
    return Memorisation(
        extractor=extractor,
        caveat=caveat,
        pairs=pairs,
        training=[(real.videos[int(k)], windows[n]) for n, k in enumerate(real.groups)],
        reference=reference,
        reference_rows=others % len(real),
        weights=weights,
        same_video=within_videos(own, real.groups),
        training_videos=len(real.videos),
        generated_videos=len(fake.videos),
        flips=flipped is not None,
    )


def _finding(found: Memorisation) -> str:
    clips = len(found.pairs)
    if found.copies:
        videos = list(dict.fromkeys(pair.generated for pair in found.copies))
        names = ", ".join(videos[:3])
        more = " and others" if len(videos) > 3 else ""
        return (
            f"COPIES: of {clips} generated clips, {len(found.copies)} of those looked at agree "
            f"with a training clip in their pixels as no two training videos do ({names}{more})."
        )
    if found.chance < SURPRISING:
        return (
            f"SUSPICIOUS: {found.share_below(0.05):.0%} of {clips} generated clips lie below the "
            f"5th percentile of train-to-train distances (5 % expected; chance without copying "
            f"{found.chance:.1g}), though no pixels of the closest pairs agree; look at the sheet."
        )
    return (
        f"No sign of copying: {found.share_below(0.05):.0%} of {clips} generated clips lie below "
        f"the 5th percentile of train-to-train distances (5 % expected), median distance "
        f"{found.ratio_of_medians:.2f} of that between training videos."
    )


def _limits(found: Memorisation) -> list[str]:
    limits = []
    if found.training_videos < 100:
        finest = "5th" if found.training_videos < 20 else "1st"
        limits.append(
            f"With {found.training_videos} training videos the {finest} percentile is hardly "
            f"more than their closest pair."
        )
    if len(found.pairs) < 60:
        limits.append(
            f"{len(found.pairs)} generated clips cannot show copying that is rarer than about "
            f"1 in {max(1, len(found.pairs) // 3)}."
        )
    limits.append(
        "Only whole clips at the training speed are compared: copied single frames, parts of "
        "frames (a zoom too), mixtures of videos and other speeds are not seen"
        + (", nor anything that these features are blind to." if found.caveat else ".")
    )
    return limits


def _plain(pair: Pair) -> dict[str, Any]:
    plain: Mapping[str, Any] = {
        "generated": pair.generated,
        "generated_frames": list(pair.generated_window),
        "training": pair.training,
        "training_frames": list(pair.training_window),
        "flipped": pair.flipped,
        "distance": pair.distance,
        "quantile": pair.quantile,
        "match": pair.match.to_plain() if pair.match else None,
    }
    return dict(plain)
