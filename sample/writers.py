"""Finished videos on disk: mp4, gif, npz, folders of PNG frames, and a contact sheet of them.

Every file appears whole or not at all: it is written under a hidden name and then renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from configs.schema import SampleFormat
from tools.training.files import naming

Frames = NDArray[np.uint8]  # (F, H, W, 3)

MP4_CRF = 10  # constant rate factor of H.264: below about 17 no difference can be seen


def to_frames(video: Tensor) -> Frames:
    """(F, 3, H, W) in [-1, 1] -> (F, H, W, 3) uint8; values outside are clamped."""
    levels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().contiguous().numpy()


def sample_path(folder: Path, name: str, sample_format: SampleFormat) -> Path:
    """Where a video goes: NAME.mp4, NAME.gif, NAME.npz, or the folder NAME for PNG frames."""
    return folder / (name if sample_format == "png" else f"{name}.{sample_format}")


def write_sample(path: Path, frames: Frames, sample_format: SampleFormat, fps: float) -> None:
    """Write one video in one format. `png` and `npz` (array "video") hold the exact pixels."""
    with replacing(path) as unfinished:
        _WRITERS[sample_format](unfinished, frames, fps)


def read_sample(path: Path, sample_format: SampleFormat) -> Frames:
    """The frames of a written video; mp4 and gif give them approximately."""
    if sample_format == "npz":
        with np.load(path) as arrays:
            video: Frames = arrays["video"]
        return video
    if sample_format == "png":
        return np.stack([_pixels(file) for file in sorted(path.glob("*.png"))])
    if sample_format == "gif":
        return _read_gif(path)
    from datasets.video_io import iterate_frames  # a decoder is needed only here

    return np.stack([frame.permute(1, 2, 0).numpy() for frame in iterate_frames(path)])


def write_contact_sheet(
    path: Path, videos: Sequence[Frames], columns: int = 8, rows: int = 8, margin: int = 4
) -> None:
    """One picture of many videos: a row for each, with frames spread evenly over it.

    At most `rows` videos and `columns` frames are shown. Raises ValueError without a video or
    when their frames differ in size.
    """
    shown = [video[_spread(len(video), columns)] for video in videos[:rows]]
    if not shown:
        raise ValueError(f"{path}: a contact sheet needs at least one video")
    if len({video.shape[1:] for video in shown}) > 1:
        raise ValueError(f"{path}: the videos of a contact sheet must have frames of one size")
    height, width = shown[0].shape[1:3]
    across = max(len(video) for video in shown)
    sheet = np.full(
        (len(shown) * (height + margin) + margin, across * (width + margin) + margin, 3),
        24,  # nearly black, as around an endoscope's picture
        dtype=np.uint8,
    )
    for row, video in enumerate(shown):
        for column, frame in enumerate(video):
            top, left = margin + row * (height + margin), margin + column * (width + margin)
            sheet[top : top + height, left : left + width] = frame
    with replacing(path) as unfinished:
        Image.fromarray(sheet).save(unfinished, format="PNG")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; it becomes `path` when the block succeeds."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with naming(path):
            yield unfinished
            if path.is_dir():
                shutil.rmtree(path)
            unfinished.replace(path)
    finally:
        _remove(unfinished)


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left behind; call it before any other process writes."""
    for leftover in folder.glob(".[0-9]*-*"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_mp4(path: Path, frames: Frames, fps: float) -> None:
    from datasets.video_io import write_video  # an encoder is needed only here

    write_video(path, frames, fps, crf=MP4_CRF)


def _write_gif(path: Path, frames: Frames, fps: float) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    duration = round(1000 / fps)  # milliseconds; the format rounds it to hundredths of a second
    first.save(path, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)


def _write_png(path: Path, frames: Frames, fps: float) -> None:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index:06d}.png")


def _write_npz(path: Path, frames: Frames, fps: float) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, video=frames)


_WRITERS: dict[SampleFormat, Callable[[Path, Frames, float], None]] = {
    "mp4": _write_mp4,
    "gif": _write_gif,
    "png": _write_png,
    "npz": _write_npz,
}


def _read_gif(path: Path) -> Frames:
    with Image.open(path) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """At most `count` indices from 0 to length - 1, both ends included."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.int64)
