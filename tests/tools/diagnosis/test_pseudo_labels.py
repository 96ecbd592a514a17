"""Pseudo-labels: small cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tools.diagnosis.pseudo_labels import (
    Alignment,
    aligned,
    fixmatch_loss,
    hard_labels,
    marginal,
    masked_loss,
    quality,
    rates,
    soft_labels,
)

WEAK = torch.tensor([[3.0, -3.0], [0.2, 0.0]])
STRONG = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


def test_two_clips_worked_out_by_hand() -> None:
    # The first is class 0 with 0.998, the second with 0.550; log(1 + e) = 1.313262, and a half.
    loss, labels = fixmatch_loss(WEAK, STRONG, threshold=0.95)
    assert labels.mask.tolist() == [1, 0]
    assert labels.classes.tolist() == [0, 0]
    assert loss.item() == pytest.approx(0.656631, abs=1e-6)


def test_the_strong_view_alone_learns_and_only_of_clips_that_count() -> None:
    weak, strong = WEAK.clone().requires_grad_(), STRONG.clone().requires_grad_()
    fixmatch_loss(weak, strong, threshold=0.95)[0].backward()
    assert weak.grad is None
    assert strong.grad is not None
    assert torch.equal(strong.grad[1], torch.zeros(2))
    # (softmax - one-hot) / 2 of the clip that counts
    expected = (F.softmax(STRONG[0], dim=0) - torch.tensor([1.0, 0.0])) / 2
    assert torch.allclose(strong.grad[0], expected)


def test_the_published_loss_teaches_the_weak_view_and_leaves_the_strong_one() -> None:
    weak, strong = WEAK.clone().requires_grad_(), STRONG.clone().requires_grad_()
    loss, _ = fixmatch_loss(weak, strong, threshold=0.95, loss_on="weak")
    loss.backward()
    assert strong.grad is None
    assert weak.grad is not None
    assert weak.grad[0].abs().sum() > 0
    assert loss.item() == pytest.approx(math.log1p(math.exp(-6)) / 2, rel=1e-4)


def test_threshold_0_is_cross_entropy_with_the_likeliest_class() -> None:
    weak, strong = torch.randn(5, 3), torch.randn(5, 3)
    loss, _ = fixmatch_loss(weak, strong, threshold=0.0)
    assert loss.item() == pytest.approx(F.cross_entropy(strong, weak.argmax(1)).item())


def test_a_threshold_above_1_teaches_nothing() -> None:
    strong = STRONG.clone().requires_grad_()
    loss, labels = fixmatch_loss(WEAK, strong, threshold=1.1)
    loss.backward()
    assert loss.item() == 0
    assert strong.grad is not None
    assert strong.grad.abs().sum() == 0
    assert labels.mask.sum() == 0


def test_given_probabilities_decide_in_place_of_the_weak_view() -> None:
    swapped = WEAK.softmax(1).flip(1)
    _, labels = fixmatch_loss(WEAK, STRONG, threshold=0.95, probabilities=swapped)
    assert labels.classes.tolist() == [1, 1]


def test_soft_labels_keep_the_probabilities() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    labels = soft_labels(probabilities, 0.8)
    assert torch.equal(labels.targets, probabilities)
    assert labels.mask.tolist() == [1, 0]
    by_hand = -(0.9 * math.log(0.5) + 0.1 * math.log(0.5)) / 2
    assert masked_loss(torch.zeros(2, 2), labels).item() == pytest.approx(by_hand)


def test_the_running_mean_becomes_the_target() -> None:
    mean, target = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5])
    assert torch.allclose(aligned(mean[None], mean, target), target[None])
    # 0.6 * 0.5 / 0.8 = 0.375 and 0.4 * 0.5 / 0.2 = 1, which are 3 : 8
    by_hand = torch.tensor([[3 / 11, 8 / 11]])
    assert torch.allclose(aligned(torch.tensor([[0.6, 0.4]]), mean, target), by_hand)


def test_a_target_like_the_running_mean_changes_nothing() -> None:
    mean, rows = torch.tensor([0.3, 0.7]), torch.rand(6, 2).softmax(1)
    assert torch.allclose(aligned(rows, mean, mean), rows)


def test_a_class_that_never_occurs_makes_no_nan() -> None:
    rows = torch.tensor([[1.0, 0.0]])
    assert torch.equal(aligned(rows, rows[0], torch.tensor([0.5, 0.5])), rows)


def test_the_running_mean_is_that_of_the_last_batches() -> None:
    alignment = Alignment(torch.tensor([0.5, 0.5]), length=3)
    means = [torch.tensor([k / 10, 1 - k / 10]) for k in range(1, 6)]
    for step, mean in enumerate(means, start=1):
        alignment.align(mean[None], mean)
        assert len(alignment) == min(step, 3)
        assert torch.allclose(alignment.mean, torch.stack(means[max(0, step - 3) : step]).mean(0))


def test_alignment_goes_on_from_its_state() -> None:
    one, other = (Alignment(torch.tensor([0.5, 0.5]), length=4) for _ in range(2))
    for _ in range(6):
        rows = torch.rand(3, 2).softmax(1)
        one.align(rows, rows.mean(0))
    other.load(one.state())
    rows = torch.rand(3, 2).softmax(1)
    assert torch.equal(one.align(rows, rows.mean(0)), other.align(rows, rows.mean(0)))
    one.forget()
    other.load(one.state())
    assert len(other) == 0


def test_marginal_counts_labels() -> None:
    assert marginal([1, 0, 1, 1]).tolist() == [0.25, 0.75]
    assert marginal([0, 0]).tolist() == [1, 0]


def test_quality_of_pseudo_labels_over_two_batches() -> None:
    probabilities = torch.tensor([[0.99, 0.01], [0.02, 0.98], [0.4, 0.6], [0.01, 0.99]])
    labels = hard_labels(probabilities, 0.95)
    sums = {k: float(v) for k, v in quality(labels, torch.tensor([0, 0, 1, -1])).items()}
    found = rates({name: 2 * value for name, value in sums.items()})
    assert found == pytest.approx(
        {
            "mask_rate": 3 / 4,
            "pseudo_abnormal": 2 / 3,
            "pseudo_abnormal_all": 3 / 4,
            "pseudo_accuracy": 1 / 2,
            "pseudo_accuracy_all": 2 / 3,
        }
    )


def test_rates_of_nothing_are_left_out() -> None:
    labels = hard_labels(torch.tensor([[0.6, 0.4]]), 0.95)
    sums = {name: float(v) for name, v in quality(labels, torch.tensor([-1])).items()}
    assert rates(sums) == {"mask_rate": 0.0, "pseudo_abnormal_all": 0.0}
