"""Attention over space and time: golden numbers, a slow version, and where it does nothing."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.layers.clip_norm import ClipNorm, FloatNorm
from models.layers.relative_attention import (
    RelativeForm,
    RelativeTable,
    SpaceTimeAttention,
    relative_attention,
)


def fill(network: nn.Module) -> nn.Module:
    """Weights that follow from the names of the parameters alone."""
    for name, parameter in network.named_parameters():
        normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(parameter.shape)
        if parameter.ndim > 1:
            value = normal / (parameter.numel() / len(parameter)) ** 0.5
        else:
            value = 1 + 0.1 * normal if name.endswith("weight") else 0.1 * normal
        parameter.data = torch.from_numpy(np.asarray(value)).float()
    return network.eval()


def slow_attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, form: RelativeForm
) -> Tensor:
    """Entry by entry, from the tables (2 * reach + 1, E) themselves."""
    items, heads, frames, size = query.shape
    reach = len(keys) // 2

    def row(distance: int) -> int:
        return max(-reach, min(reach, distance)) + reach

    output = torch.zeros_like(query)
    for n in range(items):
        for h in range(heads):
            for i in range(frames):
                logits = []
                for j in range(frames):
                    logit = query[n, h, i] @ key[n, h, j] / size**0.5
                    if form == "shaw":
                        logit = logit + query[n, h, i] @ keys[row(j - i)] / size**0.5
                    else:
                        logit = logit + query[n, h, j] @ keys[row(i - j)] / size**0.25
                    logits.append(logit)
                weights = torch.stack(logits).softmax(0)
                for j in range(frames):
                    output[n, h, i] += weights[j] * (value[n, h, j] + values[row(j - i)])
    return output


@pytest.mark.parametrize("form", ["reference", "shaw"])
@pytest.mark.parametrize("frames", [1, 3, 5])  # 5 is beyond the reach
def test_relative_attention_is_what_its_formulas_say(form: RelativeForm, frames: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, frames, 8)
    tables = [RelativeTable(8, 2) for _ in range(2)]
    for table in tables:
        nn.init.normal_(table.embeddings_table)
    keys, values = (table(frames) for table in tables)
    raw = [table.embeddings_table for table in tables]
    torch.testing.assert_close(
        relative_attention(query, key, value, keys, values, form),
        slow_attention(query, key, value, raw[0], raw[1], form),
        atol=1e-5,
        rtol=1e-4,
    )


def test_the_two_forms_differ_unless_the_key_table_is_zero() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 4, 8)
    keys, values = torch.randn(2, 4, 4, 8)

    def run(keys: Tensor, form: RelativeForm) -> Tensor:
        return relative_attention(query, key, value, keys, values, form)

    assert not torch.allclose(run(keys, "reference"), run(keys, "shaw"), atol=1e-2)
    torch.testing.assert_close(run(0 * keys, "reference"), run(0 * keys, "shaw"))


def test_golden_block() -> None:
    """Output of the original block with these weights, recorded once."""
    block = fill(SpaceTimeAttention(64, heads=4, reach=4))
    values = np.random.RandomState(2).standard_normal((1, 64, 4, 4, 4))
    images = torch.from_numpy(values).float().transpose(1, 2).flatten(0, 1)
    with torch.no_grad():
        output = block(images, 4).unflatten(0, (1, 4)).transpose(1, 2)
    found = [output.mean(), output.std(correction=0), output.abs().max()]
    found += [output[0, 0, 0, 0, 0], output[0, 63, 3, 3, 3], output[0, 10, 1, 2, 3]]
    wanted = [-0.103619, 1.254454, 5.540012, -0.590317, 1.176189, -0.382904]
    assert [float(value) for value in found] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_new_block_is_the_identity_and_trains_everything() -> None:
    block = SpaceTimeAttention(32, heads=4, reach=4)
    images = torch.randn(8, 32, 2, 2)
    assert torch.equal(block(images, 4), images)
    fill(block)
    block(images, 4).square().sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert block.relative_position_k.embeddings_table.grad.abs()[1:8].min() > 0


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="a width of 30 cannot be split over 4 heads"):
        SpaceTimeAttention(30, heads=4, reach=4, groups=2)


@pytest.mark.parametrize("modulated", [False, True])
def test_the_norm_of_clips_is_that_of_five_axes(modulated: bool) -> None:
    torch.manual_seed(0)
    norm = fill(ClipNorm(4, 16))
    clips = 3 * torch.randn(2, 5, 16, 3, 3) + 7
    scale, shift = torch.randn(2, 2, 16) if modulated else (None, None)
    found = norm(clips.flatten(0, 1), 5, scale, shift).unflatten(0, (2, 5))
    wanted = nn.functional.group_norm(clips.transpose(1, 2), 4, norm.weight, norm.bias, norm.eps)
    if scale is not None and shift is not None:
        wanted = wanted * (1 + scale[:, :, None, None, None]) + shift[:, :, None, None, None]
    torch.testing.assert_close(found, wanted.transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_norms_keep_float32_inside_bf16() -> None:
    """Values whose spread is lost when they are rounded to bf16 on the way."""
    torch.manual_seed(0)
    values = (torch.randn(4, 16, 3, 3) + 40).bfloat16()
    for norm, wanted in (
        (ClipNorm(4, 16), lambda v: ClipNorm(4, 16)(v.float(), 2)),
        (FloatNorm(4, 16), lambda v: FloatNorm(4, 16)(v.float())),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            found = norm(values, 2) if isinstance(norm, ClipNorm) else norm(values)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, wanted(values).bfloat16(), atol=0, rtol=0)
