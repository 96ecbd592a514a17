"""Filters that follow motion: values and gradients of the obvious loops, whatever is recomputed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.layers import motion_modulation as module
from models.layers.modulated import ModulatedConvolution, demodulation
from models.layers.motion_modulation import MODES, MotionModulation, MotionStyles

IMAGES, OUTPUTS, INPUTS, STYLES, WIDTH = 5, 4, 6, 3, 8
BY_SCALE = ["demod", "released"]


def leaky(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, 0.2 * value)


def motion_tensors(modulation: MotionModulation, styles: Tensor) -> list[Tensor]:
    """The motion tensors (I, 3, 3) of one image, by outer products."""
    matrix = modulation.conv0.weight[:, :, 0, 0]
    tensors = []
    for style in styles:
        projected = math.sqrt(2) * leaky(matrix @ style / math.sqrt(WIDTH))
        channels, rows, columns = projected[:INPUTS], projected[INPUTS:-3], projected[-3:]
        tensors.append(torch.einsum("i,a,b->iab", channels, rows, columns))
    return tensors


def changed(
    modulation: MotionModulation, weight: Tensor, style: Tensor, motion: Tensor
) -> tuple[Tensor, Tensor]:
    """The changed filters (O, I, 3, 3) of one image and all its scores (O, J), by loops."""
    if modulation.mode == "released":
        peaks = torch.stack([each.abs().max() for each in weight])
        weight = weight / peaks[:, None, None, None] / math.sqrt(9 * INPUTS)
        style = style / style.abs().max()
    tensors = motion_tensors(modulation, motion)
    mixtures, scores = [], []
    for each in weight * style[:, None, None]:
        score = torch.stack([(each * tensor).sum() / math.sqrt(9 * INPUTS) for tensor in tensors])
        shares = score.exp() / score.exp().sum()
        mixtures.append(sum(share * tensor for share, tensor in zip(shares, tensors, strict=True)))
        scores.append(score)
    mixture = torch.stack(mixtures)  # type: ignore[arg-type]
    factor = 1 + leaky(mixture / mixture.abs().max())
    return weight * style[:, None, None] * factor, torch.stack(scores)


def example(mode: module.Mode) -> tuple[MotionModulation, list[Tensor]]:
    """A layer in float64, and weight, styles and motion that take gradients."""
    torch.manual_seed(7)
    modulation = MotionModulation(INPUTS, WIDTH, mode).double()
    given = [
        3 * torch.randn(OUTPUTS, INPUTS, 3, 3, dtype=torch.float64),
        1 + 0.5 * torch.randn(IMAGES, INPUTS, dtype=torch.float64),
        torch.randn(IMAGES, STYLES, WIDTH, dtype=torch.float64),
    ]
    return modulation, [each.requires_grad_() for each in given]


def gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    direction = torch.randn(output.shape, dtype=output.dtype, generator=generator)
    return list(torch.autograd.grad((output * direction).sum(), inputs))


@pytest.mark.parametrize("count", [1, 2, IMAGES], ids="chunks of {}".format)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_are_those_of_the_loops(
    monkeypatch: pytest.MonkeyPatch, mode: module.Mode, count: int
) -> None:
    modulation, (weight, styles, motion) = example(mode)
    monkeypatch.setattr(module, "CPU_CHUNK", count * weight.numel())
    change = modulation.filters if mode == "paper" else modulation.demodulation
    fast = change(weight, styles, motion)

    rows = []
    for style, styles_of_motion in zip(styles, motion, strict=True):
        filters, _ = changed(modulation, weight, style, styles_of_motion)
        scales = (filters.square().sum(dim=(1, 2, 3)) + 1e-8).rsqrt()
        if mode == "paper":
            filters = filters * scales[:, None, None, None]
        elif mode == "released":
            peaks = weight.abs().amax(dim=(1, 2, 3)) * math.sqrt(9 * INPUTS) * style.abs().max()
            scales = scales / peaks
        rows.append(filters if mode == "paper" else scales)
    slow = torch.stack(rows)

    torch.testing.assert_close(fast, slow)
    inputs = (weight, styles, motion, modulation.conv0.weight)
    for ours, theirs in zip(gradients(fast, *inputs), gradients(slow, *inputs), strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_without_gradients_values_are_the_same(mode: module.Mode) -> None:
    modulation, given = example(mode)
    change = modulation.filters if mode == "paper" else modulation.demodulation
    with_gradients = change(*given)
    with torch.no_grad():
        assert torch.equal(change(*given), with_gradients)


def kept(modulation: MotionModulation, given: list[Tensor]) -> int:
    """Numbers that autograd keeps for the gradient, each storage once."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = modulation.demodulation(*given)
    assert output.requires_grad
    return sum(sizes.values()) // 4


@pytest.mark.parametrize("mode", BY_SCALE)
def test_filters_of_images_are_not_kept_for_the_gradient(mode: module.Mode) -> None:
    modulation = MotionModulation(32, WIDTH, mode)
    given = [torch.randn(32, 32, 3, 3), torch.randn(40, 32), torch.randn(40, STYLES, WIDTH)]
    given = [each.requires_grad_() for each in given]
    assert kept(modulation, given) < 0.5 * 40 * given[0].numel()


