"""The videos of a data set: video files, arrays, and folders of frames that count as videos."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datasets import array_io, video_io
from datasets.image_io import IMAGE_SUFFIXES, read_image

Names = npt.NDArray[np.bytes_]


class Source(ABC):
    """One video of a data set.

    `name` is its path below the root of the data set, with slashes and without a suffix.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    @abstractmethod
    def count(self) -> int:
        """The exact number of frames; ValueError naming the file where it is broken."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Tensor:
        """Those frames, and no others: (len(indices), 3, H, W) uint8."""

    @abstractmethod
    def iterate(self, fps: float | None = None) -> Iterator[Tensor]:
        """All frames, each (3, H, W) uint8, one in memory at a time; see `iterate_frames`."""

    @abstractmethod
    def fps(self) -> float | None:
        """Mean frames per second, None where nothing tells."""

    @abstractmethod
    def size_on_disk(self) -> int:
        """Bytes on disk: changes when the video is replaced."""

    @abstractmethod
    def frame_size(self) -> tuple[int, int]:
        """(H, W) of the first frame."""

    def files(self, indices: Sequence[int]) -> list[Path]:
        """The files that those frames are stored in."""
        return [self.path]

    def container(self) -> str:
        """How the frames are stored: the suffix of the file or of the first frame, no dot."""
        return self.path.suffix.lower().lstrip(".")


class VideoFile(Source):
    """A video in one file."""

    def count(self) -> int:
        return video_io.frame_count(self.path)

    def read(self, indices: Sequence[int]) -> Tensor:
        return video_io.read_frames(self.path, indices)

    def iterate(self, fps: float | None = None) -> Iterator[Tensor]:
        return video_io.iterate_frames(self.path, fps)

    def fps(self) -> float | None:
        return video_io.frame_table(self.path).fps

    def size_on_disk(self) -> int:
        return self.path.stat().st_size

    def frame_size(self) -> tuple[int, int]:
        return video_io.frame_table(self.path).size


class ArrayFile(Source):
    """A video as an array, as sampling writes it: .npz (array `video`) or .npy."""

    def count(self) -> int:
        return array_io.array_shape(self.path)[0]

    def read(self, indices: Sequence[int]) -> Tensor:
        return array_io.read_array(self.path, indices)

    def iterate(self, fps: float | None = None) -> Iterator[Tensor]:
        if fps is not None:
            raise ValueError(f"{self.path}: an array has no frame rate to change")
        return array_io.iterate_array(self.path)

    def fps(self) -> float | None:
        return None

    def size_on_disk(self) -> int:
        return self.path.stat().st_size

    def frame_size(self) -> tuple[int, int]:
        return array_io.array_shape(self.path)[1:3]


class FrameFolder(Source):
    """A video as images in one folder, in natural order of their names (2 before 10)."""

    def __init__(self, name: str, path: Path, images: Iterable[str]) -> None:
        super().__init__(name, path)
        # One array instead of many strings: millions of names stay small, and forked workers
        # share them.
        self.images: Names = np.array([os.fsencode(image) for image in natural_order(images)])

    def count(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Path:
        """The file of one frame."""
        return self.path / os.fsdecode(bytes(self.images[index]))

    def read(self, indices: Sequence[int]) -> Tensor:
        frames = [read_image(self.image(index)) for index in indices]
        sizes = {tuple(frame.shape[1:]) for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"{self.path}: frames of different sizes: {sorted(sizes)}")
        return torch.stack(frames)

    def iterate(self, fps: float | None = None) -> Iterator[Tensor]:
        if fps is not None:
            raise ValueError(f"{self.path}: a folder of frames has no frame rate to change")
        return (read_image(self.image(index)) for index in range(len(self.images)))

    def fps(self) -> float | None:
        return None

    def size_on_disk(self) -> int:
        return sum(self.image(index).stat().st_size for index in range(len(self.images)))

    def frame_size(self) -> tuple[int, int]:
        height, width = read_image(self.image(0)).shape[1:]
        return height, width

    def files(self, indices: Sequence[int]) -> list[Path]:
        return [self.image(index) for index in indices]

    def container(self) -> str:
        return self.image(0).suffix.lower().lstrip(".")


def find_sources(
    folder: Path,
    *,
    videos: bool = True,
    frames: bool = True,
    arrays: bool = False,
    suffixes: Sequence[str] = video_io.VIDEO_SUFFIXES,
    exclude: Path | None = None,
) -> list[Source]:
    """The video files and folders of frames below a folder, in natural order of their names.

    With `arrays` also .npz and .npy files, but for those that hold something else.

    A folder of images is a video only where no video lies in or below it, so that a cover
    picture beside the clips is not one. Hidden files and folders are passed over.

    Inputs:  suffixes of video files, lower case, with the dot; exclude a folder to stay out of
    Raises:  FileNotFoundError where there is no such folder
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    seen = {folder.resolve()} | ({exclude.resolve()} if exclude else set())
    files = (*suffixes, *(array_io.ARRAY_SUFFIXES if arrays else ()))
    found = list(_walk(folder, folder, files, seen))
    wanted = [s for s in found if (frames if isinstance(s, FrameFolder) else videos)]
    keys = {id(source): natural_key(source.name) for source in wanted}
    return sorted(wanted, key=lambda source: (keys[id(source)], str(source.path)))


