"""Projecting 3D Gaussians to 2D Gaussians on a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera
from tools.reconstruction.splatting.gaussians import Gaussians

BLUR = 0.3  # pixels squared added to the image covariance
NEAR = 0.01  # depth below which a Gaussian is not seen
MARGIN = 0.15  # of the picture: how far outside it the derivative of the projection goes on


@dataclass(frozen=True)
class Projected:
    """N Gaussians on a picture; those behind the camera have finite numbers without meaning."""

    means2d: Tensor  # (N, 2) x and y, pixels
    depths: Tensor  # (N,) z of the middles
    conics: Tensor  # (N, 3) inverse covariance xx, xy, yy, per pixel squared
    variances: Tensor  # (N, 2) along x and y, pixels squared
    in_front: Tensor  # (N,) whether it lies before the camera


def project(gaussians: Gaussians, camera: Camera) -> Projected:
    """The image of each Gaussian, to first order around its middle (Zwicker et al. 2001)."""
    kind = gaussians.positions
    pose, matrix = camera.world_to_camera.to(kind), camera.intrinsics.to(kind)
    turn = pose[:3, :3]
    x, y, depths = (kind @ turn.T + pose[:3, 3]).unbind(1)
    in_front = depths.detach() > NEAR
    z = torch.where(in_front, depths, torch.ones_like(depths))
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    right, down = x / z, y / z
    means2d = torch.stack([fx * right + cx, fy * down + cy], 1)
    # Far outside the picture the derivative grows without limit, and with it the image of a
    # Gaussian; there it is taken at the rim.
    side, height = MARGIN * camera.width / fx, MARGIN * camera.height / fy
    right = torch.clamp(right, -cx / fx - side, (camera.width - cx) / fx + side)
    down = torch.clamp(down, -cy / fy - height, (camera.height - cy) / fy + height)
    # Rows of (derivative of the projection) x (rotation), each (N, 3).
    along_x = (fx / z)[:, None] * (turn[0] - right[:, None] * turn[2])
    along_y = (fy / z)[:, None] * (turn[1] - down[:, None] * turn[2])
    axes = torch.stack([along_x, along_y], 1) @ gaussians.axes()  # (N, 2, 3)
    u, v = axes.unbind(1)
    xx, xy, yy = (u * u).sum(1) + BLUR, (u * v).sum(1), (v * v).sum(1) + BLUR
    area = (xx * yy - xy * xy).clamp(min=1e-10)
    conics = torch.stack([yy, -xy, xx], 1) / area[:, None]
    return Projected(means2d, depths, conics, torch.stack([xx, yy], 1), in_front)
