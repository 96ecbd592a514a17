"""What every video of a set gives: the windows of its clips and its single frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tools.metrics.clips import choose_videos, clip_windows, frame_indices, frame_shares
from tools.metrics.protocol import Offset, Protocol

Side = Literal["real", "fake"]
Windows = list[list[int]]


@dataclass(frozen=True)
class Plan:
    """What is read of a set.

    Attributes:
        windows  by the length of an input (1 for single images), then by the name of the video,
                 in natural order: frame indices, by their start; no video without any
        dropped  names of the videos too short for a clip, in natural order
    """

    windows: Mapping[int, Mapping[str, Windows]]
    dropped: tuple[str, ...]

    def of_video(self, name: str, lengths: Sequence[int]) -> dict[int, Windows]:
        """The windows of one video by length, of some lengths."""
        return {each: self.windows[each][name] for each in lengths if name in self.windows[each]}


@dataclass(frozen=True)
class Terms:
    """What a protocol says of one side."""

    stride: int
    offset: Offset
    clips: int  # of one video
    max_clips: int
    max_frames: int


def terms_of(protocol: Protocol, side: Side, clips_per_video: int | None = None) -> Terms:
    """The protocol's choices for a side. ValueError where the stride is still open."""
    if side == "fake":
        return Terms(
            protocol.fake_stride,
            protocol.fake_offset,
            clips_per_video or 1,
            protocol.max_fake_clips,
            protocol.max_fake_frames,
        )
    return Terms(
        protocol.real_stride,
        protocol.real_offset,
        clips_per_video or protocol.clips_per_real_video,
        protocol.max_real_clips,
        protocol.max_real_frames,
    )


def make_plan(
    title: str,
    counts: Mapping[str, int],
    side: Side,
    protocol: Protocol,
    lengths: Sequence[int],
    clips_per_video: int | None = None,
) -> Plan:
    """The windows of one side.

    Inputs:  title of the set for messages; counts of frames by video, in natural order; lengths
             of the inputs that extractors take
    Raises:  ValueError where fewer than two videos are long enough, or the stride is open
    """
    terms = terms_of(protocol, side, clips_per_video)
    if terms.stride == 0 and max(lengths, default=1) > 1:
        raise ValueError(
            f"{title}: {side}_stride: 0 stands for the generator's training stride, which nothing "
            f"tells here; give {side}_stride=N"
        )
    windows: dict[int, dict[str, Windows]] = {}
    dropped: set[str] = set()
    for length in sorted(set(lengths)):
        if length == 1:
            windows[1] = _images(counts, terms, protocol)
            continue
        found = {
            name: clip_windows(
                name, count, length, terms.stride, terms.offset, terms.clips, protocol.seed
            )
            for name, count in counts.items()
        }
        usable = [name for name in counts if found[name]]
        _check_enough(title, counts, usable, f"{side}_stride", length, terms.stride)
        dropped |= counts.keys() - set(usable)
        limit = max(1, terms.max_clips // terms.clips) if terms.max_clips else 0
        kept = choose_videos(usable, limit, protocol.choice, protocol.seed)
        windows[length] = {name: found[name] for name in kept}
    return Plan(windows, tuple(name for name in counts if name in dropped))


def _images(counts: Mapping[str, int], terms: Terms, protocol: Protocol) -> dict[str, Windows]:
    """Single frames, of all videos; of some where the limit is below one frame of each."""
    limit = terms.max_frames
    kept = list(counts)
    if 0 < limit < len(counts):
        kept = choose_videos(kept, limit, protocol.choice, protocol.seed)
    shares = frame_shares([counts[name] for name in kept], limit, protocol.choice)
    return {
        name: [
            [k] for k in frame_indices(name, counts[name], share, protocol.choice, protocol.seed)
        ]
        for name, share in zip(kept, shares, strict=True)
        if share
    }


def _check_enough(
    title: str,
    counts: Mapping[str, int],
    usable: Sequence[str],
    setting: str,
    length: int,
    stride: int,
) -> None:
    if len(usable) >= 2:
        return
    need = (length - 1) * stride + 1
    clip = f"a clip of {length} frames at stride {stride} needs {need}"
    lower = f"{setting} or clip_frames" if stride > 1 else "clip_frames"
    advice = f"lower {lower} with --set, or take longer videos"
    if usable:
        raise ValueError(
            f"{title}: only one of its {len(counts)} videos ({usable[0]}) is long enough, {clip}; "
            f"{advice}"
        )
    longest = max(counts, key=lambda name: counts[name], default=None)
    found = f"the longest, {longest}, has {counts[longest]} frames" if longest else "it is empty"
    raise ValueError(
        f"{title}: none of its {len(counts)} videos is long enough: {clip}, {found}; {advice}"
    )
