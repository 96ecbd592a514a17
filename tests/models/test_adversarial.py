"""Losses of the game, the gradient penalty to its second order, and the controller."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from models.adversarial import (
    adapt_strength,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    r1_loss,
)
from models.backbones.stylegan.discriminator import Discriminator, DiscriminatorSizes
from models.layers.augmentation import Augmentation

SIZES = DiscriminatorSizes(
    resolution=16,
    frames=3,
    channel_base=128,
    channel_max=6,
    joined_at=8,
    hidden=5,
    conditioning_width=7,
    longest_video=16,
)


def test_losses_are_negative_logarithms_of_probabilities() -> None:
    fake, real = torch.tensor([-3.0, 0.5]), torch.tensor([1.0, 2.0])

    def probability(logit: float) -> float:  # that a clip is real
        return 1 / (1 + math.exp(-logit))

    fooled = -sum(math.log(probability(each)) for each in fake.tolist()) / 2
    told = -sum(math.log(1 - probability(each)) for each in fake.tolist()) / 2
    believed = -sum(math.log(probability(each)) for each in real.tolist()) / 2
    assert generator_loss(fake).item() == pytest.approx(fooled)
    assert discriminator_loss(fake, real).item() == pytest.approx(told + believed)
    assert generator_loss(torch.tensor([-1000.0])).item() == pytest.approx(1000)
    assert discriminator_loss(fake.bfloat16(), real.bfloat16()).dtype == torch.float32


class Linear(nn.Module):
    """Logits that are a weighted sum of all pixels, plus a bias."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, videos: Tensor, times: Tensor) -> Tensor:
        return (videos * self.weights).flatten(1).sum(1) + self.bias


def test_the_penalty_of_a_linear_judge_follows_from_its_weights() -> None:
    torch.manual_seed(0)
    weights, videos = torch.randn(5, 3, 2, 2), torch.randn(4, 5, 3, 2, 2, requires_grad=True)
    judge = Linear(weights)
    expected = weights.square().sum() / 5  # the mean over 5 frames
    penalty = gradient_penalty(judge(videos, torch.zeros(4, 5)), videos)
    torch.testing.assert_close(penalty, expected.expand(4))
    loss, logits = r1_loss(judge, videos, torch.zeros(4, 5), gamma=3.0)
    torch.testing.assert_close(loss, 1.5 * expected)
    assert not logits.requires_grad
    loss.backward()
    assert judge.weights.grad is not None
    torch.testing.assert_close(judge.weights.grad, 1.5 * 2 * weights / 5)
    assert judge.bias.grad is not None  # it changes no gradient, but others wait for it
    assert judge.bias.grad.item() == 0
    assert videos.grad is None  # the penalty is no loss of the clips


