"""What a fit is judged by: colour, depth, structure, and smoothness where nothing is seen.

Pictures are (H, W, 3) from 0 to 1, depths (H, W), masks (H, W) with True where a pixel counts.
Each loss is a mean over the pixels that count and 0 if there are none.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SPREAD = 11, 1.5  # pixels: side and standard deviation of the window of SSIM
C1, C2 = 0.01**2, 0.03**2  # its constants, for pictures from 0 to 1


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (H, W) where the mask says so; 0 where it never does."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def colour_error(colour: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference."""
    return masked_mean((colour - target).abs().mean(-1), mask)


def psnr(colour: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Peak signal to noise ratio over the pixels that count, in dB; at most 100."""
    error = masked_mean((colour - target).square().mean(-1), mask)
    return -10 * torch.log10(error.clamp(min=1e-10))


def ssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity (H, W) of two pictures (Wang et al. 2004), mean over the channels.

    The window is Gaussian; beyond the rim the pictures are mirrored.
    """
    pair = torch.stack([first, second]).permute(0, 3, 1, 2)  # (2, 3, H, W)
    x, y = pair
    stack = torch.stack([x, y, x * x, y * y, x * y], 1)  # (3, 5, H, W)
    mean_x, mean_y, xx, yy, xy = _blurred(stack).unbind(1)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance, variances = xy - product, xx + yy - squares
    value = (2 * product + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return value.mean(0)


def structure_error(colour: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(1 - SSIM) / 2: 0 for equal pictures, at most 1. What does not count is black in both."""
    seen = mask[..., None]
    return masked_mean((1 - ssim_map(colour * seen, target * seen)) / 2, mask)


def inverse_depth_error(
    depth: Tensor, target: Tensor, mask: Tensor, unit: Tensor | float
) -> Tensor:
    """Mean absolute difference of unit / depth, so that near errors count most.

    `unit` is a typical depth of the scene; with it the loss does not depend on the unit of length.
    Pixels without a rendered or a known depth (0) do not count.
    """
    known = mask & (target > 0) & (depth.detach() > 0)
    ours = unit / torch.where(known, depth, 1.0).clamp(min=1e-6)
    theirs = unit / torch.where(known, target, 1.0)
    return masked_mean((ours - theirs).abs(), known)


def pattern_error(depth: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - Pearson's correlation of two depths where both are known: 0 when the pattern agrees."""
    known = mask & (target > 0) & (depth.detach() > 0)
    if int(known.sum()) < 2:
        return depth.sum() * 0
    ours, theirs = depth[known], target[known]
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    scale = (ours.square().sum() * theirs.square().sum()).clamp(min=1e-20).sqrt()
    return 1 - (ours * theirs).sum() / scale


def total_variation(values: Tensor, where: Tensor) -> Tensor:
    """Mean absolute step between neighbours of (H, W, C) with either end in the mask `where`."""
    total, count = values.sum() * 0, values.new_zeros(())
    for axis in (0, 1):
        length = values.shape[axis] - 1
        step = values.narrow(axis, 1, length) - values.narrow(axis, 0, length)
        mask = where.narrow(axis, 1, length) | where.narrow(axis, 0, length)
        total = total + (step.abs().mean(-1) * mask).sum()
        count = count + mask.sum()
    return total / count.clamp(min=1)


@cache
def _window(device: torch.device, kind: torch.dtype) -> Tensor:
    places = torch.arange(WINDOW, device=device, dtype=kind) - WINDOW // 2
    weights = torch.exp(-places.square() / (2 * SPREAD**2))
    return weights / weights.sum()


def _blurred(maps: Tensor) -> Tensor:
    """Gaussian mean of each map (A, B, H, W)."""
    shape, half = maps.shape, WINDOW // 2
    flat = maps.flatten(0, 1)[:, None]
    mode = "reflect" if min(shape[-2:]) > half else "replicate"
    flat = functional.pad(flat, (half, half, half, half), mode=mode)
    window = _window(maps.device, maps.dtype)
    flat = functional.conv2d(flat, window.view(1, 1, 1, -1))
    return functional.conv2d(flat, window.view(1, 1, -1, 1)).view(shape)