def test_the_mean_squared_cosine_is_that_of_all_pairs() -> None:
    for mode in MODES:
        modulation, (weight, styles, motion) = example(mode)
        fast = modulation.likeness(weight, styles, motion)
        scores = [
            changed(modulation, weight, *image)[1] for image in zip(styles, motion, strict=True)
        ]
        vectors = torch.cat(scores, dim=1).T
        vectors = vectors / (vectors.detach().norm(dim=1, keepdim=True) + 1e-6)
        slow = torch.stack([(a @ b) ** 2 for a in vectors for b in vectors]).mean()
        torch.testing.assert_close(fast, slow)
        inputs = (weight, styles, motion, modulation.conv0.weight)
        for ours, theirs in zip(gradients(fast, *inputs), gradients(slow, *inputs), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_likeness_is_greatest_for_equal_styles() -> None:
    modulation, (weight, styles, motion) = example("demod")
    apart = modulation.likeness(weight, styles, motion)
    equal = modulation.likeness(weight, styles[:1].expand(3, -1), motion[:1, :1].expand(3, 2, -1))
    assert apart < 0.99
    torch.testing.assert_close(equal.item(), 1.0, rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_without_motion_tensors_the_demodulation_is_that_of_a_style(mode: module.Mode) -> None:
    modulation, (weight, styles, motion) = example(mode)
    torch.nn.init.zeros_(modulation.conv0.weight)
    plain = demodulation(weight, styles)
    if mode == "paper":
        found = modulation.filters(weight, styles, motion)
        styled = weight * styles[:, None, :, None, None] * plain[:, :, None, None, None]
        torch.testing.assert_close(found, styled, rtol=1e-5, atol=1e-7)
    else:
        found = modulation.demodulation(weight, styles, motion)
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=0)
    for gradient in gradients(found, weight, styles, motion, modulation.conv0.weight):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("doubles", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_layer_with_motion(mode: module.Mode, doubles: bool) -> None:
    torch.manual_seed(11)
    modulation = MotionModulation(INPUTS, WIDTH, mode)
    layer = ModulatedConvolution(INPUTS, OUTPUTS, 16, doubles=doubles, hypernet=modulation)
    plain = ModulatedConvolution(INPUTS, OUTPUTS, 16, doubles=doubles)
    plain.load_state_dict(layer.state_dict(), strict=False)
    maps, latents = torch.randn(6, INPUTS, 8, 8), torch.randn(2, 16)
    motion = torch.randn(6, STYLES, WIDTH)

    output = layer(maps, latents, motion)
    assert output.shape == (6, OUTPUTS, *([16, 16] if doubles else [8, 8]))
    assert (output - plain(maps, latents)).abs().max() > 0.01
    alone = layer(maps[4:5], latents[1:], motion[4:5])
    torch.testing.assert_close(alone, output[4:5], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="was given no motion styles"):
        layer(maps, latents)

    torch.nn.init.zeros_(modulation.conv0.weight)
    reduced = layer(maps, latents, motion)
    torch.testing.assert_close(reduced, plain(maps, latents), rtol=1e-4, atol=1e-5)


def test_in_paper_mode_every_image_is_convolved_with_its_changed_filters() -> None:
    torch.manual_seed(2)
    modulation = MotionModulation(INPUTS, WIDTH, "paper")
    layer = ModulatedConvolution(INPUTS, OUTPUTS, 16, hypernet=modulation)
    maps, latents = torch.randn(2, INPUTS, 8, 8), torch.randn(2, 16)
    motion = torch.randn(2, STYLES, WIDTH)
    output = layer(maps, latents, motion)
    for index in range(2):
        style = layer.affine(latents[index : index + 1])[0]
        filters, _ = changed(modulation, layer.weight, style, motion[index])
        filters = filters * (filters.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        expected = torch.nn.functional.conv2d(maps[index : index + 1], filters, padding=1)
        expected = math.sqrt(2) * leaky(expected + layer.bias[:, None, None])
        torch.testing.assert_close(output[index : index + 1], expected, rtol=1e-4, atol=1e-5)


def test_attention_is_nearly_uniform_in_released_mode_alone() -> None:
    torch.manual_seed(0)
    entropies = {}
    for mode in ("demod", "released"):
        modulation = MotionModulation(64, 32, mode)  # type: ignore[arg-type]
        weight, styles = torch.randn(64, 64, 3, 3), 1 + 0.1 * torch.randn(8, 64)
        if mode == "released":
            weight, styles, _ = module.normalise(weight, styles)
        shares, _ = modulation.attend(weight, styles, torch.randn(8, 8, 32))
        entropies[mode] = (-(shares * shares.log()).sum(-1).mean() / math.log(8)).item()
    assert entropies["demod"] < 0.97
    assert entropies["released"] > 0.999


@pytest.mark.parametrize("mode", MODES)
def test_autocast_changes_nothing_but_the_maps(mode: module.Mode) -> None:
    torch.manual_seed(0)
    layer = ModulatedConvolution(
        INPUTS, OUTPUTS, 16, hypernet=MotionModulation(INPUTS, WIDTH, mode)
    )
    maps, latents = torch.randn(2, INPUTS, 8, 8), torch.randn(2, 16)
    motion = torch.randn(2, STYLES, WIDTH)
    exact = layer(maps, latents, motion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(maps.bfloat16(), latents, motion)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


def test_motion_styles_follow_content_and_motion() -> None:
    styles = MotionStyles(16, 12, 4, 8)
    assert [layer.weight.shape for layer in styles] == [(64, 28), (32, 64)]
    latents, motion = torch.randn(3, 16), torch.randn(3, 12)
    base = styles(latents, motion)
    assert base.shape == (3, 4, 8)
    assert (styles(latents + 1, motion) - base).abs().max() > 0.01
    assert (styles(latents, motion + 1) - base).abs().max() > 0.01


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="choose from paper, demod, released"):
        MotionModulation(4, 4, "fused")  # type: ignore[arg-type]
