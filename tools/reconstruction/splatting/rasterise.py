"""Pictures of a scene of Gaussians: colour, depth and opacity as one camera sees them.

Two back ends, one meaning (3D Gaussian splatting, Kerbl et al. 2023; the conventions of gsplat
1.5): a Gaussian becomes a 2D Gaussian on the picture by the derivative of the projection in its
middle, widened by 0.3 pixels squared; from front to back by the depth of its middle it adds

    w_k = a_k prod_{j < k} (1 - a_j),   a_k(p) = min(0.999, o_k exp(-d' C_k d / 2))

of its colour, where a_k >= 1/255; d leads from its middle to the centre of the pixel p. Depth is
the mean of the depths under the weights w, opacity their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from tools.reconstruction.cameras.pinhole import Camera
from tools.reconstruction.splatting.gaussians import Gaussians
from tools.reconstruction.splatting.rasterise_torch import rasterise_torch

Backend = Literal["auto", "torch", "gsplat"]


@dataclass(frozen=True)
class Render:
    """What one camera sees of a scene."""

    colour: Tensor  # (H, W, 3), over the background
    depth: Tensor  # (H, W) expected z where something is seen, else 0
    opacity: Tensor  # (H, W) 0 to 1
    means2d: Tensor  # (N, 2) pixels; its gradient after backward() steers growth
    radii: Tensor  # (N,) pixels, 0 for a Gaussian that is not in the picture


def rasterise(
    gaussians: Gaussians,
    camera: Camera,
    background: Tensor | None = None,
    backend: Backend = "auto",
    degree: int | None = None,
) -> Render:
    """Render the scene with one camera; differentiable in all five parameters.

    Args:
        gaussians: the scene; its device and number format are those of the result.
        camera: where from, and how large.
        background: colour (3,) behind the scene; black if None.
        backend: `torch` runs everywhere; `gsplat` on GPUs; `auto` takes the faster that works.
        degree: harmonics above it are left out; None uses all.

    Raises:
        ValueError: `gsplat` asked for where it cannot run.
    """
    chosen, reason = choose_backend(gaussians.positions.device, backend)
    if backend == "gsplat" and chosen != "gsplat":
        raise ValueError(f"the rasteriser gsplat cannot run: {reason}")
    if chosen == "gsplat":
        from tools.reconstruction.splatting.rasterise_gsplat import rasterise_gsplat

        colour, depth, opacity, means2d, radii = rasterise_gsplat(gaussians, camera, degree)
    else:
        colour, depth, opacity, means2d, radii = rasterise_torch(gaussians, camera, degree)
    if background is not None:
        colour = colour + (1 - opacity)[..., None] * background.to(colour)
    return Render(colour, depth, opacity, means2d, radii)


@cache
def choose_backend(
    device: torch.device, wanted: Backend = "auto"
) -> tuple[Literal["torch", "gsplat"], str]:
    """The back end that is taken for tensors on a device, and why (one line).

    gsplat is not tried, which can take minutes, where `torch` is wanted.
    """
    if wanted == "torch":
        return "torch", "the rasteriser of torch was asked for"
    if device.type != "cuda":
        return "torch", "the scene lies on the CPU, and gsplat has no CPU path"
    from tools.reconstruction.splatting.rasterise_gsplat import why_not

    reason = why_not(device)
    if reason:
        return "torch", reason
    return "gsplat", "gsplat rendered a test scene on the GPU"
