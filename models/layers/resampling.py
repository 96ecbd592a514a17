"""Halving and doubling feature maps with the low-pass filter [1, 3, 3, 1] (StyleGAN2, 1912.04958).

The two-dimensional filter is K = outer(h, h) / 64 with h = [1, 3, 3, 1]; it sums to 1 and is
symmetric, so convolution and correlation agree. Outside of a map are zeros. Every function takes
the filter as an argument, so that a module can keep it as a buffer on its device. All are linear
in the maps and in the weights and can be differentiated any number of times.

Letters:  N images, C channels, H W pixels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def low_pass_filter() -> Tensor:
    """The filter K (4, 4) float32; its values are exact in half precision too."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def smooth(maps: Tensor, low_pass: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Each channel filtered by itself: (N, C, H, W) -> (N, C, (H + 2p - 4) // stride + 1, ...)."""
    return F.conv2d(
        maps, _per_channel(maps, low_pass), stride=stride, padding=padding, groups=maps.shape[1]
    )


def double(maps: Tensor, low_pass: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, then the filter, with the mean kept.

    (N, C, H, W) -> (N, C, 2H, 2W). Inside a map this is bilinear interpolation; at the border it
    sees zeros where bilinear interpolation repeats the last pixel.
    """
    weight = _per_channel(maps, 4 * low_pass)
    return F.conv_transpose2d(maps, weight, stride=2, padding=1, groups=maps.shape[1])


def halve(maps: Tensor, low_pass: Tensor) -> Tensor:
    """Half the size: the filter, then every second pixel. (N, C, H, W) -> (N, C, H/2, W/2)."""
    return smooth(maps, low_pass, padding=1, stride=2)


def convolve_doubled(maps: Tensor, weight: Tensor, low_pass: Tensor) -> Tensor:
    """Zeros between the pixels, a 3x3 convolution, then the filter.

    Inputs:  maps (N, C, H, W), weight (O, C, 3, 3) as for `conv2d`, but not mirrored here
    Output:  (N, O, 2H, 2W)
    """
    wide = F.conv_transpose2d(maps, weight.transpose(0, 1), stride=2)  # (N, O, 2H + 1, 2W + 1)
    return smooth(wide, 4 * low_pass, padding=1)


def convolve_halved(
    maps: Tensor, weight: Tensor, low_pass: Tensor, bias: Tensor | None = None
) -> Tensor:
    """The filter, then a convolution that keeps every second pixel.

    Inputs:  maps (N, C, H, W) of even size, weight (O, C, k, k) with k = 1 or 3, bias (O,)
    Output:  (N, O, H/2, W/2)
    """
    if weight.shape[-1] == 1:  # nothing is lost by dropping pixels first
        return F.conv2d(halve(maps, low_pass), weight, bias)
    return F.conv2d(smooth(maps, low_pass, padding=2), weight, bias, stride=2)


def _per_channel(maps: Tensor, low_pass: Tensor) -> Tensor:
    """The filter as the weight of a depthwise convolution: (C, 1, 4, 4)."""
    return low_pass.to(maps.dtype).expand(maps.shape[1], 1, -1, -1)
