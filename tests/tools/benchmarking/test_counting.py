"""Operations counted from the shapes are those that torch counts while computing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tools.benchmarking.counting import (
    PARAMETER_BYTES,
    PARAMETER_PASSES,
    ItemShape,
    item_work,
)
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


def test_the_page_on_performance_states_these_counts(root: Path) -> None:
    page = (root / "docs" / "performance.md").read_text()
    shapes = [Model(size).item for size in ("S", "B", "L", "XL")]
    works = [item_work(shape) for shape in shapes]
    stated = {
        "learned values, guidance included (million)": [s.parameters / 1e6 for s in shapes],
        "forward (GFLOP)": [work.forward / 1e9 for work in works],
        "training step (GFLOP)": [work.step / 1e9 for work in works],
        "the reference's repeated modulation on top": [
            (item_work(s, repeated_modulation=True) - item_work(s)).step / 1e9 for s in shapes
        ],
        "the reference's full projection on top": [
            (item_work(s, full_projection=True) - item_work(s)).step / 1e9 for s in shapes
        ],
        "passes over parameters in a step (GB)": [
            PARAMETER_PASSES * PARAMETER_BYTES * s.parameters / 1e9 for s in shapes
        ],
    }
    for name, values in stated.items():
        row = next(line for line in page.splitlines() if name in line)
        cells = [float(cell) for cell in row.split("|")[2:-1]]
        assert cells == pytest.approx(values, rel=1e-2), name
