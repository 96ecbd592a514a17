"""A step with clipped gradients, or none at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tools.training.gradients import guarded_step
from tools.training.readback import Readback


def parameters(gradient: float = 2.0) -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    for each in made:
        each.grad = gradient * torch.randn_like(each)
    return made


def norm_of(made: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([each.grad for each in made])  # type: ignore[misc]


@pytest.mark.parametrize("limit", [0.0, 0.1, 1e6])
def test_a_fused_step_equals_clipping_and_stepping(limit: float) -> None:
    """Two steps, for the first one of AdamW does not depend on the scale."""
    ours, theirs = parameters(), parameters()
    fused = torch.optim.AdamW(ours, lr=0.1, fused=True)
    plain = torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    for scale in (1.0, 3.0):
        for each in (*ours, *theirs):
            each.grad *= scale  # type: ignore[misc]
        norm = norm_of(ours)
        guarded_step(fused, ours, norm, limit)
        if limit:
            nn.utils.clip_grad_norm_(theirs, limit)
        plain.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    if limit == 0.1:
        assert norm_of(ours) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_changes_where_a_gradient_is_not_finite(bad: float, fused: bool) -> None:
    made = parameters()
    optimizer = torch.optim.AdamW(made, lr=0.1, fused=fused)
    guarded_step(optimizer, made, norm_of(made), 1.0)
    weights = [each.detach().clone() for each in made]
    state = str(optimizer.state_dict())
    made[1].grad[2] = bad  # type: ignore[index]
    guarded_step(optimizer, made, norm_of(made), 1.0)
    assert all(torch.equal(one, other) for one, other in zip(made, weights, strict=True))
    assert str(optimizer.state_dict()) == state


def test_a_readback_is_the_value_of_then() -> None:
    value = torch.tensor([1.0, 2.0])
    readback = Readback(value)
    value += 1
    assert readback.read().tolist() == [1.0, 2.0]
