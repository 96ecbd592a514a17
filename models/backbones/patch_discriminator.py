"""The image discriminator of patches (PatchGAN, arXiv 1611.07004) that LVDM's stage 1 trains with.

Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
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


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, each of which has the same number of them.

    torch's own synchronised one refuses CPUs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.exchange = Exchange()

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape"""
        if not (self.training and _processes() > 1):
            return super().forward(maps)
        values = maps.float()
        own_mean = values.mean((0, 2, 3))
        own_square = values.var((0, 2, 3), correction=0) + own_mean.square()
        mean, square = self.exchange(torch.stack([own_mean, own_square]))
        variance = (square - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach(), _processes() * values[:, 0].numel())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(maps.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked.add_(1)


class _MeanOverProcesses(torch.autograd.Function):
    """The mean of a tensor over all processes; so is the gradient, once each has asked for its."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _averaged(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _averaged(gradient)


class Exchange(nn.Module):
    """The mean over all processes; what is compiled stops for it, as for any exchange."""

    never_compiled = True

    def forward(self, values: Tensor) -> Tensor:
        """A tensor of any shape, the same on every process -> its mean, of that shape"""
        return cast(Tensor, _MeanOverProcesses.apply(values))


def _averaged(values: Tensor) -> Tensor:
    total = values.clone()
    dist.all_reduce(total)
    return total / _processes()


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _initialise(module: nn.Module) -> None:
    with torch.no_grad():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
