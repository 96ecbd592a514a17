"""Precision, recall, density and coverage: simple sets, and agreement with slow versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tools.metrics import neighbours
from tools.metrics.neighbours import precision_recall


def normal(count: int, width: int, mean: float = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + mean


def slow(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The definitions, ball by ball."""

    def far(x: Tensor, y: Tensor) -> float:
        return math.dist(x.tolist(), y.tolist())

    def radius(i: int, points: Tensor) -> float:
        return sorted(far(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    real_radii = [radius(i, real) for i in range(len(real))]
    fake_radii = [radius(j, fake) for j in range(len(fake))]
    in_real = [[far(x, y) <= r for x, r in zip(real, real_radii, strict=True)] for y in fake]
    in_fake = [[far(x, y) <= r for y, r in zip(fake, fake_radii, strict=True)] for x in real]
    return {
        "precision": sum(map(any, in_real)) / len(fake),
        "recall": sum(map(any, in_fake)) / len(real),
        "density": sum(map(sum, in_real)) / (k * len(fake)),
        "coverage": sum(map(any, zip(*in_real, strict=True))) / len(real),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_the_definitions(k: int) -> None:
    real, fake = normal(40, 3), normal(25, 3, mean=0.7, seed=1)
    expected = slow(real, fake, k)
    assert precision_recall(real, fake, k) == pytest.approx(expected, 1e-12)
    assert 0 < expected["precision"] < 1  # the case tells the four apart
    assert len(set(expected.values())) == 4


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(60, 3), normal(45, 3, mean=0.7, seed=1)
    whole = precision_recall(real, fake)
    monkeypatch.setattr(neighbours, "BLOCK", 200)
    assert precision_recall(real, fake) == whole


@pytest.mark.parametrize("offset", [0, 1e4])
def test_a_copy_is_perfect(offset: float) -> None:
    """A real ball holds the copies of its centre and of k neighbours, the last on its rim."""
    real = normal(50, 8).double() + offset
    expected = {"precision": 1, "recall": 1, "density": 4 / 3, "coverage": 1}
    assert precision_recall(real, real.flip(0), k=3) == pytest.approx(expected, 1e-12)


def test_still_videos_have_balls_of_no_size_that_hold_their_copies() -> None:
    real = normal(5, 8).repeat_interleave(6, dim=0) * 1000
    found = precision_recall(real, real.flip(0), k=3)
    assert found == pytest.approx({"precision": 1, "recall": 1, "density": 2, "coverage": 1})
    assert precision_recall(real, real + 1, k=3)["precision"] == 0


def test_sets_far_apart_share_nothing() -> None:
    found = precision_recall(normal(20, 4), normal(20, 4, mean=100, seed=1))
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_collapse_costs_recall_and_coverage_but_not_precision() -> None:
    real = normal(200, 4)
    found = precision_recall(real, 0.05 * normal(200, 4, seed=1))
    assert found["precision"] > 0.95
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.3


def test_precision_and_recall_change_places_with_the_sides() -> None:
    real, fake = normal(40, 3), normal(30, 3, mean=1, seed=1)
    there, back = precision_recall(real, fake), precision_recall(fake, real)
    assert (there["precision"], there["recall"]) == (back["recall"], back["precision"])


def test_density_of_equal_distributions_is_one() -> None:
    found = precision_recall(normal(1500, 2), normal(1500, 2, seed=1), k=5)
    assert found["density"] == pytest.approx(1, abs=0.1)
    # 1 - chance that all of the first k of 2 N points around a real one are real
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.03)


def test_agrees_with_torch_fidelity() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = normal(300, 6).double(), normal(250, 6, mean=0.5, seed=1).double()
    precision, recall = metric.calculate_precision_recall_full(fake, real, neighborhood=3)
    found = precision_recall(real, fake, k=3)
    assert found["precision"] == pytest.approx(precision, 1e-6)
    assert found["recall"] == pytest.approx(recall, 1e-6)


def test_what_cannot_be_compared_is_an_error() -> None:
    real, fake = normal(20, 4), normal(20, 4, seed=1)
    with pytest.raises(ValueError, match="at least 4 samples are needed, got 3"):
        precision_recall(real, fake[:3])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        precision_recall(real, fake, k=0)
    with pytest.raises(ValueError, match="widths 4 and 3 differ"):
        precision_recall(real, fake[:, :3])
