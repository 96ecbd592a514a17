from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.training.rates import base_rates, set_rates, warmup_factor


def test_warmup_rises_linearly_to_the_full_rate_and_stays() -> None:
    factors = [warmup_factor(step, 4) for step in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1]


def test_no_warmup_is_the_full_rate_at_once() -> None:
    assert warmup_factor(0, 0) == 1


def test_groups_keep_their_ratio() -> None:
    layers = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(
        [{"params": [layers.weight], "lr": 0.4}, {"params": [layers.bias]}], lr=0.1
    )
    rates = base_rates(optimizer)
    set_rates(optimizer, rates, 0.5)
    set_rates(optimizer, rates, 0.5)  # the factor is of the full rate, not of the present one
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.05])
