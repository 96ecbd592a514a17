"""Doubling, splitting and dropping keep Gaussians and optimiser in step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from tools.reconstruction.splatting.gaussians import NAMES, Gaussians
from tools.reconstruction.splatting.growth import Cloud, Growth, GrowthSettings, double, drop, split
from tools.reconstruction.splatting.rasterise import Render

RATES = {
    "positions": 0.1,
    "log_scales": 0.1,
    "rotations": 0.1,
    "opacity_logits": 0.1,
    "base": 0.1,
    "detail": 0.1,
}


def cloud(count: int = 8) -> Cloud:
    """With the moments of two steps."""
    torch.manual_seed(0)
    scene = Gaussians(
        torch.randn(count, 3),
        torch.randn(count, 3) - 3,
        torch.randn(count, 4),
        torch.randn(count),
        torch.randn(count, 4, 3),
    )
    made = Cloud(scene, RATES)
    for _ in range(2):
        train(made)
    return made


def train(made: Cloud) -> None:
    made.optimiser.zero_grad()
    scene = made.gaussians()
    sum((getattr(scene, name) ** 2).sum() for name in NAMES).backward()
    made.optimiser.step()


def moments(made: Cloud, name: str) -> Tensor:
    return made.optimiser.state[made.parameters[name]]["exp_avg"]


def mask(count: int, *chosen: int) -> Tensor:
    made = torch.zeros(count, dtype=torch.bool)
    made[list(chosen)] = True
    return made


def test_doubling_adds_copies_without_a_past() -> None:
    made = cloud()
    before = made.gaussians().detached()
    past = moments(made, "positions").clone()
    double(made, mask(8, 1, 5))
    after = made.gaussians()
    assert len(after) == 10
    for name in NAMES:
        assert torch.equal(getattr(after, name)[8:], getattr(before, name)[[1, 5]]), name
        assert torch.equal(getattr(after, name)[:8], getattr(before, name)), name
    assert torch.equal(moments(made, "positions")[:8], past)
    assert (moments(made, "positions")[8:] == 0).all()
    train(made)  # the optimiser goes on with the new sizes


def test_halves_of_a_split_are_smaller_and_the_parent_is_gone() -> None:
    made = cloud()
    before = made.gaussians().detached()
    split(made, mask(8, 0, 3), torch.Generator().manual_seed(0))
    after = made.gaussians().detached()
    assert len(after) == 10
    rest = [1, 2, 4, 5, 6, 7]
    assert torch.equal(after.positions[:6], before.positions[rest])
    halves = before.scales[[0, 3, 0, 3]] / 1.6
    torch.testing.assert_close(after.scales[6:], halves)
    for name in ("rotations", "opacity_logits", "harmonics"):
        assert torch.equal(getattr(after, name)[6:], getattr(before, name)[[0, 3, 0, 3]]), name
    assert (moments(made, "log_scales")[6:] == 0).all()
    assert (moments(made, "log_scales")[:6] != 0).all()


def test_halves_are_drawn_from_the_parent() -> None:
    scale = torch.tensor([0.5, 0.1, 0.02])
    turn = torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])  # x becomes y
    many = 4000
    scene = Gaussians(
        torch.ones(many, 3),
        scale.log().repeat(many, 1),
        turn.repeat(many, 1),
        torch.zeros(many),
        torch.zeros(many, 1, 3),
    )
    made = Cloud(scene, RATES)
    split(made, torch.ones(many, dtype=torch.bool), torch.Generator().manual_seed(0))
    places = made.parameters["positions"].detach()
    torch.testing.assert_close(places.mean(0), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(places.std(0), scale[[1, 0, 2]], atol=0, rtol=0.05)


def test_they_equal_the_operations_of_gsplat() -> None:
    operations = pytest.importorskip("gsplat.strategy.ops")
    for name in ("duplicate", "split", "remove"):
        made = cloud()
        names = {"means": "positions", "scales": "log_scales", "quats": "rotations"}
        names |= {"opacities": "opacity_logits", "sh0": "base", "shN": "detail"}
        theirs = {key: copy.deepcopy(made.parameters[ours]) for key, ours in names.items()}
        optimisers = {}
        for key, parameter in theirs.items():
            optimisers[key] = torch.optim.Adam([parameter])
            state = made.optimiser.state[made.parameters[names[key]]]
            optimisers[key].state[parameter] = copy.deepcopy(state)
        chosen = mask(8, 0, 2, 7)
        torch.manual_seed(4)
        getattr(operations, name)(params=theirs, optimizers=optimisers, state={}, mask=chosen)
        if name == "duplicate":
            double(made, chosen)
        elif name == "remove":
            drop(made, chosen)
        else:
            split(made, chosen, torch.Generator().manual_seed(4))
        for key, ours in names.items():
            torch.testing.assert_close(made.parameters[ours], theirs[key], msg=f"{name} {key}")
            state = optimisers[key].state[theirs[key]]
            torch.testing.assert_close(moments(made, ours), state["exp_avg"])


def test_dropping_all_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="all 8 Gaussians"):
        drop(cloud(), torch.ones(8, dtype=torch.bool))


def picture(pull: list[float], radii: list[float]) -> Render:
    """A render of 20 x 10 pixels whose middles felt these gradients along x."""
    means = torch.zeros(len(pull), 2, requires_grad=True)
    means.grad = torch.tensor([[value / 10, 0.0] for value in pull])  # in half widths
    blank = torch.zeros(10, 20)
    return Render(blank[..., None], blank, blank, means, torch.tensor(radii))


def test_who_grows_and_how() -> None:
    made = cloud(4)
    with torch.no_grad():
        made.parameters["log_scales"][:] = math.log(0.001)
        made.parameters["log_scales"][1] = math.log(0.5)
        made.parameters["opacity_logits"][:] = torch.tensor([2.0, 2.0, 2.0, -9.0])
    growth = Growth(GrowthSettings(gradient=1.0), extent=1.0, count=4, device="cpu")
    growth.record(picture([3.0, 3.0, 1.5, 0.0], [1, 1, 1, 1]))
    growth.record(picture([3.0, 3.0, 0.3, 0.0], [1, 1, 1, 1]))  # the third: 0.9 on average
    growth.record(picture([0.0, 9.0, 9.0, 9.0], [1, 0, 0, 0]))  # unseen ones do not count
    before = made.gaussians().detached()
    growth.change(made, torch.Generator().manual_seed(0))
    after = made.gaussians().detached()
    assert len(after) == 5  # one doubled, one split, one dropped
    assert torch.equal(after.positions[:3], before.positions[[0, 2, 0]])
    torch.testing.assert_close(after.scales[3:], before.scales[[1, 1]] / 1.6)
    assert len(growth.pull) == 5
    assert float(growth.pull.sum()) == 0


def test_growth_stops_at_its_limit_and_prefers_the_hardest_pulled() -> None:
    made = cloud(4)
    with torch.no_grad():
        made.parameters["log_scales"][:] = math.log(0.001)
        made.parameters["opacity_logits"][:] = 0.0
    growth = Growth(GrowthSettings(gradient=1.0, limit=5), extent=1.0, count=4, device="cpu")
    growth.record(picture([2.0, 3.0, 5.0, 4.0], [1, 1, 1, 1]))
    before = made.gaussians().detached()
    growth.change(made, torch.Generator().manual_seed(0))
    assert torch.equal(made.gaussians().positions[4:], before.positions[2:3])


def test_when_growth_is_due() -> None:
    growth = Growth(GrowthSettings(begin=20, every=10, end=0.5), 1.0, 1, "cpu")
    assert [step for step in range(1, 101) if growth.due(step, 100)] == [30, 40, 50]


def test_opacity_starts_low_again_without_a_past() -> None:
    made = cloud()
    made.reset_opacity(0.01)
    assert float(made.gaussians().detached().opacities.max()) <= 0.0100001
    assert (moments(made, "opacity_logits") == 0).all()
    assert (moments(made, "positions") != 0).any()


def test_a_state_brings_back_another_number_of_gaussians() -> None:
    made, other = cloud(), cloud()
    double(made, mask(8, 2))
    other.load(copy.deepcopy(made.state()))
    for step in range(2):
        train(made)
        train(other)
        for name in RATES:
            assert torch.equal(made.parameters[name], other.parameters[name]), (step, name)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"end": 1.5}, {"limit": 0}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="growth"):
        GrowthSettings(**wrong)  # type: ignore[arg-type]
