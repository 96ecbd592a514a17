"""Small video files of every awkward kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datasets.video_io import write_video

MakeVideo = Callable[..., Path]


def moving_square(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """(F, H, W, 3) uint8: frame k is told apart by the place and the colour of a square."""
    frames = np.full((count, height, width, 3), (40, 80, 120), dtype=np.uint8)
    frames[:, :12, :12] = 255  # marks the upper left corner
    for k, frame in enumerate(frames):
        left = (5 * k) % (width - 16)
        frame[30:50, left : left + 16] = (200, 30, (11 * k) % 256)
    return frames


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Write a file of `count` frames in a codec, with time stamps in ms or a rotation."""

    def make(
        name: str = "clip.mp4",
        count: int = 40,
        *,
        codec: str = "libx264",
        stamps: Sequence[int] | None = None,
        rotation: int = 0,
        options: dict[str, str] | None = None,
        group: int = 12,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = moving_square(count)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p" if codec != "gif" else "rgb8"
            stream.codec_context.gop_size = group
            if codec != "gif":
                stream.codec_context.max_b_frames = 2
            if rotation:
                stream.set_display_rotation(rotation)
            if stamps is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            container.start_encoding()  # writes the header even of a video without frames
            for k, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                if stamps is not None:
                    picture.pts, picture.time_base = stamps[k], Fraction(1, 1000)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def folder_of_videos(tmp_path: Path) -> Path:
    """Three videos of 40, 20 and 9 frames, the last one shorter than a clip of 16."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, count in (("00001", 40), ("00002", 20), ("00010", 9)):
        write_video(folder / f"{name}.mp4", moving_square(count), fps=25)
    return folder
