"""Depth that the points of a search for cameras give its frames.

Where a point is seen, the pixel has the depth of the point. Between points the inverse depth is
interpolated, because inverse depth is what is linear over a plane in a picture. Points that are
wrong, or that something nearer hides, disagree with those beside them in the picture; they are
left out frame by frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera, Cameras

NEIGHBOURS = 8  # points that say the depth of a pixel
AGREE = 4 / 3  # largest ratio between a point's depth and the median depth of its neighbours
SOFT = 1.0  # pixels squared: a point closer than a pixel counts as at a pixel


def depth_at_points(cameras: Cameras, points: Tensor) -> Tensor:
    """Depth (F, H, W) float32 of the pixels on which points fall, 0 at all others.

    Args:
        cameras: of every frame, at the size of the maps.
        points: (N, 3) world.
    """
    maps = torch.zeros(len(cameras), cameras.height, cameras.width)
    for index, depths in enumerate(maps):
        pixels, depth = seen_points(cameras.camera(index), points)
        order = depth.argsort(descending=True)  # of several points on a pixel the nearest counts
        columns, rows = pixels[order].long().unbind(1)
        depths[rows, columns] = depth[order].float()
    return maps


def depth_between_points(cameras: Cameras, points: Tensor) -> Tensor:
    """Depth (F, H, W) float32 of every pixel, 0 in frames that see too few points.

    Args:
        cameras: of every frame, at the size of the maps.
        points: (N, 3) world.
    """
    frames = range(len(cameras))
    return torch.stack([_interpolated(cameras.camera(index), points) for index in frames])


def seen_points(camera: Camera, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (M, 2) and depth (M,) of the points in a picture that agree with those beside them.

    None where too few fall into the picture to tell.
    """
    pixels, depth = camera.project(points)
    size = torch.tensor([camera.width, camera.height])
    inside = (depth > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)
    pixels, depth = pixels[inside], depth[inside]
    if len(depth) <= NEIGHBOURS:
        return pixels[:0], depth[:0]
    beside = torch.cdist(pixels, pixels).topk(NEIGHBOURS + 1, largest=False).indices[:, 1:]
    ratio = depth / depth[beside].median(1).values
    agrees = (ratio < AGREE) & (ratio > 1 / AGREE)
    return pixels[agrees], depth[agrees]


def _interpolated(camera: Camera, points: Tensor) -> Tensor:
    """Depth (H, W) by the nearest points, near ones with more weight."""
    pixels, depth = seen_points(camera, points)
    if len(depth) < NEIGHBOURS:
        return torch.zeros(camera.height, camera.width)
    columns = torch.arange(camera.width, dtype=pixels.dtype) + 0.5
    lines = []
    for row in range(camera.height):  # one at a time bounds the table of distances
        places = torch.stack([columns, torch.full_like(columns, row + 0.5)], 1)
        nearest = torch.cdist(places, pixels).topk(NEIGHBOURS, largest=False)
        weights = 1 / (nearest.values.square() + SOFT)
        lines.append(weights.sum(1) / (weights / depth[nearest.indices]).sum(1))
    return torch.stack(lines).float()
