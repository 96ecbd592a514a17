"""Where Gaussians begin: on what is known, as large as their spacing."""

from __future__ import annotations

import math

import pytest
import torch

from tools.reconstruction.cameras.pinhole import Cameras, camera_matrix
from tools.reconstruction.splatting.initial_points import (
    Points,
    gaussians_from_points,
    initial_points,
    nearest_distances,
)


def two_cameras(size: int = 12) -> Cameras:
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, :3, 3] = torch.tensor([-0.2, 0.1, 0.3])
    return Cameras(camera_matrix(size, size, 80), poses, size, size, (0, 1), "given")


def test_points_from_depth_fall_on_their_pixels_with_their_colours() -> None:
    cameras = two_cameras()
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 12, 12, 3), dtype=torch.uint8)
    depth = torch.rand(2, 12, 12) + 1
    masks = torch.ones(2, 12, 12, dtype=torch.bool)
    masks[:, :6] = False
    points = initial_points(cameras, frames, masks, depth, limit=40)
    assert len(points) == 40
    for first, index in ((0, 0), (20, 1)):
        pixels, z = cameras.camera(index).project(points.positions[first : first + 20])
        torch.testing.assert_close(pixels, pixels.floor() + 0.5, atol=1e-4, rtol=0)
        column, row = pixels.long().unbind(1)
        assert int(row.min()) >= 6
        torch.testing.assert_close(z.float(), depth[index, row, column])
        colours = frames[index, row, column].float() / 255
        torch.testing.assert_close(points.colours[first : first + 20], colours)


def test_frames_kept_for_the_test_are_not_looked_at() -> None:
    cameras, frames = two_cameras(), torch.zeros(2, 12, 12, 3)
    frames[1] = 1.0
    depth = torch.ones(2, 12, 12)
    points = initial_points(cameras, frames, None, depth, limit=50, train=[0])
    assert (points.colours == 0).all()


def test_sparse_points_are_thinned_so_that_pixels_without_them_get_some_too() -> None:
    sparse = Points(torch.rand(600, 3) + torch.tensor([5.0, 0, 3.0]), torch.rand(600, 3))
    cameras, frames = two_cameras(), torch.zeros(2, 12, 12, 3)
    points = initial_points(cameras, frames, None, torch.ones(2, 12, 12), sparse, limit=100)
    assert len(points) == 100
    known = {tuple(row) for row in sparse.positions.tolist()}
    assert sum(tuple(row) in known for row in points.positions.tolist()) == 50
    depths = cameras.camera(0).project(points.positions[50:75])[1]
    torch.testing.assert_close(depths, torch.ones_like(depths))


def test_without_depth_the_sparse_points_tell_it() -> None:
    cameras = two_cameras()
    x, y = (3 * torch.rand(2, 40) - 1.5).unbind(0)
    wall = torch.stack([x, y, 2 + 0.3 * x], 1)  # inverse depth is linear in the picture
    sparse = Points(wall, torch.rand(40, 3))
    points = initial_points(cameras, torch.zeros(2, 12, 12, 3), sparse=sparse, limit=120)
    assert len(points) == 120
    assert torch.equal(points.positions[:40], sparse.positions)
    filled = points.positions[40:]
    assert float((filled[:, 2] - 2 - 0.3 * filled[:, 0]).abs().median()) < 0.1


def test_neither_points_nor_depth_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="no depth to start from"):
        initial_points(two_cameras(), torch.zeros(2, 12, 12, 3))


def test_nearest_distances_of_a_grid() -> None:
    line = torch.arange(5.0)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    torch.testing.assert_close(nearest_distances(grid), torch.ones(125))
    torch.testing.assert_close(
        nearest_distances(torch.tensor([[0.0, 0, 0], [3.0, 0, 0]])), torch.full((2,), 3.0)
    )


def test_gaussians_start_round_faint_and_coloured_even_where_points_coincide() -> None:
    positions = torch.rand(50, 3)
    positions[1:5] = positions[0]
    points = Points(positions, torch.rand(50, 3))
    scene = gaussians_from_points(points, degree=2)
    assert scene.harmonics.shape == (50, 9, 3)
    torch.testing.assert_close(scene.colours(torch.tensor([5.0, 0, 0])), points.colours)
    torch.testing.assert_close(scene.opacities, torch.full((50,), 0.1))
    assert torch.isfinite(scene.log_scales).all()
    assert float(scene.log_scales.min()) > math.log(1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        gaussians_from_points(Points(positions[:1], positions[:1]))
