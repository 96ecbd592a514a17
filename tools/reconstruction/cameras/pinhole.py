"""Pinhole cameras of a clip: OpenCV axes (x right, y down, z forward), poses world to camera.

The centre of the first pixel lies at (0.5, 0.5), as in COLMAP and gsplat: a point (x, y, z) of the
camera falls on (fx x / z + cx, fy y / z + cy). Poses are float64; lengths are in the unit of
their source, which for cameras found from pictures alone is arbitrary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

LOOKS = 0.1  # weight of orientations against positions when two sets are aligned
ORTHOGONAL = 1e-3  # how far R Rᵀ may be from the identity: files round to few digits


@dataclass(frozen=True)
class Camera:
    """One pinhole camera."""

    intrinsics: Tensor  # (3, 3) float64, pixels
    world_to_camera: Tensor  # (4, 4) float64
    height: int
    width: int

    @property
    def centre(self) -> Tensor:
        """Position in the world (3,)."""
        return -self.world_to_camera[:3, :3].T @ self.world_to_camera[:3, 3]

    def resized(self, height: int, width: int) -> Camera:
        """The same camera with another number of pixels."""
        intrinsics = _scale(self.intrinsics, height / self.height, width / self.width)
        return replace(self, intrinsics=intrinsics, height=height, width=width)

    def shifted(self, right: float = 0.0, down: float = 0.0, forward: float = 0.0) -> Camera:
        """The camera moved along its own axes, in the unit of the poses."""
        step = torch.tensor([right, down, forward], dtype=torch.float64)
        pose = self.world_to_camera.clone()
        pose[:3, 3] -= step
        return replace(self, world_to_camera=pose)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, 2) and depth z (N,) of world points (N, 3)."""
        seen = points.to(torch.float64) @ self.world_to_camera[:3, :3].T
        seen = seen + self.world_to_camera[:3, 3]
        pixels = seen @ self.intrinsics.T
        return pixels[:, :2] / pixels[:, 2:], seen[:, 2]

    def unproject(self, depth: Tensor) -> Tensor:
        """World points (H, W, 3) that the centres of the pixels see at depth z (H, W)."""
        rows = torch.arange(self.height, dtype=torch.float64) + 0.5
        columns = torch.arange(self.width, dtype=torch.float64) + 0.5
        down, right = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([right, down, torch.ones_like(right)], -1)
        rays = pixels @ torch.linalg.inv(self.intrinsics).T
        inside = rays * depth.to(torch.float64)[..., None]
        rotation, translation = self.world_to_camera[:3, :3], self.world_to_camera[:3, 3]
        return (inside - translation) @ rotation


@dataclass(frozen=True)
class Cameras:
    """The cameras of a clip: shared intrinsics and a pose for each frame listed in `numbers`."""

    intrinsics: Tensor  # (3, 3) float64, pixels
    world_to_camera: Tensor  # (N, 4, 4) float64
    height: int
    width: int
    numbers: tuple[int, ...]  # frame that each pose belongs to, ascending, from 0
    source: str  # given, colmap or fixed

    def __post_init__(self) -> None:
        if self.intrinsics.shape != (3, 3):
            raise ValueError(f"intrinsics have shape {tuple(self.intrinsics.shape)}, not (3, 3)")
        if self.world_to_camera.shape != (len(self.numbers), 4, 4):
            shape = tuple(self.world_to_camera.shape)
            raise ValueError(f"poses of shape {shape} for {len(self.numbers)} frames")
        if list(self.numbers) != sorted(set(self.numbers)):
            raise ValueError("frame numbers of cameras must ascend without repeats")

    def __len__(self) -> int:
        return len(self.numbers)

    def camera(self, index: int) -> Camera:
        """The camera of the pose with this index (not frame number)."""
        return Camera(self.intrinsics, self.world_to_camera[index], self.height, self.width)

    @property
    def centres(self) -> Tensor:
        """Positions in the world (N, 3)."""
        rotations, translations = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -torch.einsum("nji,nj->ni", rotations, translations)

    @property
    def field_of_view(self) -> float:
        """Horizontal field of view in degrees."""
        return math.degrees(2 * math.atan(self.width / 2 / float(self.intrinsics[0, 0])))

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras with another number of pixels."""
        intrinsics = _scale(self.intrinsics, height / self.height, width / self.width)
        return replace(self, intrinsics=intrinsics, height=height, width=width)

    def chosen(self, numbers: Sequence[int]) -> Cameras:
        """The cameras of these frames alone.

        Raises:
            ValueError: a frame has no pose.
        """
        missing = sorted(set(numbers) - set(self.numbers))
        if missing:
            raise ValueError(f"no pose for frames {missing[:5]}; there are {len(self)} poses")
        wanted = tuple(sorted(set(numbers)))
        places = [self.numbers.index(number) for number in wanted]
        return replace(self, world_to_camera=self.world_to_camera[places], numbers=wanted)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, as `cameras.json` holds them."""
        return {
            "source": self.source,
            "axes": "OpenCV: x right, y down, z forward; centre of the first pixel at (0.5, 0.5)",
            "height": self.height,
            "width": self.width,
            "intrinsics": self.intrinsics.tolist(),
            "frames": list(self.numbers),
            "world_to_camera": self.world_to_camera.tolist(),
        }


