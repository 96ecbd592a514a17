"""A fitted scene seen along a path of cameras."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera, Cameras
from tools.reconstruction.splatting.rasterise import Render


class Renders(Protocol):
    """What can be seen through a camera at a time: a fit."""

    def render(self, camera: Camera, time: float = 0.0) -> Render: ...


@dataclass(frozen=True)
class Film:
    """What a path of cameras sees."""

    colours: NDArray[np.float32]  # (F, H, W, 3) in [0, 1]
    depths: NDArray[np.float32]  # (F, H, W) z, 0 where nothing is seen
    opacities: NDArray[np.float32]  # (F, H, W)

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """(F, H, W, 3)"""
        return np.round(self.colours * 255).astype(np.uint8)


def film(
    scene: Renders,
    cameras: Sequence[Camera],
    times: Sequence[float],
    shown: Callable[[int], None] = lambda count: None,
) -> Film:
    """Render one frame a camera and time; `shown` hears of each."""
    colours, depths, opacities = [], [], []
    for camera, time in zip(cameras, times, strict=True):
        render = scene.render(camera, float(time))
        colours.append(render.colour.clamp(0, 1).cpu().float().numpy())
        depths.append(render.depth.cpu().float().numpy())
        opacities.append(render.opacity.cpu().float().numpy())
        shown(1)
    # Where hardly anything is hit, the mean depth of what little is there means nothing.
    depth, opacity = np.stack(depths), np.stack(opacities)
    return Film(np.stack(colours), np.where(opacity > 0.5, depth, 0).astype(np.float32), opacity)


def every_camera(cameras: Cameras, count: int) -> list[Camera]:
    """A camera for each of `count` frames: those without a pose get one from their neighbours.

    Between two poses positions go straight and orientations along the shortest turn; before the
    first and after the last the nearest pose is repeated.
    """
    numbers = np.array(cameras.numbers)
    found = []
    for frame in range(count):
        after = int(np.searchsorted(numbers, frame))
        if after < len(numbers) and numbers[after] == frame:
            found.append(cameras.camera(after))
        elif after == 0 or after == len(numbers):
            found.append(cameras.camera(min(after, len(numbers) - 1)))
        else:
            share = (frame - numbers[after - 1]) / (numbers[after] - numbers[after - 1])
            found.append(between(cameras.camera(after - 1), cameras.camera(after), float(share)))
    return found


def between(first: Camera, second: Camera, share: float) -> Camera:
    """The camera at a share (0 to 1) of the way from one to another."""
    start, end = first.world_to_camera[:3, :3], second.world_to_camera[:3, :3]
    turn = power(end @ start.T, share) @ start
    centre = (1 - share) * first.centre + share * second.centre
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = turn, -turn @ centre
    return replace(first, world_to_camera=pose)


def power(rotation: Tensor, share: float) -> Tensor:
    """A rotation (3, 3) about the same axis by a share of the angle."""
    cosine = float(((rotation.diagonal().sum() - 1) / 2).clamp(-1, 1))
    angle = math.acos(cosine)
    if angle < 1e-8:
        return torch.eye(3, dtype=rotation.dtype)
    cross = (rotation - rotation.T) / (2 * math.sin(angle)) if angle < math.pi - 1e-6 else None
    if cross is None:  # half a turn: its axis is the column of R + 1 that is longest
        columns = rotation + torch.eye(3, dtype=rotation.dtype)
        axis = columns[:, int(columns.norm(dim=0).argmax())]
        x, y, z = (axis / axis.norm()).tolist()
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=rotation.dtype)
    part = share * angle
    eye = torch.eye(3, dtype=rotation.dtype)
    return eye + math.sin(part) * cross + (1 - math.cos(part)) * cross @ cross


def novel_path(cameras: Sequence[Camera], distance: float) -> list[Camera]:
    """The path again, each camera moved aside along one turn of an ellipse.

    Inputs:  distance, the largest way to the right and left, in the unit of the cameras; half as
             much up and down
    """
    turns = [2 * math.pi * (k + 0.5) / len(cameras) for k in range(len(cameras))]
    return [
        camera.shifted(right=distance * math.sin(turn), down=distance / 2 * math.cos(turn))
        for camera, turn in zip(cameras, turns, strict=True)
    ]
