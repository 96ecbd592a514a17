"""Procedural endoscopy: clips with known camera, depth and lesion label, a pure function of a seed.

The renderer exists for the demo, for tests, and wherever truth is needed that real footage
lacks. Lengths are millimetres; poses are camera to world with x to the right, y down and z
forward; pixel centres lie at whole numbers, so a point (x, y, z) of the camera falls on the pixel
(f x / z + cx, f y / z + cy). Depth is the z of the point that the centre of a pixel sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.simulator_render import shade
from datasets.simulator_styles import Setting, build_setting
from datasets.simulator_tube import FAR

Style = Literal["col", "kva", "cho"]
STYLES: tuple[Style, ...] = get_args(Style)
FRAME_RATE = 25.0  # frames per second of the simulated time
SMALLEST = 16  # pixels
FILM_GAMMA = 1.45


@dataclass(frozen=True)
class SimulatedClip:
    """A clip and the truth about it."""

    video: NDArray[np.uint8]  # (F, H, W, 3) RGB
    depth: NDArray[np.float32]  # (F, H, W) z-depth in millimetres, 0 where masked
    poses: NDArray[np.float64]  # (F, 4, 4) camera to world, millimetres
    intrinsics: NDArray[np.float64]  # (3, 3) pixels
    mask: NDArray[np.bool_]  # (H, W) True where the scope sees
    lesion: int  # 1 where the organ bears a lesion, else 0
    lesion_boxes: NDArray[np.float32]  # (F, 4) x0 y0 x1 y1 in pixels, zeros where not visible
    style: str
    seed: int


def simulate_clip(
    seed: int,
    *,
    style: Style = "col",
    frames: int = 64,
    size: int = 128,
    lesion: bool | None = None,
    deformation: float = 1.0,
    motion: float = 1.0,
) -> SimulatedClip:
    """Render one clip.

    The result depends on the arguments alone. A longer clip begins with the frames of a shorter
    one of the same seed.

    Args:
        seed: chooses organ, light, mask and motion; 0 or more.
        style: `col` colonoscopy, `kva` capsule, `cho` laparoscopy with an instrument.
        frames: number of frames, 1/25 s apart.
        size: height and width in pixels.
        lesion: whether the organ bears a lesion; None lets the seed decide, evenly.
        deformation: strength of breathing and peristalsis; 0 keeps the organ rigid.
        motion: speed of the scope; 0 keeps it still.

    Raises:
        ValueError: an argument out of its range.
    """
    _check(seed, style, frames, size, deformation, motion)
    with one_thread(), torch.inference_mode():
        film = _Film(build_setting(seed, style, lesion), size)
        times = [k / FRAME_RATE for k in range(frames)]
        shots = [film.shoot(time, deformation, film.pose(time * motion)) for time in times]
    return _clip(film, shots, style, seed)


def simulate_views(
    seed: int,
    poses: NDArray[np.float64],
    times: Sequence[float],
    *,
    style: Style = "col",
    size: int = 128,
    lesion: bool | None = None,
    deformation: float = 1.0,
) -> SimulatedClip:
    """What the scope of `simulate_clip` would see from other places.

    Args:
        seed: of the clip; `style`, `size`, `lesion` and `deformation` are its arguments too.
        poses: (F, 4, 4) camera to world, millimetres.
        times: (F,) moments of the organ in seconds; frame k of a clip is at k / 25.

    Raises:
        ValueError: an argument out of its range, or other numbers of poses and times.
    """
    _check(seed, style, len(times), size, deformation, 1.0)
    if poses.shape != (len(times), 4, 4):
        raise ValueError(f"poses of shape {poses.shape} for {len(times)} times; (F, 4, 4) needed")
    with one_thread(), torch.inference_mode():
        film = _Film(build_setting(seed, style, lesion), size)
        pairs = zip(poses, times, strict=True)
        shots = [film.shoot(time, deformation, torch.from_numpy(pose)) for pose, time in pairs]
    return _clip(film, shots, style, seed)


Shot = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64], NDArray[np.float32]]


def _clip(film: _Film, shots: Sequence[Shot], style: Style, seed: int) -> SimulatedClip:
    video, depth, poses, boxes = (np.stack(part) for part in zip(*shots, strict=True))
    return SimulatedClip(
        video=video,
        depth=depth,
        poses=poses,
        intrinsics=film.intrinsics,
        mask=film.mask,
        lesion=int(film.setting.lesion),
        lesion_boxes=boxes,
        style=style,
        seed=seed,
    )


class _Film:
    """Turns moments into frames.

    A frame is sampled at the centres of its pixels and at their corners. The centres give the
    truth; a pixel's colour is half its centre and an eighth each of its corners, which smooths
    edges at twice, not four times, the cost.
    """

    def __init__(self, setting: Setting, size: int) -> None:
        self.setting, self.size = setting, size
        self.intrinsics = setting.lens.intrinsics(size)
        whole = np.stack(np.meshgrid(np.arange(size), np.arange(size)), 0).reshape(2, -1)
        corner = np.stack(np.meshgrid(np.arange(size + 1), np.arange(size + 1)), 0) - 0.5
        places = np.concatenate([whole, corner.reshape(2, -1)], axis=1)
        x, y = (places + 0.5) / size * 2 - 1
        inside = setting.lens.opening(x, y) * size / 2 + 0.5  # pixels
        self.alpha = torch.from_numpy(np.clip(inside, 0, 1)).float()
        self.falloff = torch.from_numpy(setting.lens.falloff(x, y)).float()
        self.mask: NDArray[np.bool_] = inside[: size * size].reshape(size, size) >= 0.5
        self.seen = torch.nonzero(self.alpha > 0)[:, 0]
        focal = self.intrinsics[0, 0]
        middle = self.intrinsics[:2, 2:]
        rays = np.concatenate([(places - middle) / focal, np.ones((1, places.shape[1]))])
        self.rays = torch.from_numpy(rays).float()[:, self.seen]

    def pose(self, time: float) -> Tensor:
        """Where the scope is (4, 4) when it has been under way for `time` seconds."""
        return self.setting.path.pose(time, self.setting.scene.axis)

    def shoot(self, time: float, deformation: float, pose: Tensor) -> Shot:
        """Picture (H, W, 3), depth (H, W), pose (4, 4) and lesion box (4,) of one moment."""
        setting, size = self.setting, self.size
        shaded = shade(
            setting.scene.wall(time, deformation),
            setting.texture,
            setting.scene.rods(time, deformation),
            setting.light,
            pose.float(),
            self.rays,
            float(self.intrinsics[0, 0]),
            FAR,
        )
        depth = self._spread(shaded.depth[None])[0, : size * size].reshape(size, size).numpy()
        lesion = self._spread(shaded.lesion[None])[0, : size * size].reshape(size, size).numpy()
        return (
            self._develop(shaded.colour),
            np.where(self.mask, depth, 0).astype(np.float32),
            pose.numpy(),
            _box((lesion > 0.5) & self.mask),
        )

    def _spread(self, values: Tensor) -> Tensor:
        """Values (C, N) of the rays that see, on all samples; 0 elsewhere."""
        full = torch.zeros(values.shape[0], len(self.alpha))
        full[:, self.seen] = values
        return full

    def _develop(self, colour: Tensor) -> NDArray[np.uint8]:
        """Linear light (3, N) to a picture (H, W, 3): gain, film curve, mask, pixels."""
        colour = colour * self.falloff[self.seen]
        bright = colour.mean(0)
        level = float((bright / (bright + 0.7)).mean())
        gain = 2.2 * (self.setting.light.exposure / max(level, 0.02)) ** 0.7
        tone = (1 - torch.exp(-gain * colour)) ** (1 / FILM_GAMMA)
        full = self._spread(tone) * self.alpha
        count, size = self.size * self.size, self.size
        middle = full[:, :count].reshape(3, size, size)
        corners = full[:, count:].reshape(1, 3, size + 1, size + 1)
        around = torch.nn.functional.avg_pool2d(corners, 2, stride=1)[0]
        picture = (0.5 * middle + 0.5 * around).clamp(0, 1) * 255
        return picture.permute(1, 2, 0).round().to(torch.uint8).contiguous().numpy()


def _box(lesion: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Smallest box (x0, y0, x1, y1) around the true pixels, ends included; zeros for none."""
    rows, columns = np.nonzero(lesion)
    if len(rows) < 4:
        return np.zeros(4, np.float32)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return np.array(box, np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that results do not depend on the machine's load or size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(
    seed: int, style: str, frames: int, size: int, deformation: float, motion: float
) -> None:
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(STYLES)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")
    if frames < 1:
        raise ValueError(f"{frames} frames asked for; a clip has at least 1")
    if size < SMALLEST:
        raise ValueError(f"size {size} is too small; use {SMALLEST} pixels or more")
    if not 0 <= deformation <= 3:
        raise ValueError(f"deformation is {deformation}; it must lie between 0 and 3")
    if not 0 <= motion <= 10:
        raise ValueError(f"motion is {motion}; it must lie between 0 and 10")
