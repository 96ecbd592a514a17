"""Which frames a video file holds, in the order of display, from its packets alone."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Stamps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameTable:
    """Where the frames of one video file are; see `video_io.frame_table`."""

    stamps: Stamps  # (F,) time stamps in the order of display
    keys: Stamps  # ascending stamps of the frames where decoding may start
    key_starts: Stamps  # decoding stamps of the same frames
    time_base: Fraction  # seconds in one unit of a stamp
    height: int  # of a stored frame, before rotation
    width: int
    rotation: int  # quarter turns anticlockwise that display it upright: 0, 1, 2, 3
    reliable: bool  # the stamps tell the order, so a frame can be sought by its stamp
    suits_decord: bool  # where decord's frames are bit for bit those of PyAV
    nominal_rate: float  # frames per second that the container claims; 0 where it is silent

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def fps(self) -> float:
        """Mean frames per second; the container's claim where a single frame has no duration."""
        if len(self) < 2 or self.stamps[-1] == self.stamps[0]:
            return self.nominal_rate
        return float((len(self) - 1) / (int(self.stamps[-1] - self.stamps[0]) * self.time_base))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a displayed frame."""
        sides = (self.height, self.width)
        return sides if self.rotation % 2 == 0 else (sides[1], sides[0])

    def key_before(self, index: int) -> int:
        """Which of `keys` is the last one shown no later than a frame."""
        return int(np.searchsorted(self.keys, self.stamps[index], side="right")) - 1

    def is_shown(self, stamp: int) -> bool:
        """Whether a frame has this stamp."""
        return _contains(self.stamps, stamp)

    def is_key(self, stamp: int) -> bool:
        """Whether a frame where decoding may start has this stamp."""
        return _contains(self.keys, stamp)


@dataclass(frozen=True)
class CodedFrame:
    """One coded frame: its stamps of display and of decoding."""

    shown: int | None
    decoded: int
    is_key: bool
    restarts: bool  # nothing after it builds on anything before it


def build_table(
    packets: Sequence[CodedFrame],
    *,
    container: str,
    codec: str,
    time_base: Fraction,
    nominal_rate: float,
    size: tuple[int, int],
    rotation: int,
) -> FrameTable:
    """Sort what a demuxer found, and judge what it is worth.

    Inputs:  packets in the order of decoding, the first one a key frame; the names that FFmpeg
             gives container and codec; size (H, W) and quarter turns of the stored frames
    """
    stamps = np.array([packet.shown or 0 for packet in packets], dtype=np.int64)
    starts = np.array([packet.decoded for packet in packets], dtype=np.int64)
    is_key = np.array([packet.is_key for packet in packets])
    reliable = all(p.shown is not None for p in packets) and len(set(stamps)) == len(stamps)
    # An AVI file stores no stamps: with reordered frames they are the order of decoding.
    if container == "avi" and bool((stamps != starts).any()) and bool((np.diff(stamps) > 0).all()):
        reliable = False
    if reliable:
        shown = stamps >= stamps[0]  # frames shown before the first key frame lack their base
        stamps, starts, is_key = stamps[shown], starts[shown], is_key[shown]
    order = np.argsort(stamps[is_key], kind="stable")
    # decord returns wrong pictures, silently, after a key frame that others reach across, and
    # in other containers; it was compared on H.264 only.
    closed = codec == "h264" and all(packet.restarts for packet in packets if packet.is_key)
    known = container.startswith(("mov,mp4", "matroska"))
    return FrameTable(
        stamps=np.sort(stamps),
        keys=stamps[is_key][order],
        key_starts=starts[is_key][order],
        time_base=time_base,
        height=size[0],
        width=size[1],
        rotation=rotation,
        reliable=reliable,
        suits_decord=reliable and closed and known and rotation == 0,
        nominal_rate=nominal_rate,
    )


def length_bytes(header: bytes | None) -> int:
    """How many bytes hold the length of a unit of H.264 in mp4 and mkv (ISO 14496-15, 5.3)."""
    return (header[4] & 3) + 1 if header and len(header) > 4 and header[0] == 1 else 4


def holds_idr(packet: bytes, unit_length: int) -> bool:
    """Whether an H.264 packet is a full restart (IDR, unit type 5) and not just a key frame."""
    position = 0
    while position + unit_length < len(packet):
        body = position + unit_length
        if packet[body] & 0x1F == 5:
            return True
        position = body + int.from_bytes(packet[position:body], "big")
    return False


def _contains(ascending: Stamps, value: int) -> bool:
    # For one value this takes a fifth of the time of searchsorted.
    place = bisect.bisect_left(ascending, value)
    return place < len(ascending) and int(ascending[place]) == value
