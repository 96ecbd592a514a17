"""Which frames of a video make a clip for diagnosis: a window of time, and frames spread over it.

Real and generated videos are looked at for the same time of the scene, so that neither the length
of a video nor a repeated frame tells where it is from, or what its label is.
"""

from __future__ import annotations

import numpy as np

Indices = list[int]

# The published protocol: every 32nd of the frames that a player of 30 frames per second shows.
PUBLISHED_RATE, PUBLISHED_FPS = 32, 30.0


def frames_in(seconds: float, fps: float) -> int:
    """Frames of a file that a window of so many seconds of the scene covers, at least 1.

    `fps` are frames per second of the scene: of a recording what its file says; of a generated
    video, whatever its file says, the rate of the recordings that its model learned from, divided
    by their frames from one of its frames to the next.
    Raises:  ValueError unless both are above 0
    """
    if not (seconds > 0 and fps > 0):
        raise ValueError(f"a window of {seconds} s at {fps} frames per second: both are above 0")
    return max(1, round(seconds * fps))


def spread(start: int, span: int, frames: int) -> Indices:
    """The middles of `frames` equal parts of the `span` frames from `start` on.

    All are different where span >= frames. Of a shorter stretch the same rule takes every frame,
    some of them twice: there is no other way to make more of it.
    """
    return [start + (2 * k + 1) * span // (2 * frames) for k in range(frames)]


def train_window(available: int, frames: int, span: int, random: np.random.Generator) -> Indices:
    """A window at a random place of a video, and the frames spread over it.

    Inputs:  available frames of the video, `frames` wanted, `span` frames that the window covers;
             a shorter video is one window as a whole, and a window never has fewer frames than
             are wanted where the video has them
    Output:  `frames` ascending indices, all different unless the video has fewer frames
    Raises:  ValueError for a video without frames
    """
    span = _fitting(available, frames, span)
    start = int(random.integers(available - span + 1))
    return spread(start, span, frames)


def even_windows(available: int, frames: int, span: int, windows: int) -> list[Indices]:
    """Windows spread evenly over a video, from its first frame to its last.

    A single one lies in the middle. A video with room for fewer different ones gives these, so
    nothing is looked at twice: one of a video not longer than the window.
    Raises:  ValueError for a video without frames, or less than one window
    """
    if windows < 1:
        raise ValueError(f"number of windows of a test video: at least 1, got {windows}")
    span = _fitting(available, frames, span)
    room = available - span
    if windows == 1:
        return [spread(room // 2, span, frames)]
    starts = sorted({round(k * room / (windows - 1)) for k in range(windows)})
    return [spread(start, span, frames) for start in starts]


def published_window(
    available: int, frames: int, fps: float, random: np.random.Generator | None = None
) -> Indices:
    """The published rule, with its flaw: what lies beyond the end is the last frame again.

    The frames are spread over as many of the file's frames as 32 * frames / 30 seconds of playing
    have, from a random place or, without `random`, from the start. In a video of fewer frames the
    last ones are all the same: its length shows.

    Inputs:  fps of playing, as the file says
    Output:  `frames` indices that never decrease
    Raises:  ValueError for a video without frames, or without a rate
    """
    if available < 1 or not fps > 0:
        raise ValueError(f"a video of {available} frames at {fps} per second")
    length = PUBLISHED_RATE * frames / PUBLISHED_FPS * fps
    start = 0.0 if random is None else random.uniform(0, max(available - length, 0))
    places = np.linspace(start, start + length - 1, frames)
    return [int(place) for place in np.clip(places, 0, available - 1)]


def _fitting(available: int, frames: int, span: int) -> int:
    """The frames that a window covers in a video of so many."""
    if available < 1:
        raise ValueError("a video without frames has no window")
    return min(available, max(span, frames))
