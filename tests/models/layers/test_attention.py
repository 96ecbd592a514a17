"""Fused attention against the three-step form: values, gradients, and which head is where."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.layers import attention as module
from models.layers.attention import Attention, attend, slow_attention


def by_hand(attention: Attention, tokens: Tensor) -> Tensor:
    """Head by head and group by group, with loops and in float64."""
    width, heads = tokens.shape[-1], attention.heads
    size = width // heads
    values = attention.qkv.double()(tokens.double())
    groups = []
    for group in values.flatten(0, 1):
        mixed = []
        for head in range(heads):
            begin = head * size
            query, key, value = (
                group[:, part * width + begin : part * width + begin + size] for part in range(3)
            )
            mixed.append((query @ key.T / size**0.5).softmax(-1) @ value)
        groups.append(torch.cat(mixed, dim=-1))
    return attention.project.double()(torch.stack(groups)).view(tokens.shape)


def test_values_and_gradients_are_those_of_the_loops() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(32, 4), torch.randn(2, 3, 5, 32)
    results = []
    for function in (attention, lambda given: by_hand(attention, given)):
        given = tokens.clone().requires_grad_()
        output = function(given)
        output.square().sum().backward()
        gradients = [p.grad.clone().float() for p in attention.parameters()]  # type: ignore[union-attr]
        attention.zero_grad()
        results.append([output.float(), given.grad, *gradients])
    for fused, slow in zip(*results, strict=True):
        torch.testing.assert_close(fused, slow, rtol=1e-4, atol=1e-5)


def test_each_head_reads_and_writes_channels_of_its_own() -> None:
    """Head h alone gets values; they must come out at its channels, mixed by its own weights."""
    heads, size, count = 4, 2, 3
    attention, tokens = Attention(heads * size, heads), torch.eye(count, heads * size)[None, None]
    with torch.no_grad():
        for linear in (attention.qkv, attention.project):
            linear.bias.zero_()
        attention.project.weight.copy_(torch.eye(heads * size))
        for head in range(heads):
            attention.qkv.weight.zero_()
            rows = attention.qkv.weight.view(3, heads, size, -1)
            rows[2, head] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).repeat(1, 3)[:, :8]
            # Scores of head h favour token h; those of another head would favour another.
            for each in range(heads):
                rows[0, each, 0, :count] = 30.0
                rows[1, each, 0, each % count] = 30.0
            output = attention(tokens)[0, 0]
            expected = torch.zeros(heads, size)
            expected[head] = rows[2, head, :, head % count]
            torch.testing.assert_close(output, expected.flatten().expand(count, -1))


@pytest.mark.parametrize("count", [16, 300])
def test_bf16_training_on_a_cpu_is_as_exact_as_the_fused_kernel(count: int) -> None:
    """Whichever form `attend` takes, its error against float64 is that of bfloat16."""
    torch.manual_seed(0)
    exact = torch.randn(3, 2, 4, count, 16, dtype=torch.float64)
    weights = torch.randn(2, 4, count, 16, dtype=torch.float64)
    errors = {}
    reference = gradient_of(slow_attention, exact, weights)
    for name, function in {
        "ours": attend,
        "fused": torch.nn.functional.scaled_dot_product_attention,
    }.items():
        found = gradient_of(function, exact.bfloat16(), weights.bfloat16())
        errors[name] = [
            ((a.double() - b).norm() / b.norm()).item()
            for a, b in zip(found, reference, strict=True)
        ]
    assert max(errors["fused"]) < 0.02
    for ours, fused in zip(errors["ours"], errors["fused"], strict=True):
        assert ours < 1.6 * fused


def gradient_of(function, given: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    given = given.clone().requires_grad_()
    output = function(*given)
    output.backward(weights)
    assert given.grad is not None
    return output.detach(), given.grad


def test_long_groups_stay_with_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory grows with the number of tokens, that of the slow form with its square."""
    monkeypatch.setattr(module, "slow_attention", lambda *given: pytest.fail("slow form"))
    query = torch.zeros(1, 1, module.SMALL_GROUP + 1, 8, dtype=torch.bfloat16, requires_grad=True)
    attend(query, query, query)
    with torch.no_grad():  # nor where no gradient is wanted
        attend(query[:, :, :4], query[:, :, :4], query[:, :, :4])
    attend(query.float()[:, :, :4], query.float()[:, :, :4], query.float()[:, :, :4])
