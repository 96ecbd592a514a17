"""The kernel distance: its expectation, unbiasedness, and agreement with slow versions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tools.metrics import kernel
from tools.metrics.kernel import kernel_distance, squared_mmd


def normal(count: int, width: int, mean: float = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + mean


def slow_mmd(first: Tensor, second: Tensor) -> float:
    """Pair by pair."""

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    within = [mean([k(x, y) for x, y in itertools.permutations(s, 2)]) for s in (first, second)]
    return sum(within) - 2 * mean([k(x, y) for x, y in itertools.product(first, second)])


def test_agrees_with_pair_by_pair() -> None:
    first, second = normal(9, 5), normal(6, 5, mean=0.5, seed=1)
    assert squared_mmd(first, second) == pytest.approx(slow_mmd(first, second), 1e-12)


def test_the_mean_over_many_estimates_is_the_distance() -> None:
    """In one dimension: sum over j of binom(3, j) (E x^j - E y^j)^2, here with means 0 and 0.5."""
    expected = 3 * 0.5**2 + 3 * 0.25**2 + (0.125 + 1.5 * 1) ** 2
    assert expected == 3.578125
    x, y = normal(20 * 4000, 1), normal(20 * 4000, 1, mean=0.5, seed=1)
    mean, error = mean_and_error(x, y, 4000)
    assert abs(mean - expected) < 3 * error
    assert error < 0.15  # the biased estimate's mean is 6.6


def test_equal_distributions_have_distance_zero_on_average() -> None:
    x, y = normal(20 * 4000, 1), normal(20 * 4000, 1, seed=1)
    estimates = all_estimates(x, y, 4000)
    assert abs(float(estimates.mean())) < 3 * float(estimates.std()) / math.sqrt(4000)
    assert 0.55 < float((estimates < 0).double().mean()) < 0.7


def all_estimates(x: Tensor, y: Tensor, parts: int) -> Tensor:
    """`squared_mmd` of consecutive parts, batched by hand; a few are checked against it."""
    x, y = x.view(parts, -1), y.view(parts, -1)

    def sums(a: Tensor, b: Tensor) -> Tensor:
        return ((a[:, :, None] * b[:, None] + 1) ** 3).sum((1, 2))

    def within(a: Tensor) -> Tensor:
        n = a.shape[1]
        return (sums(a, a) - ((a.square() + 1) ** 3).sum(1)) / (n * (n - 1))

    estimates = within(x) + within(y) - 2 * sums(x, y) / (x.shape[1] * y.shape[1])
    for k in range(0, parts, parts // 4):
        assert squared_mmd(x[k, :, None], y[k, :, None]) == pytest.approx(float(estimates[k]), 1e-9)
    return estimates


def mean_and_error(x: Tensor, y: Tensor, parts: int) -> tuple[float, float]:
    estimates = all_estimates(x, y, parts)
    return float(estimates.mean()), float(estimates.std()) / math.sqrt(parts)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = normal(50, 4), normal(37, 4, seed=1)
    whole = squared_mmd(first, second)
    monkeypatch.setattr(kernel, "BLOCK", 100)
    assert squared_mmd(first, second) == pytest.approx(whole, 1e-12)


@pytest.mark.parametrize("subsets", [3, 100])  # few: one by one; many: all pairs once
def test_subsets_are_drawn_from_both_sides(subsets: int) -> None:
    first, second = normal(30, 4), normal(24, 4, mean=1, seed=1)
    found = kernel_distance(first, second, 10, subsets, seed=3)
    generator = torch.Generator().manual_seed(3)
    chosen = [
        [torch.randperm(count, generator=generator)[:10] for _ in range(subsets)]
        for count in (30, 24)
    ]
    values = [squared_mmd(first[a], second[b]) for a, b in zip(*chosen, strict=True)]
    expected = torch.tensor(values, dtype=torch.float64)
    assert found.value == pytest.approx(float(expected.mean()), 1e-9)
    assert found.deviation == pytest.approx(float(expected.std(correction=0)), 1e-9)


def test_one_subset_of_everything_is_the_estimate_itself() -> None:
    first, second = normal(20, 4), normal(20, 4, mean=0.3, seed=1)
    found = kernel_distance(first, second, 20, subsets=2)
    assert found.value == pytest.approx(squared_mmd(first, second), 1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-12)


def test_a_seed_decides() -> None:
    first, second = normal(30, 4), normal(30, 4, seed=1)
    once = kernel_distance(first, second, 10, seed=1)
    assert kernel_distance(first, second, 10, seed=1) == once
    assert kernel_distance(first, second, 10, seed=2) != once


def test_agrees_with_torch_fidelity() -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    first, second = normal(60, 16), normal(60, 16, mean=0.4, seed=1)
    expected = metric.kid_features_to_metric(
        first, second, kid_subsets=2, kid_subset_size=60, rng_seed=0, verbose=False
    )
    found = squared_mmd(first, second)
    assert found == pytest.approx(expected["kernel_inception_distance_mean"], 1e-9)


def test_what_cannot_be_compared_is_an_error() -> None:
    first, second = normal(30, 4), normal(24, 4)
    for size in (1, 25):
        with pytest.raises(ValueError, match=rf"2 to 24 samples .* got a subset size of {size}"):
            kernel_distance(first, second, size)
    with pytest.raises(ValueError, match="at least 1 subset"):
        kernel_distance(first, second, 10, subsets=0)
    with pytest.raises(ValueError, match="widths 4 and 3 differ"):
        squared_mmd(first, second[:, :3])
    with pytest.raises(ValueError, match="at least 2 samples"):
        squared_mmd(first, second[:1])
