"""Layers with an equalised learning rate, against their formulas with explicit sums."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.layers.equalised import (
    EqualisedConvolution,
    EqualisedLinear,
    TemporalConvolution,
    normalise_second_moment,
    rectify,
)

SQRT2 = math.sqrt(2)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def leaky(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 0.2 * values)


def as_function(layer: nn.Module):
    """The layer as a function of its input and its parameters, in the order of their names."""
    names = [name for name, _ in layer.named_parameters()]
    layer.double()

    def run(values: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (values,))

    return run


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("activated", [False, True])
def test_linear(same_to_second_order, activated: bool, rate: float) -> None:
    def slow(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        sums = (vectors[:, None] * weight * rate / math.sqrt(5)).sum(-1) + bias * rate
        return SQRT2 * leaky(sums) if activated else sums

    layer = EqualisedLinear(5, 3, activated=activated, learning_rate=rate)
    parameters = draw(3, 5) / rate, draw(3) / rate
    same_to_second_order(as_function(layer), slow, draw(2, 5), *parameters)


def test_linear_keeps_further_axes_and_may_lack_a_bias() -> None:
    layer = EqualisedLinear(5, 3, bias=None).double()
    vectors = draw(2, 4, 5)
    torch.testing.assert_close(layer(vectors)[1, 2], layer.weight @ vectors[1, 2] / math.sqrt(5))
    assert list(layer.state_dict()) == ["weight"]


def test_temporal_convolution(same_to_second_order) -> None:
    def slow(sequences: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        scaled = weight * 0.01 / math.sqrt(4 * 3)
        places = [
            torch.einsum("bdk,edk->be", sequences[:, :, at : at + 3], scaled) + bias * 0.01
            for at in range(5)
        ]
        return leaky(torch.stack(places, dim=2))

    layer = TemporalConvolution(4, 2, 3, learning_rate=0.01)
    parameters = 100 * draw(2, 4, 3), 100 * draw(2)
    same_to_second_order(as_function(layer), slow, draw(2, 4, 7), *parameters)


def slow_convolution(maps: Tensor, weight: Tensor, bias: Tensor, halves: bool) -> Tensor:
    """y before gain and activation: windows of zero-padded, perhaps filtered maps."""
    size, step = weight.shape[-1], 2 if halves else 1
    padding = size // 2
    if halves:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=maps.dtype) / 8
        padded = F.pad(maps, (size // 2 + 1,) * 4)
        maps = torch.einsum("nchwab,a,b->nchw", padded.unfold(2, 4, 1).unfold(3, 4, 1), taps, taps)
        padding = 0
    windows = F.pad(maps, (padding,) * 4).unfold(2, size, step).unfold(3, size, step)
    scaled = weight / math.sqrt(weight[0].numel())
    return torch.einsum("nchwab,ocab->nohw", windows, scaled) + bias[:, None, None]


@pytest.mark.parametrize("gain", [1.0, math.sqrt(0.5)])
@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activated", [False, True])
def test_convolution(
    same_to_second_order, activated: bool, kernel: int, halves: bool, gain: float
) -> None:
    def slow(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = slow_convolution(maps, weight, bias, halves)
        if not activated:
            return gain * values
        return (SQRT2 * gain * leaky(values)).clamp(-256 * gain, 256 * gain)

    layer = EqualisedConvolution(3, 2, kernel, activated=activated, halves=halves, gain=gain)
    maps = draw(2, 3, 4, 6)
    maps[0] *= 10_000  # so that the bound is reached
    parameters = draw(2, 3, kernel, kernel), draw(2)
    same_to_second_order(as_function(layer), slow, maps, *parameters)
    if activated:
        with torch.no_grad():
            reached = as_function(layer)(maps, *parameters).abs().max()
        assert reached == pytest.approx(256 * gain, rel=1e-12)


def test_convolution_without_bias_stores_its_weight_alone() -> None:
    layer = EqualisedConvolution(3, 2, 1, activated=False, bias=False, halves=True)
    assert list(layer.state_dict()) == ["weight"]
    assert layer(torch.zeros(1, 3, 4, 4)).abs().max() == 0


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="not 2"):
        EqualisedConvolution(3, 2, 2)


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (EqualisedLinear(3, 2, activated=True, learning_rate=0.5), draw(2, 3)),
        (TemporalConvolution(2, 2, 2), draw(1, 2, 4)),
        (EqualisedConvolution(2, 2, 3, halves=True), draw(1, 2, 4, 4)),
        (EqualisedConvolution(2, 2, 3), draw(1, 2, 3, 3)),
    ],
)
def test_second_derivatives_agree_with_differences(layer: nn.Module, values: Tensor) -> None:
    function = as_function(layer)
    parameters = [each.detach().clone().requires_grad_() for each in layer.parameters()]
    inputs = (values.clone().requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (EqualisedLinear(256, 512, activated=True, learning_rate=0.01), (64, 256)),
        (EqualisedConvolution(64, 64, 3), (4, 64, 8, 8)),
    ],
)
def test_at_the_start_layers_keep_the_second_moment(layer: nn.Module, values: tuple) -> None:
    # In the middle of the maps: at the border some of the inputs are zeros.
    outputs = layer(torch.randn(values))[..., 1:-1]
    outputs = outputs[..., 1:-1, :] if outputs.ndim == 4 else outputs
    # The rectifier keeps (1 + 0.04) / 2 of it, and the gain doubles that.
    assert outputs.square().mean().item() == pytest.approx(1.04, rel=0.1)


def test_the_learning_rate_shows_in_steps_not_in_values() -> None:
    slow, fast = EqualisedLinear(8, 4, learning_rate=0.01), EqualisedLinear(8, 4)
    vectors = torch.randn(3, 8)
    with torch.no_grad():
        slow.weight.copy_(fast.weight * 100)
        before = fast(vectors)
        torch.testing.assert_close(slow(vectors), before)
        for layer in (slow, fast):  # the same step of an optimiser
            layer.weight += 0.1
            layer.bias += 0.1
        torch.testing.assert_close(
            slow(vectors) - before, 0.01 * (fast(vectors) - before), rtol=1e-3, atol=1e-5
        )


def test_normalised_vectors_have_a_mean_square_of_one(same_to_second_order) -> None:
    vectors = draw(4, 6)
    vectors[0] = 0
    lengths = normalise_second_moment(vectors).square().mean(1)
    torch.testing.assert_close(lengths[1:], torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    assert lengths[0] == 0

    def slow(vectors: Tensor) -> Tensor:
        rows = [row / torch.sqrt(sum(value**2 for value in row) / 6 + 1e-8) for row in vectors]
        return torch.stack(rows)

    same_to_second_order(normalise_second_moment, slow, vectors)


def test_the_rectifier_has_no_gradient_beyond_its_bound() -> None:
    values = torch.tensor([-50.0, -2.0, 3.0, 9.0], requires_grad=True)
    outputs = rectify(values * 1, clamp=4.0)
    assert outputs.tolist() == pytest.approx([-4, -0.4, 3, 4])
    outputs.sum().backward()
    assert values.grad.tolist() == pytest.approx([0, 0.2, 1, 0])