def read_list(path: Path) -> list[Source]:
    """The sources that a list file names, one frame or video file a line, by folder.

    Lines are relative to the folder of the list; empty lines and `#` comments are skipped.
    Raises:  FileNotFoundError, ValueError for an empty list or a line that leaves its folder
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; write one with process_list.py")
    root = path.parent
    folders: dict[PurePosixPath, list[str]] = {}
    sources: list[Source] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        item = PurePosixPath(entry)
        if item.is_absolute() or ".." in item.parts:
            raise ValueError(
                f"{path}: line {number}: {entry} leaves the folder of the list; paths must be "
                f"relative to it and stay inside"
            )
        if item.suffix.lower() in video_io.VIDEO_SUFFIXES:
            sources.append(VideoFile(str(item.with_suffix("")), root / item))
        elif item.suffix.lower() in IMAGE_SUFFIXES:
            folders.setdefault(item.parent, []).append(item.name)
        else:
            raise ValueError(f"{path}: line {number}: {entry} is neither an image nor a video")
    sources += [FrameFolder(str(name), root / name, files) for name, files in folders.items()]
    if not sources:
        raise ValueError(f"{path}: the list is empty; write it anew with process_list.py")
    for source in sources:
        first = source.image(0) if isinstance(source, FrameFolder) else source.path
        if not first.is_file():
            raise FileNotFoundError(f"{path}: it names {first}, which does not exist")
    return sorted(sources, key=lambda source: natural_key(source.name))


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted with numbers by value, so that 2 comes before 10; ties by spelling."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """What to sort a name by; see `natural_order`."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _walk(folder: Path, root: Path, suffixes: tuple[str, ...], seen: set[Path]) -> Iterator[Source]:
    """Sources in and below one folder; `seen` holds real paths, so circles of links end."""
    images, below = [], []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        suffix = path.suffix.lower()
        if entry.is_dir():
            if (real := path.resolve()) not in seen:
                seen.add(real)
                below += list(_walk(path, root, suffixes, seen))
        elif suffix in suffixes:
            name = path.relative_to(root).with_suffix("").as_posix()
            if suffix not in array_io.ARRAY_SUFFIXES:
                below.append(VideoFile(name, path))
            elif array_io.holds_video(path):
                below.append(ArrayFile(name, path))
        elif suffix in IMAGE_SUFFIXES:
            images.append(entry.name)
    if images and not below:
        relative = folder.relative_to(root).as_posix()
        yield FrameFolder(folder.resolve().name if relative == "." else relative, folder, images)
    yield from below
