"""The inception score: closed forms, bounds, and what goes wrong with few samples elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tools.metrics import inception_score as module
from tools.metrics.inception_score import inception_score


def certain(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of probability 1 for these classes, exactly: exp(-2000) is 0 in float64."""
    return 2000 * torch.nn.functional.one_hot(classes, count).float()


def test_equal_rows_score_one() -> None:
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(0)).expand(40, 7)
    found = inception_score(logits, splits=4)
    assert found.value == pytest.approx(1, 1e-12)
    assert found.deviation == pytest.approx(0, abs=1e-12)


def test_certain_and_balanced_rows_score_the_number_of_classes() -> None:
    assert inception_score(certain(torch.arange(60) % 6, 6), splits=1).value == pytest.approx(6)


def test_rows_with_a_little_doubt() -> None:
    rows = torch.full((10, 10), 0.1 / 9, dtype=torch.float64).fill_diagonal_(0.9)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 9))
    found = inception_score(rows.log().repeat(30, 1), splits=1).value
    assert found == pytest.approx(10 * math.exp(-entropy), 1e-9)
    assert found == pytest.approx(5.799546134795, 1e-9)


@pytest.mark.parametrize(
    ("per_split", "splits", "expected"), [(20, 400, 19.4), (200, 40, 147), (2000, 5, 360)]
)
def test_few_samples_per_split_bound_the_score(
    per_split: int, splits: int, expected: float
) -> None:
    """A perfect model of 400 classes, whose samples' classes come by chance."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(400, (splits * per_split,), generator=generator)
    found = inception_score(certain(classes, 400), splits)
    assert found.value <= min(400, per_split) + 1e-9
    assert found.value == pytest.approx(expected, rel=0.02)


def test_every_sample_is_used_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.arange(303.0)[:, None].expand(303, 2)
    seen: list[list[float]] = []

    def spy(part: torch.Tensor) -> torch.Tensor:
        seen.append(part[:, 0].tolist())
        return torch.tensor(1.0)

    monkeypatch.setattr(module, "_score", spy)
    inception_score(logits, splits=10)
    assert {len(part) for part in seen} == {30, 31}
    order = [each for part in seen for each in part]
    assert sorted(order) == list(range(303))
    assert order != list(range(303))  # shuffled


def test_300_samples_in_10_splits_are_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    found = inception_score(5 * torch.randn(300, 10, generator=generator), splits=10)
    assert 1 < found.value < 10
    assert 0 < found.deviation < 1


def test_value_and_deviation_are_over_the_splits() -> None:
    """Each split holds one sample of its own, so it scores 1; two halves of a pair differ."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator)
    assert inception_score(logits, splits=12).value == pytest.approx(1, 1e-12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    halves = [inception_score(logits[part], splits=1).value for part in (order[:6], order[6:])]
    found = inception_score(logits, splits=2, seed=4)
    assert found.value == pytest.approx(np.mean(halves), 1e-12)
    assert found.deviation == pytest.approx(np.std(halves), 1e-9)


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (203, 10), (50, 1)])
def test_agrees_with_torch_fidelity(count: int, splits: int) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = 3 * torch.randn(count, 20, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(7))
    expected = metric.isc_features_to_metric(logits[order], splits, shuffle=False)
    found = inception_score(logits, splits, seed=7)
    assert found.value == pytest.approx(expected["inception_score_mean"], 1e-9)
    assert found.deviation == pytest.approx(expected["inception_score_std"], 1e-9, abs=1e-12)


def test_what_has_no_score_is_an_error() -> None:
    logits = torch.zeros(9, 3)
    with pytest.raises(ValueError, match="9 samples do not fill 10 splits"):
        inception_score(logits, splits=10)
    with pytest.raises(ValueError, match="do not fill 0 splits"):
        inception_score(logits, splits=0)
    logits[4, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 9 samples, first in sample 4"):
        inception_score(logits, splits=3)
