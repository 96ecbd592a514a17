"""Bilinear sampling against its four corners written out, with both ways to differentiate it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.layers import grid_sampling
from models.layers.grid_sampling import (
    LinearSampling,
    grid_sample,
    native_derives_twice,
    native_sample,
)

WAYS = {"chosen": grid_sample, "fallback": LinearSampling.apply}


def four_corners(images: Tensor, grid: Tensor) -> Tensor:
    """The definition: each place is the mean of four pixels, weighted by nearness."""
    batch, channels, height, width = images.shape
    x = (grid[..., 0] + 1) * width / 2 - 0.5
    y = (grid[..., 1] + 1) * height / 2 - 0.5
    total = images.new_zeros(batch, channels, *grid.shape[1:3])
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            place = place.long().flatten(1)[:, None].expand(-1, channels, -1)
            pixels = images.flatten(2).gather(2, place).view_as(total)
            total = total + pixels * (weight * inside)[:, None]
    return total


def case() -> tuple[Tensor, Tensor]:
    """Two images, and places of which a good part lies outside."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    grid = torch.empty(2, 6, 7, 2, dtype=torch.float64).uniform_(-1.4, 1.4)
    return images, grid


@pytest.mark.parametrize("way", WAYS)
def test_values_and_both_derivatives_are_those_of_four_corners(way: str) -> None:
    images, grid = case()
    weights, direction = torch.randn(2, 3, 6, 7).double(), torch.randn_like(images)
    results = []
    for function in (WAYS[way], four_corners):
        given = images.clone().requires_grad_()
        output = function(given, grid)
        (first,) = torch.autograd.grad((output**3 * weights).sum(), given, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), given)
        results.append((output, first, second))
    for ours, slow in zip(*results, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_derivatives_pass_the_check_by_differences(way: str) -> None:
    images, grid = case()
    given = images[:1, :1].clone().requires_grad_()

    def curved(pixels: Tensor) -> Tensor:
        return WAYS[way](pixels, grid[:1, :2, :3]).sin()  # so that it has a second derivative

    assert torch.autograd.gradcheck(curved, (given,))
    assert torch.autograd.gradgradcheck(curved, (given,))


def test_a_place_at_the_centre_of_a_pixel_reads_it_alone() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    grid = torch.tensor([2 * (2 + 0.5) / 4 - 1, 2 * (1 + 0.5) / 3 - 1]).view(1, 1, 1, 2)
    for function in WAYS.values():
        torch.testing.assert_close(function(image, grid).item(), image[0, 0, 1, 2].item())


@pytest.mark.parametrize("derives", [True, False])
def test_the_probe_decides_who_samples(monkeypatch: pytest.MonkeyPatch, derives: bool) -> None:
    monkeypatch.setattr(grid_sampling, "native_derives_twice", lambda: derives)
    images, grid = case()
    output = grid_sample(images.requires_grad_(), grid)
    assert type(output.grad_fn).__name__.startswith(
        "GridSampler2D" if derives else "LinearSampling"
    )


class Once(torch.autograd.Function):
    """Sampling that can be differentiated once, as in older versions of PyTorch."""

    @staticmethod
    def forward(context, images: Tensor, grid: Tensor) -> Tensor:
        context.save_for_backward(images, grid)
        return native_sample(images, grid)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:
        images, grid = context.saved_tensors
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(gradient, images, grid, 0, 0, False, [True, False])[0], None


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_probe_tells_whether_a_second_derivative_exists(
    monkeypatch: pytest.MonkeyPatch, outer: type[torch.no_grad]
) -> None:
    probe = native_derives_twice.__wrapped__
    for function, expected in ((Once.apply, False), (four_corners, True)):
        monkeypatch.setattr(grid_sampling, "native_sample", function)
        with outer():  # the first call may come at any time
            assert probe() is expected


def test_images_without_a_gradient_get_none() -> None:
    images, grid = case()
    assert not LinearSampling.apply(images, grid).requires_grad
