"""Which videos, clips and frames are compared, and how their pixels are prepared.

Pure functions. A choice depends on the seed and the name of the video alone: not on the other
videos, their order, or who reads them. The random numbers are SHA-256 of (seed, purpose, name,
count), so they are the same in every version of every library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.sources import natural_order
from tools.metrics.protocol import Choice, Offset, Protocol


def choose_videos(names: Sequence[str], limit: int, choice: Choice, seed: int) -> list[str]:
    """At most `limit` of the names (0: all), in natural order.

    "random" keeps those whose hash with the seed is smallest, so that a further video takes the
    place of one other at most; "first" keeps the first in natural order.
    """
    ordered = natural_order(names)
    if limit == 0 or len(ordered) <= limit:
        return ordered
    if choice == "first":
        return ordered[:limit]
    kept = set(sorted(ordered, key=lambda name: _number(seed, "video", name, 0))[:limit])
    return [name for name in ordered if name in kept]


def clip_windows(
    name: str, count: int, frames: int, stride: int, offset: Offset, clips: int, seed: int
) -> list[list[int]]:
    """Frame indices of the clips of one video, by their start; none where it is too short.

    Start "random": `clips` different starts, each as likely as any other; the first start drawn
    stays when more are asked for. "start": one clip follows the other from frame 0 on. "dense":
    from the first frame to the last, overlapping by half, or by less where that would be more than
    `clips`; a short video is read at the largest stride that fits, as in training. A video with
    fewer starts, or less room, gives fewer clips.

    Inputs:  count of the video's frames; a clip of `frames` frames that are `stride` apart spans
             (frames - 1) * stride + 1 of them
    """
    if offset == "dense":
        stride = max(1, min(stride, (count - 1) // max(1, frames - 1)))
    span = (frames - 1) * stride + 1
    if count < span:
        return []
    if offset == "start":
        starts = list(range(0, count - span + 1, span))[:clips]
    elif offset == "dense":
        last = count - span
        places = min(clips, 1 + -(-last // max(1, span // 2)))
        starts = [k * last // max(1, places - 1) for k in range(places)]
    else:
        starts = sorted(_draw(count - span + 1, clips, seed, "clip", name))
    return [list(range(start, start + span, stride)) for start in starts]


def frame_shares(counts: Sequence[int], limit: int, choice: Choice) -> list[int]:
    """How many single frames each video gives, where all together give at most `limit` (0: all).

    "random": an equal share for every video, and what short ones leave goes to the others.
    "first": all frames of the first videos, until the limit is reached.

    Inputs:  counts of the videos' frames, in natural order of their names
    """
    if limit == 0 or sum(counts) <= limit:
        return list(counts)
    left = limit
    if choice == "first":
        shares = []
        for count in counts:
            shares.append(min(count, left))
            left -= shares[-1]
        return shares
    largest = 0
    waiting = len(counts)
    for count in sorted(counts):
        if count * waiting > left:
            largest = left // waiting
            break
        left -= count
        waiting -= 1
    return [min(count, max(largest, 1)) for count in counts]


def frame_indices(name: str, count: int, share: int, choice: Choice, seed: int) -> list[int]:
    """The single frames that a video of `count` frames gives, ascending.

    "random": each as likely as any other; a larger share keeps those of a smaller one.
    """
    if share >= count:
        return list(range(count))
    if choice == "first":
        return list(range(share))
    return sorted(_draw(count, share, seed, "frame", name))


def prepare(frames: Tensor, protocol: Protocol) -> Tensor:
    """Pixels as the protocol wants them, for both sides alike.

    Inputs:  frames (F, 3, H, W) uint8
    Output:  (F, 3, frame_size, frame_size) uint8, contiguous; the size as it is for frame_size 0
             and for frames that have it already. Bicubic, as Pillow does it with antialiasing.
    """
    size = protocol.frame_size
    height, width = frames.shape[-2:]
    if size and protocol.resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        frames = frames[..., top : top + side, left : left + side]
    if size and frames.shape[-2:] != (size, size):
        # One layout for all readers: the kernels of different layouts may round differently.
        frames = frames.contiguous(memory_format=torch.channels_last)
        frames = F.interpolate(
            frames, size=(size, size), mode="bicubic", antialias=protocol.antialias
        )
    return frames.contiguous()


def _draw(available: int, wanted: int, seed: int, purpose: str, name: str) -> list[int]:
    """Different numbers below `available`, in the order of drawing (Fisher and Yates' shuffle,
    of which only the places that moved are kept)."""
    moved: dict[int, int] = {}
    drawn = []
    for k in range(min(wanted, available)):
        place = k + _number(seed, purpose, name, k) % (available - k)
        drawn.append(moved.get(place, place))
        moved[place] = moved.get(k, k)
    return drawn


def _number(seed: int, purpose: str, name: str, k: int) -> int:
    """A random whole number of 64 bits."""
    text = f"{seed}/{purpose}/{k}/{name}"
    return int.from_bytes(
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big"
    )
