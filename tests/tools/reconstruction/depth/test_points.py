"""Depth of pixels from the points of a search for cameras."""

from __future__ import annotations

import torch

from tools.reconstruction.cameras.pinhole import Cameras, fixed_cameras
from tools.reconstruction.depth.points import (
    depth_at_points,
    depth_between_points,
    seen_points,
)

SIZE = 20


def wall(count: int = 150) -> tuple[Cameras, torch.Tensor, torch.Tensor]:
    """A camera, a slanted wall before it (true depth of its pixels), and points on the wall."""
    cameras = fixed_cameras(SIZE, SIZE, 1, 90)
    line = (torch.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    depth = 1 / (0.4 + 0.1 * line.expand(SIZE, SIZE))
    world = cameras.camera(0).unproject(depth).flatten(0, 1)
    chosen = torch.randperm(len(world), generator=torch.Generator().manual_seed(0))[:count]
    return cameras, depth, world[chosen]


def test_pixels_with_a_point_have_its_depth_and_the_others_none() -> None:
    cameras, depth, points = wall()
    found = depth_at_points(cameras, points)
    assert found.shape == (1, SIZE, SIZE)
    assert int((found > 0).sum()) == len(points)
    torch.testing.assert_close(found[found > 0], depth[None][found > 0])


def test_between_points_inverse_depth_is_interpolated() -> None:
    cameras, depth, points = wall()
    found = depth_between_points(cameras, points)[0]
    assert float((found / depth - 1).abs().mean()) < 0.02
    assert float((found / depth - 1).abs().max()) < 0.2


def test_points_that_are_hidden_or_wrong_are_left_out() -> None:
    cameras, depth, points = wall()
    hidden, floating = points[:10] * 2, points[10:15] * 0.4  # on the same pixels
    every = torch.cat([points[15:], hidden, floating])
    pixels, kept = seen_points(cameras.camera(0), every)
    columns, rows = pixels.long().unbind(1)
    torch.testing.assert_close(kept.float(), depth[rows, columns])
    assert len(kept) > len(points) - 20
    found = depth_between_points(cameras, every)[0]
    assert float((found / depth - 1).abs().mean()) < 0.03


def test_points_behind_beside_and_too_few_give_no_depth() -> None:
    cameras, _, points = wall()
    for none in (-points, points + torch.tensor([50.0, 0, 0]), points[:8], points[:0]):
        assert not depth_at_points(cameras, none).any()
        assert not depth_between_points(cameras, none).any()


def test_of_two_points_on_a_pixel_the_nearer_counts() -> None:
    cameras, _, points = wall()
    pair = depth_at_points(cameras, torch.cat([points, points * 1.1]))
    torch.testing.assert_close(pair, depth_at_points(cameras, points))
