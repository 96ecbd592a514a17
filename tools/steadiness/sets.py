"""Long samples with their seams, and real videos cut to the same length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datasets.sources import Source
from diffusion.extension import Windows
from tools.metrics.sets import Generated, open_generated, open_set
from tools.steadiness.frames import FrameValues, frame_values


@dataclass(frozen=True)
class LongSet:
    """Measured videos of equal length, and where windows meet in them."""

    name: str
    videos: Sequence[FrameValues]
    seams: tuple[int, ...]
    window: int  # frames of a clip, or of the parts of a video without seams
    stride: int  # source frames of a real video from one frame to the next


def read_samples(
    folder: Path, window: int | None = None, overlap: int | None = None, count: int = 64
) -> LongSet:
    """The first `count` videos of a folder of samples. `window` and `overlap`, in frames, are
    those of the record beside the videos unless they are given; where one is, the seams follow
    from both.

    Raises:  FileNotFoundError or ValueError in one line, for videos of different lengths too
    """
    found = open_generated(folder)
    videos = [frame_values(source.iterate()) for source in found.set.sources[:count]]
    lengths = {len(video) for video in videos}
    if len(lengths) > 1:
        raise ValueError(
            f"{found.set.path}: videos of {min(lengths)} to {max(lengths)} frames; drift is "
            f"measured on videos of one length"
        )
    frames = lengths.pop()
    parts = _parts(found)
    if window is None and overlap is None and parts and parts[1] == frames:
        length, seams = parts[0], parts[2]
    else:
        clip = window or (found.real.frames if found.real else None)
        length, seams = clip or frames, _seams(found, frames, clip, overlap)
    return LongSet(found.label, videos, seams, length, found.training_stride or 1)


def read_real(path: Path, like: LongSet, stride: int | None = None, count: int = 64) -> LongSet:
    """Real videos as far as the samples go, every `stride`-th frame of them; how many frames they
    share decides the shortest of those that last for two windows.

    Raises:  FileNotFoundError or ValueError in one line
    """
    stride, wanted = stride or like.stride, len(like.videos[0])
    enough = min(wanted, 2 * like.window)
    chosen: list[FrameValues] = []
    for source in open_set(path).sources:
        if -(-source.count() // stride) >= enough:
            chosen.append(frame_values(_strided(source, stride, wanted)))
        if len(chosen) == count:
            break
    if not chosen:
        raise ValueError(
            f"{path}: no video lasts for {enough} frames at every {stride}. frame, two windows of "
            f"the samples; give longer ones or a smaller --stride"
        )
    # Longer ones are worth more than many: those that last as long as the samples, if there are.
    full = [video for video in chosen if len(video) == wanted]
    chosen = full if len(full) >= 2 else chosen
    shortest = min(len(video) for video in chosen)
    videos = [_shortened(video, shortest) for video in chosen]
    return LongSet(str(path), videos, like.seams, like.window, stride)


def _strided(source: Source, stride: int, frames: int) -> Any:
    return islice(source.iterate(), 0, stride * frames, stride)


def _shortened(video: FrameValues, frames: int) -> FrameValues:
    return FrameValues(
        video.mean[:frames],
        video.deviation[:frames],
        video.sharpness[:frames],
        video.step[:frames],
        video.distance[:frames],
    )


def _parts(found: Generated) -> tuple[int, int, tuple[int, ...]] | None:
    """Frames of a clip, of a video, and the seams, where the record tells them."""
    parts: Any = (found.set.record or {}).get("parts")
    try:
        return parts["clip_frames"], parts["frames"], tuple(parts["seams"])
    except (TypeError, KeyError):
        return None


def _seams(
    found: Generated, frames: int, window: int | None, overlap: int | None
) -> tuple[int, ...]:
    record = found.set.record or {}
    if window is None or frames <= window:
        return ()
    if overlap is None:
        overlap = _recorded_overlap(record)
    if overlap is None:
        return ()
    return tuple(Windows(window, overlap, frames).seams)


def _recorded_overlap(record: Mapping[str, Any]) -> int | None:
    sampling = record.get("made_by", {}).get("sampling", {})
    overlap = sampling.get("overlap") if isinstance(sampling, dict) else None
    return overlap if isinstance(overlap, int) else None
