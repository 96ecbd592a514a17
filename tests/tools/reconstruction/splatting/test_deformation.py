"""The field of motion: nothing at the start, all of time and space once trained."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tools.reconstruction.splatting.deformation import PAIRS, Deformation, DeformationSettings
from tools.reconstruction.splatting.gaussians import NAMES, Gaussians

SMALL = {"resolution": 8, "multipliers": (1, 2), "time_resolution": 9, "channels": 4, "width": 8}


def scene(count: int = 40) -> Gaussians:
    torch.manual_seed(0)
    return Gaussians(
        torch.rand(count, 3) * 2 - 1,
        torch.randn(count, 3),
        torch.randn(count, 4),
        torch.randn(count),
        torch.randn(count, 4, 3),
    )


def field(**settings: object) -> Deformation:
    draw = torch.Generator().manual_seed(1)
    choices = DeformationSettings(**{**SMALL, **settings})  # type: ignore[arg-type]
    return Deformation(choices, -torch.ones(3), torch.ones(3), 0.5, draw)


def awake(**settings: object) -> Deformation:
    """With random planes and heads, as after some training."""
    made = field(**settings)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("time", [-1.0, 0.3, 1.0])
def test_a_new_field_leaves_the_scene_as_it_is(time: float) -> None:
    before = scene()
    after = field()(before, time)
    for name in NAMES:
        assert torch.equal(getattr(after, name), getattr(before, name)), name


def test_features_of_a_new_field_already_change_in_time() -> None:
    made, places = field(), scene().positions
    spread = torch.stack([made.features(places, time) for time in (-1.0, 0.0, 1.0)]).std(0)
    assert float(spread.detach().mean()) > 0.1


def test_gradients_reach_the_heads_of_a_new_field() -> None:
    made = field()
    after = made(scene(), 0.2)
    sum(getattr(after, name).square().sum() for name in NAMES).backward()
    for name, head in made.heads.items():
        assert float(head[-1].weight.grad.abs().sum()) > 0, name


def test_features_change_over_the_whole_of_time() -> None:
    made = awake()
    times = torch.linspace(-1, 1, 9)
    places = scene().positions
    features = [made.features(places, float(time)) for time in times]
    for one, other in pairwise(features):
        assert float((one - other).detach().abs().mean()) > 0.01


def test_features_are_products_of_the_planes_read_bilinearly() -> None:
    made = awake(multipliers=(1,))
    place, time = torch.tensor([[-1.0, 1.0, 3 / 7 * 2 - 1]]), 0.25  # corners, cell 3, time row 5
    node = {0: 0, 1: 7, 2: 3, 3: 5}
    expected = torch.ones(4)
    for plane, (first, second) in zip(made.planes, PAIRS, strict=True):
        expected = expected * plane[:, node[second], node[first]]
    torch.testing.assert_close(made.features(place, time)[0], expected, rtol=1e-4, atol=1e-4)


def test_offsets_of_position_are_in_the_unit_of_the_scene() -> None:
    made, before = awake(), scene()
    once = made(before, 0.0).positions - before.positions
    made.unit *= 3
    thrice = made(before, 0.0).positions - before.positions
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-4, atol=1e-5)


def test_opacity_can_be_kept_still_and_colour_always_is() -> None:
    before = scene()
    assert torch.equal(awake(opacity=False)(before, 0.5).opacity_logits, before.opacity_logits)
    assert not torch.equal(awake()(before, 0.5).opacity_logits, before.opacity_logits)
    assert torch.equal(awake()(before, 0.5).harmonics, before.harmonics)


def test_roughness_is_zero_for_even_motion_only() -> None:
    made = field()
    assert float(made.roughness().detach()) > 0
    ramp = torch.linspace(0, 1, 9)[:, None]
    with torch.no_grad():
        for plane, pair in zip(made.planes, PAIRS * 2, strict=True):
            if pair[1] == 3:
                plane[:] = 1 + ramp
    assert float(made.roughness().detach()) < 1e-12
    with torch.no_grad():
        made.planes[2][:, 4] += 1
    assert float(made.roughness().detach()) > 1e-3


@pytest.mark.parametrize("wrong", [{"resolution": 1}, {"multipliers": ()}, {"channels": 0}])
def test_sizes_that_make_no_field(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="deformation"):
        field(**wrong)