class Fixed(nn.Module):
    """An augmentation that transforms as was drawn once, at full strength."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.augmentation = Augmentation()
        self.augmentation.strength.fill_(1.0)
        self.draws = self.augmentation.draw(count)

    def forward(self, videos: Tensor) -> Tensor:
        return self.augmentation.apply_draws(videos, self.draws)


def judge_and_clips(*, augmented: bool) -> tuple[Discriminator, Tensor, Tensor]:
    torch.manual_seed(0)
    augmentation = Fixed(2) if augmented else None
    discriminator = Discriminator(SIZES, augmentation).double()
    for name, parameter in discriminator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    videos = torch.rand(2, 3, 3, 16, 16).double() * 2 - 1
    return discriminator, videos, torch.tensor([[0.0, 1.0, 2.0], [1.0, 3.0, 7.0]])


@pytest.mark.parametrize("augmented", [False, True])
def test_the_penalty_is_the_slope_of_the_outputs_over_the_clips_as_given(augmented: bool) -> None:
    """By differences: the gradient reaches through the augmentation to what lies before it."""
    discriminator, videos, times = judge_and_clips(augmented=augmented)
    loss, _ = r1_loss(discriminator, videos, times, gamma=2.0)
    step, places = 1e-6, [(0, 0, 0, 3, 5), (0, 2, 1, 8, 8), (1, 1, 2, 12, 4)]
    given = videos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(given, times).sum(), given)
    assert loss.item() == pytest.approx(gradient.square().sum().item() / 3 / 2, rel=1e-5)
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = videos.clone()
            moved[place] += sign * step
            ends.append(discriminator(moved, times).sum().item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("augmented", [False, True])
def test_the_penalty_moves_weights_as_differences_say(augmented: bool) -> None:
    """Its derivative along a random direction in each parameter, in float64."""
    discriminator, videos, times = judge_and_clips(augmented=augmented)

    def loss() -> Tensor:
        return r1_loss(discriminator, videos, times, gamma=2.0)[0]

    loss().backward()
    step, checked = 1e-5, 0
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -2, 1):  # there, beyond, and back
            with torch.no_grad():
                parameter += sign * step * direction
            ends.append(loss().item())
        slope = (ends[0] - ends[1]) / (2 * step)
        expected = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx(expected, rel=2e-3, abs=1e-6), name
        checked += abs(expected) > 1e-5
    assert checked >= 12


def test_the_penalty_passes_random_augmentation_at_full_strength() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation()
    augmentation.strength.fill_(1.0)
    discriminator = Discriminator(SIZES, augmentation)
    videos, times = torch.rand(4, 3, 3, 16, 16) * 2 - 1, torch.arange(3.0).expand(4, 3)
    loss, logits = r1_loss(discriminator, videos, times, gamma=2.0)
    loss.backward()
    assert loss.item() > 0
    assert logits.shape == (4,)
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert discriminator.get_parameter("b16.conv0.weight").grad.abs().max() > 0  # type: ignore[union-attr]


def test_the_penalty_does_not_care_whether_gradients_are_on() -> None:
    discriminator, videos, times = judge_and_clips(augmented=False)
    loss, _ = r1_loss(discriminator, videos, times, gamma=2.0)
    with torch.no_grad():
        same, _ = r1_loss(discriminator, videos, times, gamma=2.0)
    torch.testing.assert_close(loss.detach(), same)


def test_strength_follows_the_signs_of_outputs() -> None:
    """Steps of 16 clips, every fourth of which may change the strength: 6.4e-4 at 100,000."""
    augmentation = Augmentation()
    for step in range(8):
        augmentation.record(torch.tensor([1.0, 2.0, 0.1, 3.0, -1.0 if step % 4 == 0 else 1.0]))
        sign = adapt_strength(augmentation, 16, due=step % 4 == 3, speed=100_000)
        expected = 6.4e-4 * ((step + 1) // 4)
        assert augmentation.strength.item() == pytest.approx(expected, rel=1e-6)
    assert sign.item() == pytest.approx(18 / 20)
    assert augmentation.sign_count.item() == augmentation.clips.item() == 0
    # Outputs below the target lower it again, at the default speed five times as slowly.
    augmentation.record(torch.tensor([1.0, 1.0, 1.0, -1.0]))
    assert adapt_strength(augmentation, 64, due=True).item() == 0.5
    assert augmentation.strength.item() == pytest.approx(2 * 6.4e-4 - 64 / 500_000, rel=1e-5)


@pytest.mark.parametrize(("sign", "bound"), [(1.0, 1.0), (-1.0, 0.0)])
def test_strength_stays_a_probability(sign: float, bound: float) -> None:
    augmentation = Augmentation()
    augmentation.strength.fill_(0.5)
    augmentation.record(torch.tensor([sign]))
    adapt_strength(augmentation, 1000, due=True, speed=100)
    assert augmentation.strength.item() == bound


@pytest.mark.parametrize("signs", [[], [1.0, 1.0, 1.0, 1.0, -1.0]])
def test_strength_rests_at_the_target_and_without_any_output(signs: list[float]) -> None:
    augmentation = Augmentation()
    augmentation.strength.fill_(0.5)
    if signs:
        augmentation.record(torch.tensor(signs))
    adapt_strength(augmentation, 1000, due=True, target=0.6, speed=10_000)
    assert augmentation.strength.item() == 0.5
