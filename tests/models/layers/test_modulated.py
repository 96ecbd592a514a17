"""Convolutions under a style, against filters built for every image, one by one."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.layers.modulated import (
    FilterModulation,
    ModulatedConvolution,
    ToRGB,
    demodulation,
    per_image,
)

IMAGES, CLIPS, I, O, S = 4, 2, 3, 2, 5  # noqa: E741


def draw(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def as_function(layer: nn.Module):
    """The layer as a function of maps, latents and its parameters, in the order of their names."""
    names = [name for name, _ in layer.named_parameters()]
    layer.double()

    def run(maps: Tensor, latents: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return functional_call(layer, state, (maps, latents))

    return run


def styles_of(latents: Tensor, weight: Tensor, bias: Tensor, image: int) -> Tensor:
    return weight @ latents[image // (IMAGES // CLIPS)] / math.sqrt(S) + bias


def finish(values: Tensor, bias: Tensor) -> Tensor:
    values = values + bias[:, None, None]
    return (math.sqrt(2) * torch.where(values > 0, values, 0.2 * values)).clamp(-256, 256)


def convolve(image: Tensor, filters: Tensor, doubles: bool) -> Tensor:
    """One image (I, H, W) with its filters (O, I, 3, 3); doubled by zeros and four smoothings."""
    if not doubles:
        return F.conv2d(image[None], filters, padding=1)[0]
    wide = F.conv_transpose2d(image[None], filters.transpose(0, 1), stride=2)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=image.dtype) / 4
    windows = F.pad(wide, (1, 1, 1, 1)).unfold(2, 4, 1).unfold(3, 4, 1)
    return torch.einsum("ochwab,a,b->chw", windows, taps, taps)


@pytest.mark.parametrize("doubles", [False, True])
def test_it_equals_filters_of_every_image(same_to_second_order, doubles: bool) -> None:
    def slow(maps: Tensor, latents: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, affine_weight, affine_bias = parameters
        pictures = []
        for index, image in enumerate(maps):
            filters = weight * styles_of(latents, affine_weight, affine_bias, index)[:, None, None]
            norms = torch.stack([(each**2).sum() + 1e-8 for each in filters]).sqrt()
            pictures.append(convolve(image, filters / norms[:, None, None, None], doubles))
        return finish(torch.stack(pictures), bias)

    layer = ModulatedConvolution(I, O, S, doubles=doubles)
    parameters = draw(O, I, 3, 3), draw(O), draw(I, S), 1 + draw(I)
    maps = draw(IMAGES, I, 2, 4)
    maps[0] *= 5000  # so that the bound is reached
    same_to_second_order(as_function(layer), slow, maps, draw(CLIPS, S), *parameters)


def test_to_rgb_equals_filters_of_every_image(same_to_second_order) -> None:
    def slow(maps: Tensor, latents: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias, affine_weight, affine_bias = parameters
        pictures = []
        for index, image in enumerate(maps):
            styles = styles_of(latents, affine_weight, affine_bias, index) / math.sqrt(I)
            filters = weight * styles[:, None, None]
            pictures.append(F.conv2d(image[None], filters)[0] + bias[:, None, None])
        return torch.stack(pictures).clamp(-256, 256)

    parameters = draw(3, I, 1, 1), draw(3), draw(I, S), 1 + draw(I)
    maps = draw(IMAGES, I, 2, 4)
    maps[0] *= 5000
    same_to_second_order(as_function(ToRGB(I, S)), slow, maps, draw(CLIPS, S), *parameters)


@pytest.mark.parametrize("layer", [ModulatedConvolution(2, 1, 2, doubles=True), ToRGB(2, 2)])
def test_second_derivatives_agree_with_differences(layer: nn.Module) -> None:
    parameters = [each.detach().double().requires_grad_() for each in layer.parameters()]
    inputs = (draw(2, 2, 2, 1).requires_grad_(), draw(1, 2).requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(as_function(layer), inputs)
    assert torch.autograd.gradgradcheck(as_function(layer), inputs, fast_mode=True)


def test_demodulation_without_a_tensor_per_image(same_to_second_order) -> None:
    def slow(weight: Tensor, styles: Tensor) -> Tensor:
        each = weight * styles[:, None, :, None, None]
        return 1 / torch.sqrt((each**2).sum(dim=(2, 3, 4)) + 1e-8)

    same_to_second_order(demodulation, slow, draw(O, I, 3, 3), draw(IMAGES, I))


def test_demodulated_channels_have_variance_one() -> None:
    torch.manual_seed(0)
    layer = ModulatedConvolution(64, 16, 8)
    with torch.no_grad():
        layer.affine.weight *= 3
        layer.weight *= torch.linspace(0.1, 10, 16)[:, None, None, None]  # the scale is undone
        values = layer(torch.randn(8, 64, 16, 16), torch.randn(8, 8))[..., 1:-1, 1:-1]
    moments = values.square().mean(dim=(0, 2, 3))
    assert moments.min() > 0.8
    assert moments.max() < 1.3  # 1.04 is expected, for the rectifier passes a little below zero


class Doubling(FilterModulation):
    """Twice the scale of every output channel, times a number of each image."""

    def __init__(self, per_image: bool) -> None:
        super().__init__()
        self.per_image = per_image

    def demodulation(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        return 2 * motion * demodulation(weight, styles)

    def filters(self, weight: Tensor, styles: Tensor, motion: Tensor) -> Tensor:
        scales = self.demodulation(weight, styles, motion)[:, :, None, None, None]
        return scales * styles[:, None, :, None, None] * weight


@pytest.mark.parametrize("doubles", [False, True])
def test_what_changes_filters_acts_alike_on_scales_and_on_filters(doubles: bool) -> None:
    layers = [
        ModulatedConvolution(I, O, S, doubles=doubles, hypernet=change).double()
        for change in (None, Doubling(per_image=False), Doubling(per_image=True))
    ]
    with torch.no_grad():
        layers[0].bias.zero_()
        for layer in layers[1:]:
            layer.load_state_dict(layers[0].state_dict())
    maps, latents = draw(IMAGES, I, 4, 6), draw(CLIPS, S)
    motion = torch.tensor([[1.0], [0.5], [2.0], [3.0]], dtype=torch.float64)
    # Without a bias all is proportional to the maps, up to the bound.
    wanted = 200 * motion[:, :, None, None] * layers[0](maps, latents)
    assert wanted.abs().max() > 300
    for layer in layers[1:]:
        found = layer(100 * maps, latents, motion)
        torch.testing.assert_close(found, wanted.clamp(-256, 256))


def test_motion_styles_must_be_given_where_filters_follow_them() -> None:
    layer = ModulatedConvolution(I, O, S, hypernet=Doubling(per_image=False))
    with pytest.raises(ValueError, match="no motion styles"):
        layer(torch.zeros(IMAGES, I, 2, 2), torch.zeros(CLIPS, S))


@pytest.mark.parametrize("change", [None, Doubling(per_image=False), Doubling(per_image=True)])
def test_in_half_precision_only_the_convolution_is(change: FilterModulation | None) -> None:
    layer = ModulatedConvolution(I, O, S, hypernet=change)
    maps, latents, motion = draw(IMAGES, I, 4, 4).float(), draw(CLIPS, S).float(), torch.ones(4, 1)
    seen = []
    layer.affine.register_forward_hook(lambda *values: seen.append(values[2].dtype))
    whole = layer(maps, latents, motion)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(maps, latents, motion)
        pictures = ToRGB(O, S)(half, latents)
    assert seen == [torch.float32, torch.float32]
    assert half.dtype == torch.bfloat16
    assert pictures.dtype == torch.float32
    assert 0 < (half - whole).abs().max() < 0.05


def test_images_of_a_clip_lie_together() -> None:
    rows = per_image(torch.tensor([[1.0], [2.0]]), 6)
    assert rows.flatten().tolist() == [1, 1, 1, 2, 2, 2]
