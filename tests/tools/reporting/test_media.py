from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.reporting.media import clips_of_frames, embedded, tiled


def write_video_folder(folder: Path, count: int, size: int = 8) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (size, size), (index, 0, 0)).save(folder / f"{index:06d}.png")


def test_clips_begin_at_the_first_frame_and_keep_the_interval(tmp_path: Path) -> None:
    write_video_folder(tmp_path / "a", 12)
    write_video_folder(tmp_path / "too_short", 5)
    [clip] = clips_of_frames(tmp_path, 8, frames=4, interval=3, size=8)
    assert clip.shape == (4, 8, 8, 3)
    assert clip[:, 0, 0, 0].tolist() == [0, 3, 6, 9]


def test_clips_have_the_size_asked_for_and_are_at_most_so_many(tmp_path: Path) -> None:
    for name in "abcdef":
        write_video_folder(tmp_path / name, 4, size=16)
    clips = clips_of_frames(tmp_path, 3, frames=4, interval=1, size=8)
    assert [clip.shape for clip in clips] == [(4, 8, 8, 3)] * 3


def test_tiles_stand_in_reading_order_and_hold_their_last_frame() -> None:
    videos = [np.full((k + 1, 4, 4, 3), 50 * (k + 1), dtype=np.uint8) for k in range(3)]
    whole = tiled(videos, columns=2, margin=1)
    assert whole.shape == (3, 11, 11, 3)
    corners = [whole[-1, 1, 1, 0], whole[-1, 1, 6, 0], whole[-1, 6, 1, 0]]
    assert corners == [50, 100, 150]


def test_tiles_can_be_enlarged() -> None:
    video = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    assert tiled([video], columns=4, margin=1, scale=3).shape == (2, 18, 18, 3)


def test_tiling_needs_videos_of_one_size() -> None:
    with pytest.raises(ValueError, match="one size"):
        tiled([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 5, 3), np.uint8)], columns=2)
    with pytest.raises(ValueError, match="at least one video"):
        tiled([], columns=2)


def test_an_embedded_file_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x00\x01picture")
    kind, _, content = embedded(path).partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == b"\x00\x01picture"
