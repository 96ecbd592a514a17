"""Steps are real training steps, and predictions follow from counts and ceilings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tools.benchmarking.growth import floors, parallel_seconds
from tools.benchmarking.machine import Ceilings
from tools.benchmarking.memory import peak_resident, resident
from tools.benchmarking.networks import Model, cached_batch
from tools.benchmarking.plot import draw_gains, draw_growth
from tools.benchmarking.reference import Layers
from tools.benchmarking.tables import Row, Section, Setup
from tools.benchmarking.training import Steps, Variant, predictions, rounding, variants

CPU = torch.device("cpu")
MODEL = Model(frames=4, images=2, pixels=32, depth=2)


def setup(**ceilings: float) -> Setup:
    rates = {"fp32": 1e11, "bf16": 2e11, "bandwidth": 1e10} | ceilings
    return Setup(CPU, MODEL, Ceilings(**rates), Path())


def test_every_variant_trains_the_shared_weights_and_their_average() -> None:
    steps = Steps(MODEL, CPU)
    batch = cached_batch(MODEL, 1, CPU)
    chosen = variants(setup())
    assert next(iter(chosen)) == "reference"
    assert chosen["reference"] == Variant()
    works = [steps.step(chosen[name], batch) for name in ("reference", "all together")]
    for work in works:
        before = [p.detach().clone() for p in steps.network.parameters()]
        average = [p.clone() for p in steps.average.networks["denoiser"].parameters()]
        work()
        after = list(steps.network.parameters())
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        now = steps.average.networks["denoiser"].parameters()
        assert any(not torch.equal(a, b) for a, b in zip(average, now, strict=True))


def test_rounding_is_told_apart_from_other_mathematics() -> None:
    steps = Steps(MODEL, CPU)
    batch = cached_batch(MODEL, 1, CPU)
    exact = rounding(steps, Variant(Layers()), batch)
    rounded = rounding(steps, Variant(Layers(), bf16=True), batch)
    assert max(exact) < 1e-4
    assert 1e-3 < rounded[1] < 0.1
    assert rounding(steps, Variant(), batch) == (0, 0)


def test_predictions_come_from_operations_and_bytes() -> None:
    slow_memory = predictions(setup(bandwidth=1e9), reference=1.0)
    fast_memory = predictions(setup(bandwidth=1e12), reference=1.0)
    assert slow_memory["fused optimizer alone"] > fast_memory["fused optimizer alone"] > 1
    assert slow_memory["bf16 alone"] == pytest.approx(fast_memory["bf16 alone"])
    assert all(slow_memory["all together"] >= value for value in slow_memory.values())
    assert "bf16 alone" not in predictions(setup(bf16=1e11), reference=1.0)


def test_floors_grow_with_the_items_and_bytes_do_so_less() -> None:
    one, two = floors(setup(), MODEL, 1), floors(setup(), MODEL, 2)
    assert two[0] == pytest.approx(2 * one[0])
    assert one[1] < two[1] < 2 * one[1]


def test_the_peak_of_memory_stays_after_the_memory_is_given_back() -> None:
    before = peak_resident()
    assert 0 < resident() <= before * 1.01
    size = before - resident() + 100_000_000
    block = torch.ones(size, dtype=torch.uint8)
    high = peak_resident()
    del block
    assert peak_resident() >= 0.99 * high  # the kernel counts in batches
    assert high > before


def test_pictures_are_drawn_of_any_rows() -> None:
    rows = [Row("reference", [2.0, 2.1], [1.0, 1.0]), Row("ours", [0.1], [20.0], predicted=15.0)]
    gains = draw_gains([Section("train", "Training", "s", rows)], "title")
    points = [Row(f"{k} frames", [0.1 * k], floors=(0.01 * k, 0.02)) for k in (8, 16)]
    points += [Row("1 item", [0.3], floors=(0.1, 0.02))]
    growth = draw_growth(Section("growth", "Growth", "s", points), "title")
    assert gains.startswith(b"\x89PNG")
    assert growth.startswith(b"\x89PNG")


@pytest.mark.slow
def test_two_processes_train_side_by_side() -> None:
    seconds = parallel_seconds(MODEL, 2, 1, rounds=2, bf16=False)
    assert len(seconds) == 2
    assert all(value > 0 for value in seconds)
