"""Videos and pictures for a report: looked up, tiled, and embedded in the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]  # (F, H, W, 3)

MIME = {".mp4": "video/mp4", ".gif": "image/gif", ".png": "image/png", ".svg": "image/svg+xml"}
PICTURES = (".jpg", ".jpeg", ".png")


def embedded(path: Path) -> str:
    """A file as a data address, so that the page needs nothing beside it."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def clips_of_frames(
    folder: Path, count: int, frames: int, interval: int, size: int
) -> list[Frames]:
    """The beginnings of up to `count` videos, as a model sees them.

    Inputs:  folder with one folder of pictures per video; frames per clip, their distance in
             source frames, and the side in pixels
    Output:  each (F, size, size, 3) uint8; videos that are too short are left out
    """
    clips = []
    for video in sorted(each for each in folder.iterdir() if each.is_dir()):
        files = sorted(file for file in video.iterdir() if file.suffix.lower() in PICTURES)
        chosen = files[: frames * interval : interval]
        if len(chosen) == frames:
            clips.append(np.stack([_picture(file, size) for file in chosen]))
    return [clips[index] for index in _spread(len(clips), count)]


def tiled(videos: Sequence[Frames], columns: int, margin: int = 4, scale: int = 1) -> Frames:
    """Videos side by side in one, (F, H, W, 3); shorter ones hold their last frame.

    Raises ValueError without videos or where their frames differ in size.
    """
    if not videos or len({video.shape[1:] for video in videos}) > 1:
        raise ValueError("tiling needs at least one video, all with frames of one size")
    length, (height, width) = max(len(video) for video in videos), videos[0].shape[1:3]
    columns = min(columns, len(videos))
    rows = -(-len(videos) // columns)
    shape = (length, rows * (height + margin) + margin, columns * (width + margin) + margin, 3)
    whole = np.full(shape, 24, dtype=np.uint8)  # nearly black, as around an endoscope's picture
    for index, video in enumerate(videos):
        top = margin + index // columns * (height + margin)
        left = margin + index % columns * (width + margin)
        held = video[np.minimum(np.arange(length), len(video) - 1)]
        whole[:, top : top + height, left : left + width] = held
    return whole.repeat(scale, axis=1).repeat(scale, axis=2)


def _picture(path: Path, size: int) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        picture = image.convert("RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        return np.asarray(picture)


def _spread(length: int, count: int) -> list[int]:
    """At most `count` different indices, evenly over 0 .. length - 1."""
    count = min(length, count)
    return [index * length // count for index in range(count)]
