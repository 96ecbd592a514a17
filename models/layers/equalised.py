"""Layers with an equalised learning rate (Karras et al., arXiv 1710.10196).

Weights are stored with unit variance (divided by a layer's learning rate) and scaled when they
are used, so that an optimiser that normalises its steps moves all layers at the same relative
speed. Everything here can be differentiated twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.resampling import convolve_halved, low_pass_filter

SLOPE = 0.2  # of the leaky rectifier below zero
GAIN = math.sqrt(2)  # keeps the second moment through the rectifier
CLAMP = 256.0  # bound of activations, in units of a layer's gain


def normalise_second_moment(vectors: Tensor) -> Tensor:
    """Vectors (..., D) with a mean square of 1 over D."""
    return vectors * torch.rsqrt(vectors.square().mean(dim=-1, keepdim=True) + 1e-8)


def rectify(values: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky rectifier of slope 0.2, then a bound of +-`clamp`.

    Without the gain sqrt(2): callers scale what they put in, which is the same and costs nothing.
    Without a bound, `values` is overwritten.
    """
    if clamp is None:
        return F.leaky_relu(values, SLOPE, inplace=True)
    return BoundedRectifier.apply(values, clamp)


class BoundedRectifier(torch.autograd.Function):
    """Rectifier and bound as one step, which keeps nothing but its output for the gradient.

    The next layer keeps that too. As two steps the bound would keep its input beside it, a fifth
    of what a generator keeps for its gradient.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, clamp: float) -> Tensor:
        outputs = F.leaky_relu(values, SLOPE).clamp_(-clamp, clamp)
        context.save_for_backward(outputs)
        context.clamp = clamp
        return outputs

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (outputs,) = context.saved_tensors
        outputs = outputs.detach()  # slopes are constant between the kinks
        # Both operators have derivatives of their own, and the signs of outputs are those of
        # inputs.
        gradient = torch.ops.aten.hardtanh_backward(
            gradient, outputs, -context.clamp, context.clamp
        )
        return torch.ops.aten.leaky_relu_backward(gradient, outputs, SLOPE, True), None


class EqualisedLinear(nn.Module):
    """y = x (W r / sqrt(D))^T + r b, then sqrt(2) times a leaky rectifier where `activated`.

    r is the layer's `learning_rate` relative to the optimiser's. The stored weight (E, D) is
    drawn from N(0, 1) / r; the stored bias (E,) starts at `bias`, and None means no bias.

    Input:   (..., D)
    Output:  (..., E)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activated: bool = False,
        learning_rate: float = 1.0,
        bias: float | None = 0.0,
    ) -> None:
        super().__init__()
        gain = GAIN if activated else 1.0
        self.activated = activated
        self.weight_scale = gain * learning_rate / math.sqrt(inputs)
        self.bias_scale = gain * learning_rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / learning_rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias)) if bias is not None else None

    def forward(self, vectors: Tensor) -> Tensor:
        # The vectors are scaled in place of the weight, of which there is more.
        values = F.linear(vectors * self.weight_scale, self.weight, scaled_bias(self))
        return rectify(values) if self.activated else values


class TemporalConvolution(nn.Module):
    """Convolution over time without padding, then a leaky rectifier (without the gain sqrt(2)).

    The stored weight (E, D, k) is drawn from N(0, 1) / r and used as W r / sqrt(D k), the stored
    bias (E,) starts at 0 and is used as r b, with r the layer's `learning_rate`.

    Input:   (B, D, L)
    Output:  (B, E, L - k + 1)
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, learning_rate: float = 1.0
    ) -> None:
        super().__init__()
        self.weight_scale = learning_rate / math.sqrt(inputs * kernel)
        self.bias_scale = learning_rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel) / learning_rate)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, sequences: Tensor) -> Tensor:
        values = F.conv1d(sequences * self.weight_scale, self.weight, scaled_bias(self))
        return rectify(values)


class EqualisedConvolution(nn.Module):
    """2-D convolution of a discriminator, with what surrounds it.

    y = conv(x, W / sqrt(C k k)) + b on zero-padded maps; with `halves`, x is low-pass filtered
    first and every second pixel kept. Then, `activated` or not, with g the `gain`:

        clamp(sqrt(2) g leaky(y), +-256 g)    or    g y

    Stored: weight (O, C, k, k) from N(0, 1); bias (O,) from 0, where `bias` is set.

    Input:   (N, C, H, W)
    Output:  (N, O, H, W), or (N, O, H/2, W/2) with `halves`
    """

    low_pass: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        activated: bool = True,
        bias: bool = True,
        halves: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel not in (1, 3):
            raise ValueError(f"a convolution here has a kernel of 1 or 3, not {kernel}")
        total = gain * (GAIN if activated else 1.0)
        self.activated, self.halves = activated, halves
        self.clamp = CLAMP * gain
        self.weight_scale = total / math.sqrt(inputs * kernel * kernel)
        self.bias_scale = total
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        if halves:
            self.register_buffer("low_pass", low_pass_filter(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias = self.weight * self.weight_scale, scaled_bias(self)
        if self.halves:
            values = convolve_halved(maps, weight, self.low_pass, bias)
        else:
            values = F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2)
        return rectify(values, self.clamp) if self.activated else values


def scaled_bias(
    layer: EqualisedLinear | TemporalConvolution | EqualisedConvolution,
) -> Tensor | None:
    """The bias of a layer as it is added, or None."""
    return None if layer.bias is None else layer.bias * layer.bias_scale
