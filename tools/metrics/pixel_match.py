"""A second look at two videos that features call near: do their pixels agree?

Frames become thumbnails without their mean colour, of one contrast, and without what all training
videos share (a dark rim, the light in the middle). The clip is laid over the training video at
every offset, also mirrored; the best correlation counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # pixels of a thumbnail


@dataclass(frozen=True)
class Match:
    """The best place of a clip in a training video.

    Attributes:
        correlation  of the pixels, 1 where they agree but for brightness and contrast
        frames       indices of the training video that lie over the clip's frames
        flipped      whether they lie over it mirrored
    """

    correlation: float
    frames: Sequence[int]
    flipped: bool

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "frames": list(self.frames)}


def thumbnails(frames: Tensor) -> Tensor:
    """(F, 3, H, W) uint8 -> (F, 3, SIDE, SIDE) float64 in 0..255: central square, area means."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side].float()
    return F.interpolate(square, size=(SIDE, SIDE), mode="bilinear", antialias=True).double()


def evened(small: Tensor) -> Tensor:
    """The same thumbnails with mean 0 in each colour of each frame and variance 1 over all."""
    centred = small - small.mean(dim=(-2, -1), keepdim=True)
    return centred / centred.square().mean().sqrt().clamp_min(1e-6)


def shared_picture(videos: Iterable[Tensor]) -> Tensor:
    """(3, SIDE, SIDE): the mean over videos of their mean thumbnails, evened."""
    return torch.stack([evened(video).mean(dim=0) for video in videos]).mean(dim=0)


def best_match(
    clip: Tensor, video: Tensor, pattern: Sequence[int], shared: Tensor, *, flips: bool
) -> Match | None:
    """Where in a training video a clip fits best, or None where the video is too short.

    Inputs:  clip     (F, 3, SIDE, SIDE) thumbnails of the generated clip
             video    (T, 3, SIDE, SIDE) thumbnails of all frames of the training video
             pattern  F frame numbers from 0: how training lays a clip over a video
             shared   (3, SIDE, SIDE) what all training videos have in common
             flips    whether to try the mirrored video too
    """
    if len(video) <= pattern[-1]:
        return None
    found = [_slide(clip, video, pattern, shared, flipped=False)]
    if flips:
        # Mirroring the clip, not the video, leaves what is usual on its side of the picture.
        found.append(_slide(clip.flip(-1), video, pattern, shared, flipped=True))
    return max(found, key=lambda match: match.correlation)


def _slide(
    clip: Tensor, video: Tensor, pattern: Sequence[int], shared: Tensor, *, flipped: bool
) -> Match:
    ours = (evened(clip) - shared).flatten(1)  # (F, P)
    theirs = (evened(video) - shared).flatten(1)  # (T, P)
    products, norms = ours @ theirs.T, (theirs**2).sum(dim=1)
    starts = torch.arange(len(video) - pattern[-1])
    offsets = torch.tensor(pattern)
    places = starts[:, None] + offsets  # (S, F)
    dots = products[torch.arange(len(offsets)), places].sum(dim=1)
    energy = (ours**2).sum() * norms[places].sum(dim=1)
    correlations = dots / energy.clamp_min(1e-9).sqrt()
    best = int(correlations.argmax())
    return Match(float(correlations[best]), places[best].tolist(), flipped)
