from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.training.ema import Ema


def network(value: float) -> nn.Module:
    module = nn.BatchNorm1d(3)
    nn.init.constant_(module.weight, value)
    return module


def test_the_average_moves_by_one_minus_decay() -> None:
    networks = {"a": network(0.0)}
    average = Ema(networks, 0.75)
    nn.init.constant_(networks["a"].weight, 8.0)
    average.update(networks, 0)
    torch.testing.assert_close(average.networks["a"].weight.data, torch.full((3,), 2.0))
    average.update(networks, 1)
    torch.testing.assert_close(average.networks["a"].weight.data, torch.full((3,), 3.5))


def test_a_decay_of_zero_is_a_copy_with_its_buffers() -> None:
    networks = {"a": network(1.0)}
    average = Ema(networks, 0.0)
    networks["a"](torch.randn(5, 3))  # moves the running statistics
    nn.init.normal_(networks["a"].weight)
    average.update(networks, 0)
    for name, tensor in networks["a"].state_dict().items():
        assert torch.equal(average.networks["a"].state_dict()[name], tensor), name


def test_warmup_raises_the_decay_to_its_limit() -> None:
    average = Ema({"a": network(0.0)}, 0.9, warmup=True)
    assert average.decay_at(0) == pytest.approx(0.1)
    assert average.decay_at(20) == pytest.approx(0.7)
    assert average.decay_at(10_000) == 0.9


def test_rampup_bounds_the_half_life_by_a_share_of_the_steps() -> None:
    average = Ema({"a": network(0.0)}, 0.5 ** (1 / 312.5), rampup=0.05)
    assert average.decay_at(0) == 0
    assert average.decay_at(20) == pytest.approx(0.5)  # a half-life of one step
    assert average.decay_at(2000) == pytest.approx(0.5**0.01)
    assert average.decay_at(6250) == average.decay_at(10**6) == pytest.approx(0.9977844)


def test_the_average_is_float32_needs_no_gradients_and_follows_no_optimizer() -> None:
    networks = {"a": network(1.0)}
    average = Ema(networks, 0.9)
    assert not any(p.requires_grad for p in average.networks["a"].parameters())
    assert not average.networks["a"].training
    assert networks["a"].training
    nn.init.constant_(networks["a"].weight, 5.0)
    assert float(average.networks["a"].weight.detach()[0]) == 1


def test_reset_takes_the_present_weights() -> None:
    networks = {"a": network(0.0)}
    average = Ema(networks, 0.99)
    nn.init.constant_(networks["a"].weight, 8.0)
    average.reset(networks)
    assert torch.equal(average.networks["a"].weight, networks["a"].weight)
