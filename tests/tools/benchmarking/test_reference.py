"""The baseline of the benchmark computes the same as the project's own layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import AdamW

from configs.schema import TrainConfig
from tools.benchmarking.networks import (
    BenchmarkedEndora,
    Model,
    cached_batch,
    new_denoiser,
)
from tools.benchmarking.reference import (
    REFERENCE,
    FullProjection,
    Layers,
    ParameterwiseEma,
    RepeatedModulation,
    UnfusedAttention,
    unfused_optimizer,
    with_layers,
)
from tools.training.ema import Ema

CPU = torch.device("cpu")
MODEL = Model(frames=4, images=2, pixels=32, depth=2)


@pytest.mark.parametrize(
    "layers",
    [
        REFERENCE,
        Layers(fused_attention=False),
        Layers(modulation_once=False),
        Layers(averaged_projection=False),
    ],
)
def test_swapped_layers_give_the_same_loss_and_gradients(layers: Layers) -> None:
    network = new_denoiser(MODEL, CPU)
    method = BenchmarkedEndora(MODEL)
    batch = cached_batch(MODEL, 2, CPU)
    found = []
    for each in (network, with_layers(network, layers, MODEL.images)):
        torch.manual_seed(3)
        each.zero_grad()
        loss = method.step_loss(each, batch)
        loss.total.backward()
        gradients = {name: p.grad.clone() for name, p in each.named_parameters()}
        found.append((loss.total.detach(), loss.parts, gradients))
    (total, parts, gradients), (other_total, other_parts, other_gradients) = found
    torch.testing.assert_close(other_total, total, rtol=1e-5, atol=0)
    assert parts["prior"] > 0
    torch.testing.assert_close(dict(other_parts), dict(parts), rtol=1e-5, atol=1e-6)
    assert gradients.keys() == other_gradients.keys()
    for name, expected in gradients.items():
        assert expected.abs().max() > 0, name
        difference = (other_gradients[name] - expected).norm() / expected.norm()
        assert difference < 1e-4, f"{name}: {difference}"


def test_the_reference_shares_its_parameters_and_swaps_every_layer() -> None:
    network = new_denoiser(MODEL, CPU)
    reference = with_layers(network, REFERENCE, MODEL.images)
    ours = dict(network.named_parameters())
    theirs = dict(reference.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(theirs[name] is parameter for name, parameter in ours.items())
    kinds = [type(module) for module in reference.modules()]
    assert kinds.count(UnfusedAttention) == 2
    assert kinds.count(RepeatedModulation) == 3
    assert kinds.count(FullProjection) == 1
    assert not any(isinstance(m, UnfusedAttention) for m in network.modules())


def test_optimizer_and_average_give_the_same_weights() -> None:
    settings = TrainConfig(learning_rate=1e-3)
    network = new_denoiser(MODEL, CPU)
    twin = copy.deepcopy(network)
    first = AdamW(network.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    second = unfused_optimizer(twin, settings)
    averages = [Ema({"x": network}, 0.9), ParameterwiseEma({"x": twin}, 0.9)]
    torch.manual_seed(0)
    for step in range(2):
        for one, other in zip(network.parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        first.step()
        second.step()
        averages[0].update({"x": network}, step)
        averages[1].update({"x": twin}, step)
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    pairs = zip(*(average.networks["x"].parameters() for average in averages), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
