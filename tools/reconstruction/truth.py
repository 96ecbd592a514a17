"""What is known about a clip beforehand, and how far a reconstruction is from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.simulator import FRAME_RATE, SimulatedClip, simulate_clip, simulate_views
from tools.reconstruction.cameras.files import read_cameras
from tools.reconstruction.cameras.pinhole import Alignment, Camera, Cameras, align, renumbered
from tools.reconstruction.depth.sources import read_given
from tools.reconstruction.frames import Clip
from tools.reconstruction.settings import QualitySettings, SimulationSettings

# Cameras in the world of the truth and numbers of frames in the video -> pictures, depths, mask
View = Callable[
    [Sequence[Camera], Sequence[int]],
    tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]],
]


@dataclass(frozen=True)
class Truth:
    """Truth about the frames of a clip; None where nothing is known."""

    cameras: Cameras | None = None  # numbered by frame of the clip
    depths: NDArray[np.float32] | None = None  # (F, h, w)
    view: View | None = None  # what would be seen from elsewhere


def simulated(settings: SimulationSettings) -> tuple[Clip, Truth, SimulatedClip]:
    """A simulated clip as frames, and everything about it.

    Raises:  ValueError for settings out of their range
    """
    if settings.seed is None:
        raise ValueError("simulate.seed: give the seed of the simulated clip")
    made = simulate_clip(
        settings.seed,
        style=settings.style,
        frames=settings.frames,
        size=settings.size,
        deformation=settings.deformation,
        motion=settings.motion,
    )
    numbers = tuple(range(settings.frames))
    name = f"simulated {settings.style} {settings.seed}"
    clip = Clip(name, made.video, numbers, settings.frames, FRAME_RATE, True)
    poses = torch.linalg.inv(torch.from_numpy(made.poses))
    centred = half_shifted(made.intrinsics)
    cameras = Cameras(centred, poses, settings.size, settings.size, numbers, "given")

    def view(
        path: Sequence[Camera], frames: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
        worlds = torch.stack([torch.linalg.inv(each.world_to_camera) for each in path])
        seen = simulate_views(
            settings.seed or 0,
            worlds.numpy(),
            [frame / FRAME_RATE for frame in frames],
            style=settings.style,
            size=settings.size,
            deformation=settings.deformation,
        )
        return seen.video, seen.depth, seen.mask

    return clip, Truth(cameras, made.depth, view), made


def read_truth(settings: QualitySettings, clip: Clip, field_of_view: float) -> Truth:
    """What files tell of the chosen frames of a clip.

    Raises:  FileNotFoundError, ValueError where a file is of other frames
    """
    depths = cameras = None
    height, width = clip.pictures.shape[1:3]
    poses = settings.true_poses
    if settings.truth is not None:
        path = Path(settings.truth)
        depths = read_given(path, clip.numbers, clip.length)
        poses = poses or (settings.truth if holds_poses(path) else None)
    if poses is not None:
        every = read_cameras(Path(poses), clip.length, height, width, field_of_view)
        cameras = of_clip(every, clip)
    return Truth(cameras, depths)


def holds_poses(path: Path) -> bool:
    """Whether an array file holds camera poses beside its depth, as the simulator's truth does."""
    if path.suffix != ".npz":
        return False
    with np.load(path, allow_pickle=False) as content:
        return "poses" in content and "intrinsics" in content


def of_clip(cameras: Cameras, clip: Clip) -> Cameras:
    """Cameras of the frames of a video as those of the chosen frames, numbered from 0.

    Raises:  ValueError where no chosen frame has a pose
    """
    kept = len(set(cameras.numbers) & set(clip.numbers))
    if kept < 2:
        raise ValueError(
            f"the poses belong to other frames: {kept} of the {len(clip.numbers)} chosen frames "
            f"have one (frames {clip.numbers[0]} to {clip.numbers[-1]} were chosen)"
        )
    return renumbered(cameras, clip.numbers)


def half_shifted(intrinsics: NDArray[np.float64]) -> Tensor:
    """Intrinsics of pixel centres at whole numbers as those of centres at 0.5."""
    shifted = intrinsics.copy()
    shifted[:2, 2] += 0.5
    return torch.from_numpy(shifted)


@dataclass(frozen=True)
class Bridge:
    """From the world of a reconstruction to that of the truth."""

    scale: float
    rotation: Tensor  # (3, 3): true = scale rotation found + translation
    translation: Tensor  # (3,)
    alignment: Alignment | None  # None: the cameras stand still, so one pose was laid on the other

    def to_found(self, camera: Camera) -> Camera:
        """A camera of the true world in that of the reconstruction."""
        turn, shift = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = turn @ self.rotation
        pose[:3, 3] = (turn @ self.translation + shift) / self.scale
        return replace(camera, world_to_camera=pose)


def bridge(found: Cameras, truth: Cameras, depth_ratio: float) -> Bridge:
    """How to carry a reconstruction to the truth.

    Inputs:  both numbered by frame; depth_ratio, true over found depth, for cameras that stand
             still and tell no scale
    """
    common = sorted(set(found.numbers) & set(truth.numbers))
    first, second = found.chosen(common), truth.chosen(common)
    spread = float((first.centres - first.centres.mean(0)).norm(dim=1).max())
    if len(common) >= 3 and spread > 1e-6:
        alignment = align(first, second)
        return Bridge(alignment.scale, alignment.rotation, alignment.translation, alignment)
    middle = len(common) // 2
    here, there = first.world_to_camera[middle], second.world_to_camera[middle]
    back = torch.linalg.inv(there)
    rotation = back[:3, :3] @ here[:3, :3]
    translation = depth_ratio * back[:3, :3] @ here[:3, 3] + back[:3, 3]
    return Bridge(depth_ratio, rotation, translation, None)


def path_length(cameras: Cameras) -> float:
    """The way of the camera from pose to pose, in the unit of the cameras."""
    return float((cameras.centres[1:] - cameras.centres[:-1]).norm(dim=1).sum())
