"""The frames of a clip that a scene is made from, and what makes them unfit for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.image_io import IMAGE_SUFFIXES
from datasets.sources import FrameFolder, Source, VideoFile, find_sources
from datasets.video_io import VIDEO_SUFFIXES

Pictures = NDArray[np.uint8]  # (F, H, W, 3)

LEAST_FRAMES = 4  # two to fit, two to test
LEAST_SIDE = 24  # pixels
FLAT = 2.0  # grey levels: a picture that varies less shows nothing
SAME = 0.05  # grey levels: frames that differ less are one frame repeated


@dataclass(frozen=True)
class Clip:
    """Frames of one video, upright, in the order of time."""

    name: str
    pictures: Pictures  # (F, H, W, 3) uint8 RGB, as large as in the file
    numbers: tuple[int, ...]  # place of each in the file, from 0
    length: int  # frames in the file
    fps: float  # of these frames, so that their videos last as long as the original
    rate_known: bool  # False: nothing tells the frame rate, and `fps` is a guess

    @property
    def times(self) -> NDArray[np.float64]:
        """(F,) from -1 for the first frame to 1 for the last."""
        first, last = self.numbers[0], self.numbers[-1]
        return 2 * (np.array(self.numbers) - first) / max(last - first, 1) - 1


def scenes_in(path: Path) -> list[Source]:
    """The videos that a path names: one file, one folder of pictures, or a folder of either.

    Raises:  FileNotFoundError, or ValueError where nothing is a video
    """
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(
                f"{path}: not a video; give one of {', '.join(VIDEO_SUFFIXES)}, a folder of "
                f"pictures, or a folder of videos"
            )
        return [VideoFile(path.stem, path)]
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video or folder")
    pictures = sorted(each.name for each in path.iterdir() if _is_picture(each))
    if pictures:  # before folders below it, which may hold depth maps and masks
        return [FrameFolder(path.resolve().name, path, pictures)]
    if (path / "images").is_dir():  # EndoNeRF and COLMAP put pictures there, others beside
        return [_renamed(each, path) for each in scenes_in(path / "images")]
    found = find_sources(path)
    if not found:
        raise ValueError(f"{path}: holds no video and no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return found


def read_clip(source: Source, count: int, start: int, stop: int, fps: float) -> Clip:
    """`count` frames spread evenly over the frames `start` to `stop` (0: to the end) of a video.

    Inputs:  count 0 for all of them; fps for sources that do not tell theirs
    Raises:  ValueError where the frames are too few, too small, flat, or all the same
    """
    length = source.count()
    last = min(stop or length, length)
    available = last - start
    if available < LEAST_FRAMES:
        raise ValueError(
            f"{source.path}: {max(available, 0)} frames from {start} to {last} of {length}; a "
            f"scene needs {LEAST_FRAMES} or more: take a longer video, or widen frames.start and "
            f"frames.stop"
        )
    numbers = chosen_frames(available, count, start)
    pictures = source.read(numbers).permute(0, 2, 3, 1).contiguous().numpy()
    check_pictures(pictures, str(source.path))
    known = source.fps()
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    return Clip(source.name, pictures, tuple(numbers), length, (known or fps) / step, bool(known))


def chosen_frames(available: int, count: int, start: int = 0) -> list[int]:
    """`count` numbers evenly spread over `available` from `start` on, first and last included."""
    if not count or count >= available:
        return list(range(start, start + available))
    return [start + round(k * (available - 1) / (count - 1)) for k in range(count)]


def check_pictures(pictures: Pictures, name: str) -> None:
    """Refuse frames that no method can make a scene of.

    Raises:  ValueError in one line: too small, flat, or one frame repeated
    """
    height, width = pictures.shape[1:3]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"{name}: frames of {width}x{height} pixels; a scene needs {LEAST_SIDE} on each side"
        )
    grey = pictures.mean(-1, dtype=np.float32)
    inner = grey[:, height // 4 : -(height // 4), width // 4 : -(width // 4)]
    spread = float(np.median(inner.std((1, 2))))
    if spread < FLAT:
        raise ValueError(
            f"{name}: its frames are flat (they vary by {spread:.1f} grey levels in the middle, "
            f"{FLAT:g} are needed); no texture, no scene: check that it is the right video"
        )
    change = float(np.abs(grey - grey[:1]).mean((1, 2)).max())
    if change < SAME:
        raise ValueError(
            f"{name}: one frame, {len(pictures)} times over; a scene needs motion of the camera or "
            f"of the tissue: choose other frames, or a video that moves"
        )


def fitted_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Even sides of a picture whose longer one is at most `longest` (0: as it is)."""
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    return _even(height * scale), _even(width * scale)


def resized(pictures: Pictures, height: int, width: int) -> Pictures:
    """Pictures (F, h, w, 3) by area, which averages what falls into one pixel."""
    if pictures.shape[1:3] == (height, width):
        return pictures
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(
        tensor, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    rounded = small.clamp(0, 255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().numpy()


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))


def _is_picture(path: Path) -> bool:
    is_image = path.suffix.lower() in IMAGE_SUFFIXES
    return is_image and not path.name.startswith(".") and path.is_file()


def _renamed(source: Source, folder: Path) -> Source:
    source.name = folder.resolve().name
    return source
