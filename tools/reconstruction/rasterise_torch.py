"""The rasteriser in plain torch: runs on any device, in any number format."""

from __future__ import annotations

import torch
from torch import Tensor

from tools.reconstruction.cameras import Camera
from tools.reconstruction.gaussians import Gaussians

BLUR = 0.3  # pixels squared added to the image covariance
SMALLEST = 1 / 255  # a contribution below it does not count
LARGEST = 0.999  # no Gaussian hides everything behind it
NEAR = 0.01  # depth below which a Gaussian is not seen


def rasterise_torch(
    gaussians: Gaussians, camera: Camera, degree: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Colour (H, W, 3), depth (H, W), opacity (H, W), means2d (N, 2), radii (N,)."""
    means2d, depths, conics, spread = project(gaussians, camera)
    if means2d.requires_grad:
        means2d.retain_grad()
    opacities = gaussians.opacities
    level = 2 * torch.log((opacities.detach() / SMALLEST).clamp(min=1e-30))
    radii = (level.clamp(min=0) * spread.detach()).sqrt()
    visible = (depths.detach() > NEAR) & (level > 0)
    radii = torch.where(visible, radii, torch.zeros_like(radii))
    colours = gaussians.colours(camera.centre, degree)
    order = torch.argsort(depths.detach())
    order = order[visible[order]]
    rows = torch.arange(camera.height).to(means2d) + 0.5
    columns = torch.arange(camera.width).to(means2d) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    dx = x.reshape(-1, 1) - means2d[order, 0]
    dy = y.reshape(-1, 1) - means2d[order, 1]
    a, b, c = conics[order].unbind(1)
    alpha = opacities[order] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
    alpha = torch.where(alpha >= SMALLEST, alpha, torch.zeros_like(alpha)).clamp(max=LARGEST)
    passed = torch.cumprod(1 - alpha, 1)
    before = torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], 1)
    weights = alpha * before
    shape = (camera.height, camera.width)
    opacity = weights.sum(1)
    colour = (weights @ colours[order]).reshape(*shape, 3)
    depth = (weights @ depths[order] / opacity.clamp(min=1e-10)).reshape(shape)
    return colour, depth, opacity.reshape(shape), means2d, radii


def project(gaussians: Gaussians, camera: Camera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places on the picture (N, 2), depths (N,), inverse image covariances (N, 3) as xx, xy, yy,
    and the larger of the two image variances along x and y (N,).

    What lies behind the camera gets finite numbers without meaning.
    """
    kind = gaussians.positions
    pose, matrix = camera.world_to_camera.to(kind), camera.intrinsics.to(kind)
    turn = pose[:3, :3]
    x, y, z = (gaussians.positions @ turn.T + pose[:3, 3]).unbind(1)
    depth = z
    z = torch.where(z > NEAR, z, torch.ones_like(z))
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], 1)
    # Far outside the picture the derivative is that of a place at its rim (0.15 of it outside):
    # there the linear projection would blow Gaussians up without limit.
    margin_x, margin_y = 0.15 * camera.width / fx, 0.15 * camera.height / fy
    right = (x / z).clamp(-cx / fx - margin_x, (camera.width - cx) / fx + margin_x)
    down = (y / z).clamp(-cy / fy - margin_y, (camera.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    rows = [fx / z, zero, -fx * right / z, zero, fy / z, -fy * down / z]
    jacobian = torch.stack(rows, 1).unflatten(1, (2, 3)) @ turn
    covariance = jacobian @ gaussians.covariances() @ jacobian.transpose(1, 2)
    xx, xy, yy = covariance[:, 0, 0] + BLUR, covariance[:, 0, 1], covariance[:, 1, 1] + BLUR
    area = (xx * yy - xy * xy).clamp(min=1e-10)
    conics = torch.stack([yy / area, -xy / area, xx / area], 1)
    return means2d, depth, conics, torch.maximum(xx, yy)
