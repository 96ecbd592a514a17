"""The rasteriser of gsplat, on NVIDIA GPUs; the only file that imports that package."""

from __future__ import annotations

import torch
from torch import Tensor

from tools.reconstruction.cameras import Camera
from tools.reconstruction.gaussians import Gaussians


def rasterise_gsplat(
    gaussians: Gaussians, camera: Camera, degree: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `rasterise_torch`, by the CUDA kernels of gsplat."""
    raise NotImplementedError


def why_not(device: torch.device) -> str:
    """Why gsplat cannot render on this device, in one line; empty when it can."""
    return "not written yet"
