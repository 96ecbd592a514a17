"""The forms of the low-pass filter, against loops over pixels and taps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.resampling import (
    convolve_doubled,
    convolve_halved,
    double,
    halve,
    low_pass_filter,
    smooth,
)

K = low_pass_filter().double()
TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def filtered(maps: Tensor, padding: int) -> Tensor:
    """The filter at every place of zero-padded maps, as sixteen shifted sums."""
    maps = F.pad(maps, (padding,) * 4)
    height, width = maps.shape[2] - 3, maps.shape[3] - 3
    return sum(
        TAPS[row] * TAPS[column] * maps[:, :, row : row + height, column : column + width]
        for row in range(4)
        for column in range(4)
    )


def spread(maps: Tensor) -> Tensor:
    """Each pixel in the corner of a 2x2 square of zeros otherwise."""
    wide = torch.stack([maps, torch.zeros_like(maps)], dim=-1).flatten(-2)
    return torch.stack([wide, torch.zeros_like(wide)], dim=-2).flatten(-3, -2)


def slow_double(maps: Tensor) -> Tensor:
    return 4 * filtered(F.pad(spread(maps), (0, -1, 0, -1)), padding=2)


def slow_convolve_doubled(maps: Tensor, weight: Tensor) -> Tensor:
    """What pixel (y, x) adds at (2y + a, 2x + b), pixel by pixel; then the filter."""
    height, width = maps.shape[2:]
    places = []
    for y in range(height):
        for x in range(width):
            stamp = torch.einsum("ni,oiab->noab", maps[:, :, y, x], weight)
            places.append(F.pad(stamp, (2 * x, 2 * (width - 1 - x), 2 * y, 2 * (height - 1 - y))))
    return 4 * filtered(sum(places), padding=1)


def slow_convolve_halved(maps: Tensor, weight: Tensor) -> Tensor:
    """The filter, then at every second place the sum over the taps of the weight."""
    size = weight.shape[-1]
    smoothed = filtered(maps, padding=1 if size == 1 else 2)
    rows = [
        torch.stack(
            [
                torch.einsum("niab,oiab->no", smoothed[:, :, y : y + size, x : x + size], weight)
                for x in range(0, maps.shape[3], 2)
            ],
            dim=-1,
        )
        for y in range(0, maps.shape[2], 2)
    ]
    return torch.stack(rows, dim=-2)


def test_the_filter_keeps_the_mean_and_is_exact_in_half_precision() -> None:
    assert K.sum() == 1
    assert torch.equal(K, K.flip(0))
    assert torch.equal(K, K.T)
    assert torch.equal(low_pass_filter().bfloat16().float(), low_pass_filter())
    assert torch.equal((4 * low_pass_filter()).half().float(), 4 * low_pass_filter())


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5)])
def test_double_is_zeros_between_pixels_and_the_filter(
    same_to_second_order, height: int, width: int
) -> None:
    same_to_second_order(lambda x: double(x, K), slow_double, draw(2, 3, height, width))


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 6)])
def test_halve_is_the_filter_and_every_second_pixel(
    same_to_second_order, height: int, width: int
) -> None:
    same_to_second_order(
        lambda x: halve(x, K), lambda x: filtered(x, 1)[:, :, ::2, ::2], draw(2, 3, height, width)
    )


def test_convolve_doubled_spreads_every_pixel_and_filters(same_to_second_order) -> None:
    maps, weight = draw(2, 3, 2, 3), draw(2, 3, 3, 3)
    same_to_second_order(
        lambda x, w: convolve_doubled(x, w, K), slow_convolve_doubled, maps, weight
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolve_halved_filters_and_keeps_every_second_place(
    same_to_second_order, kernel: int
) -> None:
    maps, weight = draw(2, 3, 4, 6), draw(2, 3, kernel, kernel)
    same_to_second_order(lambda x, w: convolve_halved(x, w, K), slow_convolve_halved, maps, weight)


@pytest.mark.parametrize("kernel", [1, 3])
def test_second_derivatives_agree_with_differences(kernel: int) -> None:
    maps = draw(1, 2, 4, 2).requires_grad_()
    weight, bias = draw(1, 2, kernel, kernel).requires_grad_(), draw(1).requires_grad_()
    check = torch.autograd.gradgradcheck
    assert check(lambda x, w, b: convolve_halved(x, w, K, b), (maps, weight, bias), fast_mode=True)
    if kernel == 3:
        assert check(lambda x, w: convolve_doubled(x, w, K), (maps[:, :, :2], weight))


def test_doubling_is_linear_interpolation_except_at_the_border() -> None:
    maps = draw(1, 1, 6, 6)
    smoothly = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    doubled = double(maps, K)
    torch.testing.assert_close(doubled[..., 1:-1, 1:-1], smoothly[..., 1:-1, 1:-1])
    assert (doubled - smoothly)[..., 0, :].abs().max() > 0.01


def test_halving_is_the_transpose_of_doubling() -> None:
    small, large = draw(1, 2, 4, 4), draw(1, 2, 8, 8)
    torch.testing.assert_close(
        (double(small, K) * large).sum(), 4 * (small * halve(large, K)).sum()
    )


def test_layout_of_memory_changes_nothing() -> None:
    maps, weight = draw(2, 4, 8, 8), draw(3, 4, 3, 3)
    turned = maps.contiguous(memory_format=torch.channels_last)
    for function in (
        lambda x: smooth(x, K, padding=2),
        lambda x: double(x, K),
        lambda x: convolve_doubled(x, weight, K),
        lambda x: convolve_halved(x, weight, K),
    ):
        torch.testing.assert_close(function(turned), function(maps))
