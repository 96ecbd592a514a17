"""Frames of videos: sizes they are kept at, and what stays in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.sources import ArrayFile
from datasets.video_io import write_video
from tools.diagnosis.clips import ClipReader


def array(path: Path, frames: int = 6, height: int = 20, width: int = 30, seed: int = 0) -> Tensor:
    """A video of noise as a file; its frames (F, 3, H, W)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)
    np.save(path, pixels)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were opened for their frames, one entry a time."""
    seen: list[Path] = []
    read, iterate = ArrayFile.read, ArrayFile.iterate

    def counted_read(self: ArrayFile, indices: list[int]) -> Tensor:
        seen.append(self.path)
        return read(self, indices)

    def counted_iterate(self: ArrayFile, fps: float | None = None) -> object:
        seen.append(self.path)
        return iterate(self, fps)

    monkeypatch.setattr(ArrayFile, "read", counted_read)
    monkeypatch.setattr(ArrayFile, "iterate", counted_iterate)
    return seen


@pytest.mark.parametrize("memory", [0, 2**20])
def test_frames_are_those_of_the_file(tmp_path: Path, memory: int) -> None:
    frames = array(tmp_path / "a.npy")
    reader = ClipReader(64, memory=memory)
    assert reader.count(tmp_path / "a.npy") == 6
    assert reader.fps(tmp_path / "a.npy") is None
    assert torch.equal(reader.read(tmp_path / "a.npy", [4, 0, 4]), frames[[4, 0, 4]])


@pytest.mark.parametrize("memory", [0, 2**20])
def test_larger_frames_are_reduced_and_smaller_ones_left(tmp_path: Path, memory: int) -> None:
    array(tmp_path / "a.npy", height=40, width=60)
    assert ClipReader(10, memory=memory).read(tmp_path / "a.npy", [1]).shape == (1, 3, 10, 15)
    matched = ClipReader(20, match_resolution=10, memory=memory)
    assert matched.read(tmp_path / "a.npy", [1]).shape == (1, 3, 10, 15)


def test_memory_and_disk_give_the_same_pixels(tmp_path: Path) -> None:
    array(tmp_path / "a.npy", height=40, width=60)
    kept = ClipReader(16).read(tmp_path / "a.npy", [0, 3])
    assert torch.equal(kept, ClipReader(16, memory=0).read(tmp_path / "a.npy", [0, 3]))


def test_a_small_video_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    frames = array(tmp_path / "a.npy")
    reader = ClipReader(64)
    for _ in range(3):
        clip = reader.read(tmp_path / "a.npy", [0, 1])
        clip.zero_()  # it belongs to whom asked for it
    assert reads == [tmp_path / "a.npy"]
    assert torch.equal(reader.read(tmp_path / "a.npy", [0]), frames[:1])


def test_a_large_video_is_never_kept(tmp_path: Path, reads: list[Path]) -> None:
    array(tmp_path / "a.npy")
    size = 6 * 3 * 20 * 30
    reader = ClipReader(64, memory=8 * size - 1)
    for _ in range(2):
        reader.read(tmp_path / "a.npy", [0])
    assert len(reads) == 2


def test_the_longest_unused_video_makes_room(tmp_path: Path, reads: list[Path]) -> None:
    paths = [tmp_path / f"{k}.npy" for k in range(9)]
    for k, path in enumerate(paths):
        array(path, seed=k)
    reader = ClipReader(64, memory=8 * 6 * 3 * 20 * 30)
    for path in paths[:8]:
        reader.read(path, [0])
    reader.read(paths[0], [0])  # used again, so the next one has to go
    reader.read(paths[8], [0])
    assert reads == paths
    reader.read(paths[0], [0])
    assert len(reads) == 9
    reader.read(paths[1], [0])
    assert len(reads) == 10


def test_a_video_file_tells_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, np.full((5, 16, 16, 3), 90, np.uint8), fps=8)
    reader = ClipReader(16)
    assert reader.fps(path) == pytest.approx(8)
    assert reader.read(path, [4]).shape == (1, 3, 16, 16)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    array(tmp_path / "a.npy")
    for memory in (0, 2**20):
        for wrong in (6, -1):
            with pytest.raises(IndexError, match=f"frame {wrong} asked for, it has 6"):
                ClipReader(64, memory=memory).read(tmp_path / "a.npy", [0, wrong])
        with pytest.raises(FileNotFoundError, match=r"none.mp4: no such video"):
            ClipReader(64, memory=memory).read(tmp_path / "none.mp4", [0])
        (tmp_path / "broken.mp4").write_bytes(b"not a video")
        with pytest.raises(ValueError, match=r"broken.mp4"):
            ClipReader(64, memory=memory).read(tmp_path / "broken.mp4", [0])
    with pytest.raises(ValueError, match="store_size: at least 1"):
        ClipReader(0)
    with pytest.raises(ValueError, match="match_resolution: at least 1"):
        ClipReader(8, match_resolution=0)
