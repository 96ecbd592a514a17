"""The image discriminator of patches (PatchGAN, arXiv 1611.07004) that LVDM's stage 1 trains with.

Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """One logit per overlapping patch of an image, from convolutions and batch norms.

    Inputs:  width, channels after the first layer; layers, how many of them halve the image,
             which sets the side of a patch (70 pixels with 3)
    Raises:  ValueError for sizes below 1
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if min(width, layers) < 1:
            raise ValueError(
                f"a patch discriminator needs a width and layers of 1 or more, got {width} and "
                f"{layers}"
            )
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        main: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(layers):
            stride = 1 if level == layers - 1 else 2
            main += [
                nn.Conv2d(widths[level], widths[level + 1], 4, stride, 1, bias=False),
                BatchNorm(widths[level + 1]),
                nn.LeakyReLU(0.2),
            ]
        main.append(nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.main = nn.Sequential(*main)
        self.smallest = 3 * 2**layers  # pixels; less leaves the last convolutions no patch
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> logits (N, 1, h, w), high where a patch looks real.

        Raises ValueError for images without a single patch.
        """
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"the discriminator needs images of at least {self.smallest} pixels, got "
                f"{images.shape[-2]}x{images.shape[-1]}; choose a larger clip.size"
            )
        logits: Tensor = self.main(images)
        return logits


class BatchNorm(nn.SyncBatchNorm):
    """Batch norm of (N, C, H, W) over the images of all processes.

    torch exchanges the statistics on GPUs only. On a CPU each process normalises with those of
    its own images; the running statistics are averaged by the trainer in either case.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape"""
        if maps.device.type == "cpu":
            return super(nn.SyncBatchNorm, self).forward(maps)
        return super().forward(maps)


def _initialise(module: nn.Module) -> None:
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
