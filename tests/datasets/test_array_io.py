"""Arrays are read frame by frame, whole or with an error that names the file."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.array_io import array_shape, holds_video, iterate_array, read_array

VIDEO = np.random.default_rng(0).integers(0, 256, (12, 10, 14, 3), dtype=np.uint8)
FRAMES = torch.from_numpy(VIDEO).permute(0, 3, 1, 2)


def write(path: Path, compressed: bool = True) -> Path:
    if path.suffix == ".npy":
        np.save(path, VIDEO)
    else:
        (np.savez_compressed if compressed else np.savez)(path, video=VIDEO, other=np.zeros(3))
    return path


@pytest.mark.parametrize(("name", "compressed"), [("a.npz", True), ("a.npz", False), ("a.npy", 0)])
def test_frames_come_back(tmp_path: Path, name: str, compressed: bool) -> None:
    path = write(tmp_path / name, compressed)
    assert array_shape(path) == (12, 10, 14, 3)
    assert torch.equal(torch.stack(list(iterate_array(path))), FRAMES)
    assert torch.equal(read_array(path, [3, 0, 3, 11]), FRAMES[[3, 0, 3, 11]])
    with pytest.raises(IndexError, match="frame 12 asked for, it has 12"):
        read_array(path, [12])


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    raw = path.read_bytes()
    for length in (0, 5, 60, len(raw) // 2, len(raw) - 3):
        path.write_bytes(raw[:length])
        assert holds_video(path)  # so that its reader says what is wrong
        with pytest.raises(ValueError, match=rf"{name}: (damaged|truncated)"):
            read_array(path, [0])


def test_a_flipped_bit_is_found_even_behind_the_frames_asked_for(tmp_path: Path) -> None:
    for compressed in (True, False):
        path = write(tmp_path / "a.npz", compressed)
        raw = bytearray(path.read_bytes())
        raw[3000] ^= 4
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=r"a\.npz: damaged"):
            read_array(path, [0])


@pytest.mark.parametrize(
    "array",
    [
        VIDEO.astype(np.float32),
        VIDEO[..., 0],
        VIDEO[..., :2],
        VIDEO[:0],
        np.asfortranarray(VIDEO),
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["float", "grey", "channels", "empty", "columns", "objects"],
)
def test_other_arrays_are_no_videos(tmp_path: Path, array: np.ndarray) -> None:
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, array)
        else:
            np.savez(path, video=array)
        assert not holds_video(path)
        with pytest.raises(ValueError, match=r"expected a video, uint8 \(frames, height"):
            array_shape(path)


def test_an_archive_without_a_video_names_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", poses=np.zeros(3))
    assert not holds_video(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"no array `video` in it, but poses\.npy"):
        array_shape(tmp_path / "a.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "b.npy", np.array([Trap()], dtype=object))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=name):
            read_array(tmp_path / name, [0])
    assert not (tmp_path / "sprung").exists()


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "long.npz", video=np.zeros((600, 64, 64, 3), dtype=np.uint8))
    tracemalloc.start()
    count = sum(1 for _ in iterate_array(tmp_path / "long.npz"))
    read_array(tmp_path / "long.npz", [0, 599])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 600
    assert peak < 600 * 64 * 64 * 3 / 4
