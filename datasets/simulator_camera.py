"""The scope of the simulator: lens, mask of the picture, and the path through the organ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.simulator_tube import Wave

MaskForm = Literal["octagon", "round", "rounded"]


@dataclass(frozen=True)
class Lens:
    """A pinhole with a black mask around the picture.

    Sizes are in half pictures: the picture spans -1 to 1 in both directions.
    """

    view: float  # full horizontal angle of view, radians
    form: MaskForm
    reach: tuple[float, float]  # half width and half height of the opening
    centre: tuple[float, float]
    cut: float  # how much of a corner is cut (octagon), or the exponent (rounded)
    vignette: float  # share of light lost at the rim

    def intrinsics(self, size: int) -> NDArray[np.float64]:
        """Camera matrix (3, 3) in pixels, with pixel centres at whole numbers."""
        focal = size / 2 / np.tan(self.view / 2)
        middle = (size - 1) / 2
        return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])

    def opening(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far inside the opening the places (-1 to 1) lie, in half pictures."""
        x, y = np.abs(x - self.centre[0]), np.abs(y - self.centre[1])
        wide, high = self.reach
        if self.form == "octagon":
            corner = (wide + high - self.cut - x - y) / np.sqrt(2)
            return np.minimum(np.minimum(wide - x, high - y), corner)
        if self.form == "round":
            return np.minimum(min(wide, high) - np.hypot(x, y), 1.0)
        power = self.cut
        return (1 - ((x / wide) ** power + (y / high) ** power) ** (1 / power)) * min(wide, high)

    def falloff(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of light that the lens passes at the places (-1 to 1)."""
        squared = (x - self.centre[0]) ** 2 + (y - self.centre[1]) ** 2
        return 1 - self.vignette * np.clip(squared / 1.3, 0, 1) ** 1.3


@dataclass(frozen=True)
class Path:
    """Where the scope is and looks at a moment; bounded, so that a clip may have any length."""

    start: float  # millimetres along the organ, middle of the way to and fro
    way: Wave  # of its two sums only the first is used: millimetres along the organ
    aside: Wave  # millimetres off the centreline
    limit: float  # largest distance from the centreline, millimetres
    glance: Wave  # radians of yaw and pitch
    bias: tuple[float, float]  # the same, at all times
    roll: float
    rolling: Wave
    ahead: float  # millimetres to the point on the centreline that the scope heads for
    interest: tuple[float, float, float] | None = None  # a lesion that draws the look
    pull: float = 0.0  # how strongly, 0 to 1

    def along(self, time: float) -> float:
        """Place along the organ, millimetres."""
        return self.start + float(self.way.at(time)[0])

    def pose(self, time: float, centre: Callable[[float], NDArray[np.float64]]) -> Tensor:
        """Camera to world (4, 4), float64; `centre` gives the axis (x, y) at a z."""
        z = self.along(time)
        offset = self.aside.at(time)
        offset = offset * self.limit / np.hypot(self.limit, np.hypot(*offset))
        position = np.array([*(centre(z) + offset), z])
        target = np.array([*centre(z + self.ahead), z + self.ahead])
        forward = _unit(target - position)
        if self.interest is not None:
            way = np.asarray(self.interest) - position
            pull = self.pull / (1 + np.exp(-(way @ forward - 9) / 4))
            forward = _unit((1 - pull) * forward + pull * _unit(way))
        turn = _facing(forward)
        yaw, pitch = self.glance.at(time) + np.asarray(self.bias)
        roll = self.roll + float(self.rolling.at(time)[0])
        turn = turn @ _about(1, yaw) @ _about(0, pitch) @ _about(2, roll)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, position
        return torch.from_numpy(pose)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector))


def _facing(forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation (3, 3) whose z is `forward` and whose y is near the world's."""
    right = _unit(np.cross(np.array([0.0, 1.0, 0.0]), forward))
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _about(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation (3, 3) by an angle about one of the three axes."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix
