"""Pixels from one form into another: pure functions on frames of shape (F, C, H, W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], any shape."""
    return (frames.to(torch.float32) / 127.5).sub_(1)


def to_uint8(frames: Tensor) -> Tensor:
    """float in [-1, 1], beyond it clamped -> uint8 0..255, rounded; undoes `to_float` exactly."""
    return frames.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def resize_centre_crop(frames: Tensor, size: int) -> Tensor:
    """Bring the short side to `size` pixels and keep the central square.

    The square is cut before it is resized: the same picture for about half the work with wide
    frames. Bicubic, with antialiasing when shrinking.

    Inputs:  frames (F, C, H, W) uint8 or float
    Output:  (F, C, size, size) of the same type; the input itself when it has that size already
    """
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side]
    if side == size:
        return square
    resized = F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)
    if not resized.is_floating_point():
        return resized
    # A cubic kernel overshoots at edges; bytes saturate, floats must be held in their range.
    return resized.clamp_(float(square.min()), float(square.max()))


def flip(frames: Tensor) -> Tensor:
    """Mirror left and right."""
    return frames.flip(-1)