def camera_matrix(height: int, width: int, field_of_view: float) -> Tensor:
    """Intrinsics (3, 3) of a lens with this horizontal field of view in degrees."""
    if not 1 <= field_of_view <= 175:
        raise ValueError(f"a field of view of {field_of_view} degrees is not between 1 and 175")
    focal = width / 2 / math.tan(math.radians(field_of_view) / 2)
    rows = [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)


def fixed_cameras(height: int, width: int, frames: int, field_of_view: float) -> Cameras:
    """One camera at the origin for all frames."""
    poses = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4).clone()
    matrix = camera_matrix(height, width, field_of_view)
    return Cameras(matrix, poses, height, width, tuple(range(frames)), "fixed")


@dataclass(frozen=True)
class Alignment:
    """The similarity that carries estimated into true positions: s R x + t."""

    scale: float
    rotation: Tensor  # (3, 3)
    translation: Tensor  # (3,)
    errors: Tensor  # (N,) distance of each aligned position from the true one
    turns: Tensor  # (N,) angle in degrees between aligned and true orientation

    @property
    def rmse(self) -> float:
        """Root of the mean squared position error (ATE), in the unit of the truth."""
        return float(self.errors.square().mean().sqrt())

    def apply(self, points: Tensor) -> Tensor:
        """Carry points (N, 3) of the estimated world into the true one."""
        return self.scale * points.to(torch.float64) @ self.rotation.T + self.translation

    def carry(self, cameras: Cameras) -> Cameras:
        """Estimated cameras in the true world and its unit."""
        rotations = cameras.world_to_camera[:, :3, :3] @ self.rotation.T
        centres = self.apply(cameras.centres)
        poses = cameras.world_to_camera.clone()
        poses[:, :3, :3] = rotations
        poses[:, :3, 3] = -torch.einsum("nij,nj->ni", rotations, centres)
        return replace(cameras, world_to_camera=poses)


def renumbered(cameras: Cameras, numbers: Sequence[int]) -> Cameras:
    """Cameras of frames chosen from a clip, numbered anew in the order of the choice.

    Frames without a pose stay without.

    Args:
        cameras: numbered by the frames of the whole clip.
        numbers: the chosen frames, ascending.

    Raises:
        ValueError: none of the chosen frames has a pose.
    """
    new = {old: place for place, old in enumerate(numbers)}
    kept = [number for number in cameras.numbers if number in new]
    if not kept:
        raise ValueError(f"none of the {len(numbers)} chosen frames has a pose")
    return replace(cameras.chosen(kept), numbers=tuple(new[number] for number in kept))


def align(estimate: Cameras, truth: Cameras) -> Alignment:
    """Best similarity between two sets of cameras, by their positions (Umeyama 1991).

    Only frames with a pose in both count. Orientations have a small say in the rotation
    (`LOOKS`), because positions on a line leave it open how far to turn about that line.

    Raises:
        ValueError: fewer than three common frames, positions that all coincide, or paths that
            fit better mirrored than turned.
    """
    common = sorted(set(estimate.numbers) & set(truth.numbers))
    if len(common) < 3:
        raise ValueError(f"{len(common)} frames with both poses; an alignment needs 3")
    estimate, truth = estimate.chosen(common), truth.chosen(common)
    source, target = estimate.centres, truth.centres
    middle, goal = source.mean(0), target.mean(0)
    spread = (source - middle).square().sum(1).mean()
    if not spread > 0:
        raise ValueError("the cameras to align all stand at one place")
    covariance = (target - goal).T @ (source - middle) / len(common)
    axes = truth.world_to_camera[:, :3, :3].transpose(1, 2) @ estimate.world_to_camera[:, :3, :3]
    reach = (spread * (target - goal).square().sum(1).mean()).sqrt()
    left, _, right = torch.linalg.svd(covariance + LOOKS * reach * axes.mean(0))
    signs = torch.ones(3, dtype=torch.float64)
    signs[2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    rotation = left @ torch.diag(signs) @ right
    scale = (rotation * covariance).sum() / spread
    if not scale > 0:
        raise ValueError("the two paths of the camera have nothing in common")
    translation = goal - scale * rotation @ middle
    errors = (scale * source @ rotation.T + translation - target).norm(dim=1)
    aligned = estimate.world_to_camera[:, :3, :3] @ rotation.T
    between = aligned @ truth.world_to_camera[:, :3, :3].transpose(1, 2)
    cosines = (between.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    turns = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
    return Alignment(float(scale), rotation, translation, errors, turns)


def checked_poses(poses: Tensor, where: str) -> Tensor:
    """Poses (N, 4, 4) as float64, made exactly rigid where rounding blurred them.

    Raises:
        ValueError: a value is not finite, or a rotation is none.
    """
    poses = poses.to(torch.float64).clone()
    if not torch.isfinite(poses).all():
        raise ValueError(f"{where}: a pose holds a value that is not finite")
    rotations = poses[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64)
    off = (rotations @ rotations.transpose(1, 2) - eye).abs().amax((1, 2))
    bad = torch.nonzero((off > ORTHOGONAL) | (torch.linalg.det(rotations) < 0))
    if len(bad):
        raise ValueError(f"{where}: pose {int(bad[0])} has no rotation in its upper left 3 x 3")
    left, _, right = torch.linalg.svd(rotations)
    poses[:, :3, :3] = left @ right
    poses[:, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    return poses


def _scale(intrinsics: Tensor, down: float, right: float) -> Tensor:
    factors = torch.tensor([right, down, 1.0], dtype=torch.float64)
    return intrinsics * factors[:, None]
