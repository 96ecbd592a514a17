"""What counts as a video, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.image_io import read_image, write_image
from datasets.sources import (
    ArrayFile,
    FrameFolder,
    VideoFile,
    find_sources,
    natural_order,
    read_list,
)

MakeVideo = Callable[..., Path]


def write_frames(folder: Path, names: list[str], size: int = 16) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        write_image(folder / name, torch.full((3, size, size), 10 * k, dtype=torch.uint8))


def test_numbers_are_sorted_by_value() -> None:
    assert natural_order(["f10", "f9", "f1b", "f1a", "g"]) == ["f1a", "f1b", "f9", "f10", "g"]


def test_videos_and_folders_of_frames_are_found(tmp_path: Path) -> None:
    write_frames(tmp_path / "b" / "VID10", ["0.png"])
    write_frames(tmp_path / "b" / "VID9", ["0.png"])
    write_frames(tmp_path, ["cover.jpg"])
    write_frames(tmp_path / ".partial" / "x", ["0.png"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00001.MP4").touch()
    (tmp_path / "a" / "._00001.mp4").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = find_sources(tmp_path)
    assert [(s.name, type(s)) for s in found] == [
        ("a/00001", VideoFile),
        ("b/VID9", FrameFolder),
        ("b/VID10", FrameFolder),
    ]
    assert [s.name for s in find_sources(tmp_path, videos=False)] == ["b/VID9", "b/VID10"]
    assert [s.name for s in find_sources(tmp_path, exclude=tmp_path / "b")] == ["a/00001"]


def test_frames_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", ["f1.png", "f2.png", "f10.png"])
    (source,) = find_sources(tmp_path)
    assert source.count() == 3
    assert source.read([2, 0])[:, 0, 0, 0].tolist() == [20, 0]
    assert [int(frame[0, 0, 0]) for frame in source.iterate()] == [0, 10, 20]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "v", ["0.png", "1.png"])
    (tmp_path / "v" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png: not readable as an image"):
        find_sources(tmp_path)[0].read([0, 1])
    write_frames(tmp_path / "v", ["1.png"], size=32)
    with pytest.raises(ValueError, match="different sizes"):
        find_sources(tmp_path)[0].read([0, 1])


def test_jpeg_quality_is_95_with_full_colours(tmp_path: Path) -> None:
    from PIL import Image, JpegImagePlugin

    write_image(tmp_path / "a.jpg", torch.randint(256, (3, 16, 16), dtype=torch.uint8))
    Image.new("RGB", (16, 16)).save(tmp_path / "b.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as ours, Image.open(tmp_path / "b.jpg") as reference:
        assert ours.quantization == reference.quantization
        assert JpegImagePlugin.get_sampling(ours) == 0
    png = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    write_image(tmp_path / "a.png", png)
    assert torch.equal(read_image(tmp_path / "a.png"), png)


def test_a_list_is_read_from_its_own_folder(tmp_path: Path) -> None:
    write_frames(tmp_path / "v" / "2", ["0.png", "1.png", "2.png"])
    listing = tmp_path / "list.txt"
    listing.write_text("# half of them\nv/2/2.png\n\nv/2/0.png\n")
    (source,) = read_list(listing)
    assert source.name == "v/2"
    assert source.read([0, 1])[:, 0, 0, 0].tolist() == [0, 20]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../other/0.png", r"line 1: \.\./other/0\.png leaves the folder of the list"),
        ("/data/0.png", "leaves the folder of the list"),
        ("v/../../0.png", "leaves the folder of the list"),
        ("", "the list is empty"),
        ("v/notes.txt", "neither an image nor a video"),
        ("v/0.png", "does not exist"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, line: str, message: str) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_list(listing)


def test_arrays_are_found_only_when_asked_for(tmp_path: Path) -> None:
    frames = np.zeros((5, 8, 12, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = [0, 10, 20, 30, 40]
    np.savez_compressed(tmp_path / "v10.npz", video=frames)
    np.save(tmp_path / "v9.npy", frames)
    np.save(tmp_path / "poses.npy", np.zeros((4, 4)))
    write_frames(tmp_path, ["cover.png"])  # what training would take for the video
    assert [source.name for source in find_sources(tmp_path)] == [tmp_path.name]
    found = find_sources(tmp_path, arrays=True)
    assert [(s.name, type(s)) for s in found] == [("v9", ArrayFile), ("v10", ArrayFile)]
    for source in found:
        assert source.count() == 5
        assert source.frame_size() == (8, 12)
        assert source.read([3, 1])[:, 0, 0, 0].tolist() == [30, 10]
        assert [int(frame[0, 0, 0]) for frame in source.iterate()] == [0, 10, 20, 30, 40]
        assert source.fps() is None
        with pytest.raises(ValueError, match="no frame rate to change"):
            source.iterate(8)
    assert [source.container() for source in found] == ["npy", "npz"]


def test_sources_tell_size_and_files(tmp_path: Path, make_video: MakeVideo) -> None:
    make_video("data/a.MP4", 5)
    make_video("data/turned.mp4", 5, rotation=90)
    write_frames(tmp_path / "data" / "b", ["f1.png", "f2.png", "f10.png"])
    video, frames, turned = find_sources(tmp_path / "data")
    assert (video.frame_size(), turned.frame_size(), frames.frame_size()) == (
        *((64, 96), (96, 64), (16, 16)),
    )
    assert video.read([0]).shape[2:] == video.frame_size()
    assert turned.read([0]).shape[2:] == turned.frame_size()
    assert (video.container(), frames.container()) == ("mp4", "png")
    assert video.files([0, 3]) == [video.path]
    assert [path.name for path in frames.files([2, 0])] == ["f10.png", "f1.png"]
