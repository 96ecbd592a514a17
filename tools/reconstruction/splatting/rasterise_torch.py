"""The rasteriser in plain torch: runs on any device, in any number format."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tools.reconstruction.cameras.pinhole import Camera
from tools.reconstruction.splatting.compositing import SMALLEST, composite
from tools.reconstruction.splatting.gaussians import Gaussians
from tools.reconstruction.splatting.projection import project
from tools.reconstruction.splatting.tile_lists import list_tiles


def rasterise_torch(
    gaussians: Gaussians, camera: Camera, degree: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Colour (H, W, 3) over black, depth (H, W), opacity (H, W), means2d (N, 2), radii (N,)."""
    seen = project(gaussians, camera)
    means2d = seen.means2d
    if means2d.requires_grad:
        means2d.retain_grad()
    level = functional.logsigmoid(gaussians.opacity_logits)
    with torch.no_grad():
        # exp(-d' C d / 2) o >= 1/255 inside an ellipse whose box has these half sides.
        widest = 2 * (level - torch.log(torch.tensor(SMALLEST, dtype=level.dtype)))
        reach = (widest.clamp(min=0)[:, None] * seen.variances).sqrt()
        size = torch.tensor([camera.width, camera.height]).to(means2d)
        inside = ((means2d + reach > 0) & (means2d - reach < size)).all(1)
        visible = seen.in_front & (widest > 0) & inside
        radii = torch.where(visible, reach.amax(1), 0.0)
        order = torch.nonzero(visible)[:, 0]
        order = order[torch.argsort(seen.depths[order], stable=True)]
        lists = list_tiles(means2d[order], reach[order], camera.height, camera.width)
    table = torch.cat([means2d, seen.conics, level[:, None]], 1)
    colours = gaussians.colours(camera.centre, degree)
    ones = torch.ones_like(level)
    features = torch.cat([colours, seen.depths[:, None], ones[:, None]], 1)
    tiles = composite(table.index_select(0, order), features.index_select(0, order), lists)
    picture = tiles.reshape(lists.rows, lists.columns, lists.size, lists.size, -1)
    picture = picture.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    picture = picture[: camera.height, : camera.width]
    opacity = picture[..., 4]
    depth = picture[..., 3] / opacity.clamp(min=1e-10)
    return picture[..., :3], depth, opacity, means2d, radii
