"""Bilinear sampling of images at given places, with a second derivative on every PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BILINEAR, ZEROS = 0, 0  # how ATen numbers its modes of interpolation and of padding

Sampling = Callable[[Tensor, Tensor], Tensor]


def grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    """Images read at the places of a grid, bilinearly, with zeros outside.

    Letters:  B images of C channels and H x W pixels, P x Q places
    Inputs:   images (B, C, H, W); grid (B, P, Q, 2) of the same type, x then y, where -1 and 1 are
              the outer edges of the outermost pixels (`align_corners=False`)
    Output:   (B, C, P, Q); its derivatives of any order with respect to the images exist. Where
              PyTorch lacks the second one, the grid gets no gradient

    A gradient penalty that reaches through the sampling needs the second derivative, which
    PyTorch has only in recent versions.
    """
    sample = native_sample if native_derives_twice() else LinearSampling.apply
    return sample(images, grid)


def native_sample(images: Tensor, grid: Tensor) -> Tensor:
    """`grid_sample` by PyTorch alone."""
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@functools.cache
def native_derives_twice() -> bool:
    """Whether PyTorch's own sampling has a second derivative, tried once on one pixel."""
    with torch.inference_mode(False), torch.enable_grad():
        image = torch.ones(1, 1, 1, 1, device="cpu", requires_grad=True)
        sampled = native_sample(image, torch.zeros(1, 1, 1, 2, device="cpu"))
        (gradient,) = torch.autograd.grad(sampled.square().sum(), image, create_graph=True)
        try:
            torch.autograd.grad(gradient.sum(), image)
        except RuntimeError:  # "derivative for ... is not implemented"
            return False
    return True


class LinearSampling(torch.autograd.Function):
    """Sampling as a linear map of the images; its derivative is `SamplingAdjoint`."""

    @staticmethod
    def forward(context: Any, images: Tensor, grid: Tensor) -> Tensor:
        context.save_for_backward(grid)
        context.shape = images.shape
        return native_sample(images, grid)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (grid,) = context.saved_tensors
        if not context.needs_input_grad[0]:
            return None, None
        return SamplingAdjoint.apply(gradients[0], grid, context.shape), None


class SamplingAdjoint(torch.autograd.Function):
    """The transpose of `LinearSampling`, linear too, so that its derivative is the sampling."""

    @staticmethod
    def forward(context: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        context.save_for_backward(grid)
        # The map is linear: of the images, the kernel reads the shape alone.
        images = gradient.new_empty(shape)
        wanted = [True, False]  # of the images, not of the grid
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(gradient, images, grid, BILINEAR, ZEROS, False, wanted)[0]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (grid,) = context.saved_tensors
        if not context.needs_input_grad[0]:
            return None, None, None
        return LinearSampling.apply(gradients[0], grid), None, None
