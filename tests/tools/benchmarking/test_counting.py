"""Operations counted from the shapes are those that torch counts while computing."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tools.benchmarking.counting import ItemShape, item_work
from tools.benchmarking.networks import BenchmarkedEndora, Model, cached_batch, new_denoiser
from tools.benchmarking.reference import REFERENCE, Layers, with_layers

CPU = torch.device("cpu")


@pytest.mark.parametrize("layers", [Layers(), REFERENCE, Layers(modulation_once=False)])
def test_operations_are_those_that_torch_counts(layers: Layers) -> None:
    model = Model(frames=3, images=2, pixels=32, depth=4)
    network = with_layers(new_denoiser(model, CPU), layers, model.images)
    batch = cached_batch(model, 1, CPU)
    method = BenchmarkedEndora(model)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            method.step_loss(network, batch)
        with FlopCounterMode(display=False) as step:
            method.step_loss(network, batch).total.backward()
    work = item_work(
        model.item,
        repeated_modulation=not layers.modulation_once,
        full_projection=not layers.averaged_projection,
    )
    assert work.forward == forward.get_total_flops()
    assert work.step == step.get_total_flops()


@pytest.mark.parametrize(
    ("size", "learned"),
    [("XL", 673_773_728), ("L", 456_897_568), ("B", 129_608_480), ("S", 32_511_392)],
)
def test_parameters_are_the_published_ones(size: str, learned: int) -> None:
    shape = ItemShape.of_size(size)
    tables = (shape.tokens + shape.frames) * shape.width  # which the published code learns
    assert shape.parameters + tables == learned


def test_parameters_with_guidance_are_those_of_the_network() -> None:
    model = Model(depth=4)
    network = new_denoiser(model, CPU)
    assert sum(p.numel() for p in network.parameters()) == model.item.parameters
