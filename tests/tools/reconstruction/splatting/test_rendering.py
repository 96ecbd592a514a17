"""Paths of cameras, truth from elsewhere, and pictures for people."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.reconstruction.cameras.pinhole import Camera, Cameras, camera_matrix
from tools.reconstruction.results import plot
from tools.reconstruction.settings import SimulationSettings
from tools.reconstruction.splatting.rasterise import Render
from tools.reconstruction.splatting.rendering import every_camera, film, novel_path, power
from tools.reconstruction.truth import bridge, simulated


def turn(angle: float) -> torch.Tensor:
    """About y."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)


def cameras_at(centres: list[list[float]], angles: list[float], numbers: list[int]) -> Cameras:
    poses = torch.eye(4, dtype=torch.float64).repeat(len(centres), 1, 1)
    for pose, centre, angle in zip(poses, centres, angles, strict=True):
        pose[:3, :3] = turn(angle)
        pose[:3, 3] = -turn(angle) @ torch.tensor(centre, dtype=torch.float64)
    return Cameras(camera_matrix(8, 8, 90), poses, 8, 8, tuple(numbers), "colmap")


def test_frames_without_a_pose_stand_between_their_neighbours() -> None:
    cameras = cameras_at([[0, 0, 0], [4, 0, 0]], [0.0, 0.8], [1, 5])
    path = every_camera(cameras, 8)
    assert len(path) == 8
    torch.testing.assert_close(path[0].world_to_camera, cameras.world_to_camera[0])
    torch.testing.assert_close(path[7].world_to_camera, cameras.world_to_camera[1])
    torch.testing.assert_close(path[2].centre, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(path[2].world_to_camera[:3, :3], turn(0.2))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.3, 3.0, math.pi])
def test_half_a_rotation_twice_is_the_rotation(angle: float) -> None:
    half = power(turn(angle), 0.5)
    torch.testing.assert_close(half @ half, turn(angle), atol=1e-6, rtol=0)


def test_the_novel_path_stays_near_and_never_on_the_path() -> None:
    cameras = cameras_at([[k, 0, 0] for k in range(8)], [0.1] * 8, list(range(8)))
    path = novel_path([cameras.camera(k) for k in range(8)], 0.5)
    away = [float((new.centre - cameras.camera(k).centre).norm()) for k, new in enumerate(path)]
    assert min(away) >= 0.25 - 1e-9
    assert max(away) <= 0.5 + 1e-9
    torch.testing.assert_close(path[3].world_to_camera[:3, :3], turn(0.1))


class Wall:
    """A scene of one depth that is seen only on the left."""

    def render(self, camera: Camera, time: float = 0.0) -> Render:
        opacity = torch.zeros(8, 8)
        opacity[:, :4] = 1
        empty = torch.zeros(0)
        return Render(torch.full((8, 8, 3), time + 1), opacity * 3, opacity, empty, empty)


def test_a_film_has_a_frame_for_each_camera_and_no_depth_where_nothing_is() -> None:
    cameras = cameras_at([[0, 0, 0]] * 3, [0.0] * 3, [0, 1, 2])
    seen = film(Wall(), [cameras.camera(k) for k in range(3)], [-1, -0.5, 0.5])
    assert seen.colours[:, 0, 0, 0].tolist() == [0, 0.5, 1]  # clipped
    assert set(np.unique(seen.depths[..., :4])) == {3}
    assert set(np.unique(seen.depths[..., 4:])) == {0}
    assert seen.pictures.dtype == np.uint8


def test_true_cameras_are_found_in_the_world_of_the_reconstruction() -> None:
    truth = cameras_at(
        [[0, 0, 0], [2, 1, 0], [3, 0, 1], [4, 2, 0]], [0, 0.1, 0.2, 0.3], [0, 1, 2, 3]
    )
    scale, rotation, shift = 2.5, turn(0.7), torch.tensor([1.0, -2, 3], dtype=torch.float64)
    # x_true = scale rotation x_found + shift
    found_poses = truth.world_to_camera.clone()
    for pose, known in zip(found_poses, truth.world_to_camera, strict=True):
        pose[:3, :3] = known[:3, :3] @ rotation
        pose[:3, 3] = (known[:3, :3] @ shift + known[:3, 3]) / scale
    found = replace(truth, world_to_camera=found_poses)
    link = bridge(found, truth, 1.0)
    assert link.scale == pytest.approx(2.5)
    for index in range(4):
        here = link.to_found(truth.camera(index))
        torch.testing.assert_close(here.world_to_camera, found_poses[index], atol=1e-9, rtol=0)


def test_cameras_that_stand_still_are_laid_on_each_other() -> None:
    truth = cameras_at([[1, 2, 3]] * 3, [0.4] * 3, [0, 1, 2])
    found = cameras_at([[0, 0, 0]] * 3, [0.0] * 3, [0, 1, 2])
    link = bridge(found, truth, 2.0)
    assert link.alignment is None
    here = link.to_found(truth.camera(0))
    torch.testing.assert_close(here.world_to_camera, found.world_to_camera[0], atol=1e-9, rtol=0)
    aside = link.to_found(truth.camera(0).shifted(right=1.0))
    assert aside.centre.tolist() == pytest.approx([0.5, 0, 0])


def test_the_simulator_sees_its_own_clip_from_its_own_cameras() -> None:
    settings = SimulationSettings(seed=2, frames=4, size=32, deformation=0.5, motion=2.0)
    clip, truth, _ = simulated(settings)
    assert truth.cameras is not None
    assert truth.view is not None
    assert truth.depths is not None
    path = [truth.cameras.camera(k) for k in range(4)]
    pictures, depths, mask = truth.view(path, range(4))
    close = np.abs(pictures.astype(int) - clip.pictures)[:, mask] <= 2
    assert close.mean() > 0.999
    np.testing.assert_allclose(depths, truth.depths, rtol=1e-3, atol=1e-3)
    # A point seen by a pixel's centre falls on the centre of that pixel, at 0.5.
    world = path[0].unproject(torch.from_numpy(truth.depths[0]))
    pixels, _ = path[0].project(world[16, 20][None])
    assert pixels[0].tolist() == pytest.approx([20.5, 16.5])


def test_colours_of_depth_hold_over_the_clip() -> None:
    depths = np.full((2, 4, 4), 2.0, np.float32)
    depths[1] = 4
    depths[:, 0, 0] = 0
    low, high = plot.depth_range(depths, depths > 0)
    shades = plot.coloured_depth(depths, low, high)
    assert (shades[:, 0, 0] == plot.UNKNOWN).all()
    near, far = shades[0, 2, 2].astype(int), shades[1, 2, 2].astype(int)
    assert near[0] > near[2], "near is warm"
    assert far[2] > far[0] - 20, "far is cold"


def test_videos_beside_each_other_have_even_sides() -> None:
    pictures = np.zeros((3, 33, 41, 3), np.uint8)
    whole = plot.side_by_side({"input": pictures, "rendered": pictures})
    assert len(whole) == 3
    assert whole.shape[1] % 2 == whole.shape[2] % 2 == 0
    assert plot.enlarged(pictures).shape == (3, 264, 328, 3)
    scaled = plot.with_scale(plot.enlarged(pictures), 1, 9)
    assert scaled[:, 20:-20, -plot.BAR_ROOM + 8].std() > 10, "a bar of all colours"
    sheet = plot.sheet({"input": pictures, "depth": pictures}, ["0", "1", "2"])
    assert sheet.ndim == 3
