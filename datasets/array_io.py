"""Read videos stored as arrays: .npz (array `video`) and .npy, uint8 (F, H, W, 3).

Frame after frame from the file, so that a long video does not have to fit into memory. Nothing is
ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

ARRAY_SUFFIXES = (".npz", ".npy")
MEMBER = "video"  # the array of a .npz that holds the pixels

Shape = tuple[int, int, int, int]  # (F, H, W, 3)


class NoVideo(ValueError):
    """A sound file that holds something other than a video."""


def array_shape(path: Path) -> Shape:
    """(F, H, W, 3) of the video in a file, from its header.

    Raises:  FileNotFoundError; ValueError naming the file where it is broken, `NoVideo` where it
             holds no video
    """
    with _opened(path) as (_, shape):
        return shape


def holds_video(path: Path) -> bool:
    """Whether a file is meant as a video; a broken one is, so that somebody hears of it."""
    try:
        array_shape(path)
    except NoVideo:
        return False
    except ValueError:
        return True
    return True


def iterate_array(path: Path) -> Iterator[Tensor]:
    """All frames, each (3, H, W) uint8, one in memory at a time; errors as `array_shape`."""
    with _opened(path) as (file, shape):
        size = shape[1] * shape[2] * shape[3]
        for index in range(shape[0]):
            data = file.read(size)
            if len(data) != size:
                raise ValueError(f"{path}: truncated after {index} of {shape[0]} frames")
            pixels = np.frombuffer(bytearray(data), dtype=np.uint8).reshape(shape[1:])
            yield torch.from_numpy(pixels).permute(2, 0, 1)
        if file.read(1):  # and with it the checksum of a .npz is compared
            raise ValueError(f"{path}: damaged: more bytes than its {shape[0]} frames have")


def read_array(path: Path, indices: Sequence[int]) -> Tensor:
    """Chosen frames, (len(indices), 3, H, W) uint8; the file is read to its end and checked.

    Raises:  as `array_shape`, and IndexError
    """
    count = array_shape(path)[0]
    outside = [index for index in indices if not 0 <= index < count]
    if outside:
        raise IndexError(f"{path}: frame {outside[0]} asked for, it has {count}")
    wanted = set(indices)
    frames = {k: frame for k, frame in enumerate(iterate_array(path)) if k in wanted}
    return torch.stack([frames[index] for index in indices])


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Shape]]:
    """The file behind its header, and the shape that the header tells."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                if f"{MEMBER}.npy" not in archive.namelist():
                    raise NoVideo(
                        f"{path}: no array `{MEMBER}` in it, but {', '.join(archive.namelist())}"
                    )
                with archive.open(f"{MEMBER}.npy") as member:
                    yield member, _read_shape(path, member)
        else:
            with path.open("rb") as file:
                yield file, _read_shape(path, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged, or no numpy file: {error}") from None


def _read_shape(path: Path, file: IO[bytes]) -> Shape:
    try:
        version = np.lib.format.read_magic(file)
        header: Any = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if header is None:
            raise ValueError(f"version {version} of the format")
        shape, by_columns, kind = header(file)
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or no numpy file: {error}") from None
    if kind != np.uint8 or by_columns or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise NoVideo(
            f"{path}: expected a video, uint8 (frames, height, width, 3), got {kind} {shape}"
        )
    return shape
