"""Convolutions whose filters follow a style (StyleGAN2, arXiv 1912.04958).

Scaling the input channels by a style and the output channels by the demodulation is the same as
convolving every image with filters of its own, and needs neither their memory (N O I 3 3 numbers)
nor grouped convolutions.

Letters:  B clips, N = B F images (those of a clip lie together), I and O channels in and out,
          H W pixels, S style width, M motion styles of an image, in whatever shape
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.equalised import CLAMP, GAIN, EqualisedLinear, rectify
from models.layers.resampling import convolve_doubled, low_pass_filter, smooth


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """What brings each output channel back to variance 1 after its input was scaled by styles.

    Inputs:  weight (O, I, k, k), styles (..., I)
    Output:  (..., O) = 1 / sqrt(sum over i of style_i^2 sum over k, k of weight^2 + 1e-8)
    """
    energies = weight.square().sum(dim=(2, 3))
    return torch.rsqrt(F.linear(styles.square(), energies) + 1e-8)


class FilterModulation(nn.Module):
    """Changes the filters of a modulated convolution image by image, beyond what a style does.

    Subclasses define `demodulation`, or `filters` where `per_image` is True.
    """

    per_image = False  # True: convolve with filters (N, O, I, 3, 3); False: scale the output alone

    def demodulation(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        """(N, O) float32 that scale the output of a convolution of the scaled input.

        Inputs:  weight (O, I, 3, 3), styles (N, I), motion (N, M): all float32
        """
        raise NotImplementedError

    def filters(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        """The filters of every image (N, O, I, 3, 3), styles and demodulation included."""
        raise NotImplementedError


class ModulatedConvolution(nn.Module):
    """3x3 convolution under a style, then bias, sqrt(2) leaky rectifier and a bound of +-256.

    Stored: weight (O, I, 3, 3) from N(0, 1), used as it is, since demodulation undoes its scale;
    bias (O,) from 0; `affine`, which turns latents into styles around 1; `hypernet`, where the
    filters follow motion too.

    Inputs:  maps (N, I, H, W); latents (B, S) and motion (N, M), for `hypernet`, float32
    Output:  (N, O, H, W), or (N, O, 2H, 2W) with `doubles`; of the maps' type
    """

    low_pass: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_width: int,
        *,
        doubles: bool = False,
        hypernet: FilterModulation | None = None,
    ) -> None:
        super().__init__()
        self.doubles = doubles
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = EqualisedLinear(style_width, inputs, bias=1.0)
        self.hypernet = hypernet
        if doubles:
            self.register_buffer("low_pass", low_pass_filter(), persistent=False)

    def forward(self, maps: Tensor, latents: Tensor, motion: Tensor | None = None) -> Tensor:
        scales, filters = None, None
        with torch.autocast(maps.device.type, enabled=False):
            given = self.affine(latents)
            styles = per_image(given, len(maps))
            if self.hypernet is None:  # computed once a clip
                scales = per_image(demodulation(self.weight, given), len(maps))
            elif motion is None:
                raise ValueError("a convolution that follows motion was given no motion styles")
            elif self.hypernet.per_image:
                filters = self.hypernet.filters(self.weight, styles, motion)
            else:
                scales = self.hypernet.demodulation(self.weight, styles, motion)
        if filters is not None:
            return self._finish(self._convolve_each(maps, filters), None)
        return self._finish(self._convolve(maps * _over_maps(styles, maps)), scales)

    def _convolve(self, maps: Tensor) -> Tensor:
        if self.doubles:
            return convolve_doubled(maps, self.weight, self.low_pass)
        return F.conv2d(maps, self.weight, padding=1)

    def _convolve_each(self, maps: Tensor, filters: Tensor) -> Tensor:
        """Every image with filters of its own, as groups of one convolution."""
        count, outputs = filters.shape[:2]
        together = maps.reshape(1, -1, *maps.shape[2:])
        filters = filters.to(maps.dtype)
        if self.doubles:
            mirrored = filters.transpose(1, 2).flatten(0, 1)  # (N I, O, 3, 3)
            wide = F.conv_transpose2d(together, mirrored, stride=2, groups=count)
            wide = wide.view(count, outputs, *wide.shape[2:])
            return smooth(wide, 4 * self.low_pass, padding=1)
        values = F.conv2d(together, filters.flatten(0, 1), padding=1, groups=count)
        return values.view(count, outputs, *values.shape[2:])

    def _finish(self, values: Tensor, scales: Tensor | None) -> Tensor:
        bias = (self.bias * GAIN).to(values.dtype)[:, None, None]
        if scales is None:
            return rectify(torch.add(bias, values, alpha=GAIN), CLAMP)
        return rectify(torch.addcmul(bias, values, _over_maps(scales * GAIN, values)), CLAMP)


class ToRGB(nn.Module):
    """Feature maps to pictures: a 1x1 convolution under a style, without demodulation.

    Stored: weight (3, I, 1, 1) from N(0, 1), bias (3,) from 0, `affine` for the styles, which
    are divided by sqrt(I).

    Inputs:  maps (N, I, H, W); latents (B, S) float32
    Output:  (N, 3, H, W) float32 within +-256
    """

    def __init__(self, inputs: int, style_width: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(3, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.affine = EqualisedLinear(style_width, inputs, bias=1.0)

    def forward(self, maps: Tensor, latents: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            styles = self.affine(latents) * self.scale
            # Three filters per image are small; scaled maps would be as large as the maps.
            filters = per_image(styles[:, None] * self.weight[:, :, 0, 0], len(maps))  # (N, 3, I)
        pixels = (filters.to(maps.dtype) @ maps.flatten(2)).unflatten(2, maps.shape[2:])
        return (pixels.to(self.bias.dtype) + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)


def per_image(vectors: Tensor, images: int) -> Tensor:
    """What was computed once a clip (B, ...), for each of its images: (N, ...)."""
    return vectors.repeat_interleave(images // len(vectors), dim=0)


def _over_maps(scales: Tensor, maps: Tensor) -> Tensor:
    """Channel scales (N, C) in the type of maps (N, C, H, W), to multiply these: (N, C, 1, 1)."""
    return scales.to(maps.dtype)[:, :, None, None]
