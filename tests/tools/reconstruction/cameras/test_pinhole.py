"""Cameras project, move and align as geometry says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import (
    Alignment,
    Cameras,
    align,
    camera_matrix,
    checked_poses,
    fixed_cameras,
    renumbered,
)


def rotations(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turns, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))
    return turns * torch.linalg.det(turns)[:, None, None]


def some_cameras(count: int = 6, seed: int = 0) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = rotations(count, seed)
    poses[:, :3, 3] = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Cameras(camera_matrix(48, 64, 80), poses, 48, 64, tuple(range(count)), "given")


def test_the_field_of_view_is_that_of_the_width() -> None:
    matrix = camera_matrix(50, 200, 90)
    assert float(matrix[0, 0]) == pytest.approx(100)  # tan 45 = 1
    assert fixed_cameras(50, 200, 3, 75).field_of_view == pytest.approx(75)


def test_a_point_on_the_axis_falls_on_the_middle_and_right_is_right() -> None:
    camera = fixed_cameras(40, 60, 1, 90).camera(0)
    points = torch.tensor([[0.0, 0, 2], [0.5, 0, 2], [0, 0.5, 2]])
    pixels, depth = camera.project(points)
    assert pixels.tolist() == [[30, 20], [37.5, 20], [30, 27.5]]
    assert depth.tolist() == [2, 2, 2]


def test_unprojecting_what_was_projected_gives_pixel_centres() -> None:
    camera = some_cameras().camera(3)
    depth = 1 + torch.rand(48, 64, generator=torch.Generator().manual_seed(1))
    pixels, seen = camera.project(camera.unproject(depth).reshape(-1, 3))
    first = pixels.reshape(48, 64, 2)
    assert first[0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert first[47, 63].tolist() == pytest.approx([63.5, 47.5])
    assert torch.allclose(seen, depth.double().flatten())


def test_a_smaller_picture_shows_the_same() -> None:
    cameras = some_cameras()
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(2))
    large, depth = cameras.camera(1).project(points)
    small, same = cameras.resized(24, 16).camera(1).project(points)
    assert torch.allclose(small, large * torch.tensor([0.25, 0.5]))
    assert torch.equal(depth, same)


def test_a_camera_moved_along_its_axes_sees_a_point_nearer_and_to_the_left() -> None:
    camera = some_cameras().camera(0)
    point = camera.unproject(torch.full((48, 64), 4.0))[20, 30][None]
    before, _ = camera.project(point)
    moved = camera.shifted(right=0.5, forward=1.0)
    after, depth = moved.project(point)
    assert float(depth) == pytest.approx(3.0)
    assert float(after[0, 0]) < float(before[0, 0])
    assert float((moved.centre - camera.centre).norm()) == pytest.approx(math.hypot(0.5, 1.0))


def test_alignment_undoes_a_similarity() -> None:
    truth = some_cameras()
    moved = Alignment(
        2.5, rotations(1, 7)[0], torch.tensor([1.0, -2, 3]).double(), torch.zeros(0), torch.zeros(0)
    ).carry(truth)
    found = align(moved, truth)
    assert found.scale == pytest.approx(1 / 2.5)
    assert found.rmse < 1e-9
    assert float(found.turns.max()) < 1e-4
    back = found.carry(moved)
    assert torch.allclose(back.world_to_camera, truth.world_to_camera)


def test_a_straight_path_is_aligned_by_where_the_cameras_look() -> None:
    truth = some_cameras()
    poses = truth.world_to_camera.clone()
    line = torch.arange(6)[:, None] * torch.tensor([0.3, -0.2, 1.0]).double()
    poses[:, :3, 3] = -torch.einsum("nij,nj->ni", poses[:, :3, :3], line)
    straight = Cameras(truth.intrinsics, poses, 48, 64, truth.numbers, "given")
    shift = torch.tensor([1.0, -2, 3]).double()
    change = Alignment(0.4, rotations(1, 5)[0], shift, torch.zeros(0), torch.zeros(0))
    found = align(change.carry(straight), straight)
    assert float(found.turns.max()) < 1e-4
    assert found.rmse < 1e-9


def test_alignment_never_mirrors() -> None:
    truth = some_cameras()
    poses = truth.world_to_camera.clone()
    mirrored = -truth.centres
    poses[:, :3, 3] = -torch.einsum("nij,nj->ni", poses[:, :3, :3], mirrored)
    estimate = Cameras(truth.intrinsics, poses, 48, 64, truth.numbers, "given")
    found = align(estimate, truth)
    assert float(torch.linalg.det(found.rotation)) == pytest.approx(1)
    assert found.scale > 0
    assert found.rmse > 0.1


def test_alignment_uses_common_frames_and_refuses_too_few() -> None:
    truth = some_cameras(6)
    part = truth.chosen([1, 3, 4, 5])
    assert align(part, truth).rmse < 1e-12
    with pytest.raises(ValueError, match="2 frames with both poses"):
        align(truth.chosen([0, 1]), truth)
    with pytest.raises(ValueError, match="all stand at one place"):
        align(fixed_cameras(48, 64, 6, 80), truth)


def test_frames_without_a_pose_are_named_or_stay_without() -> None:
    part = some_cameras(8).chosen([0, 2, 4, 6])
    with pytest.raises(ValueError, match=r"no pose for frames \[3\]"):
        part.chosen([2, 3])
    chosen = renumbered(part, (2, 3, 4))
    assert chosen.numbers == (0, 2)
    assert torch.equal(chosen.world_to_camera, part.world_to_camera[1:3])
    with pytest.raises(ValueError, match="none of the 2 chosen frames"):
        renumbered(part, (1, 3))


def test_poses_that_are_none_are_refused_and_rounded_ones_repaired() -> None:
    poses = some_cameras(2).world_to_camera
    blurred = (poses * 1e4).round() / 1e4
    fixed = checked_poses(blurred, "file")
    turn = fixed[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    assert torch.allclose(turn @ turn.transpose(1, 2), eye, atol=1e-12)
    bad = poses.clone()
    bad[1, 0, 0] += 0.5
    with pytest.raises(ValueError, match="file: pose 1 has no rotation"):
        checked_poses(bad, "file")
    mirrored = poses.clone()
    mirrored[0, 0] *= -1
    with pytest.raises(ValueError, match="pose 0 has no rotation"):
        checked_poses(mirrored, "file")
    bad[0, 0, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        checked_poses(bad, "file")
