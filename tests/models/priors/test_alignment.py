"""Guidance losses: closed forms, invariances, and the shortcut through the averaged kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.shapes import VideoShape
from models.priors.alignment import (
    GUIDANCE,
    PatternGuidance,
    correlation_loss,
    token_cosine_loss,
)
from models.priors.features import PriorConfig

TOKENS = VideoShape(frames=2, channels=24, height=4, width=4)


def features(layers: int = 2) -> list[Tensor]:
    return [torch.randn(3, 2, 16, 24) for _ in range(layers)]


def test_correlation_of_known_patterns() -> None:
    pattern = torch.randn(5, 16)
    torch.testing.assert_close(
        correlation_loss(pattern, pattern), torch.zeros(5), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(correlation_loss(pattern, -pattern), torch.full((5,), 2.0))
    other = torch.randn(5, 16)
    both = torch.stack([pattern[0], other[0]])
    expected = 1 - torch.corrcoef(both)[0, 1]
    torch.testing.assert_close(correlation_loss(pattern, other)[0], expected)


def test_scale_and_offset_of_a_pattern_do_not_matter() -> None:
    pattern, other = torch.randn(5, 16), torch.randn(5, 16)
    torch.testing.assert_close(
        correlation_loss(pattern, other),
        correlation_loss(3 * pattern + 7, other),
        atol=1e-5,
        rtol=0,
    )


def test_cosine_is_per_token() -> None:
    student = torch.eye(3)[None]
    prior = torch.stack([torch.eye(3)[0], -torch.eye(3)[1], torch.eye(3)[0]])[None]
    torch.testing.assert_close(token_cosine_loss(student, prior), torch.tensor([[0.0, 2.0, 1.0]]))


def test_the_averaged_kernel_gives_the_average_of_the_projection() -> None:
    torch.manual_seed(0)
    guide = PatternGuidance(PriorConfig(layers=[0], pairs=[0]), TOKENS, [(6, 8, 8)])
    student, maps = features(1), torch.randn(3, 2, 6, 8, 8)
    projected = guide.projections[0](maps.flatten(0, 1)).mean(1).reshape(3, 2, 16)  # the long way
    expected = correlation_loss(student[0].mean(-1), projected).mean()
    torch.testing.assert_close(guide(student, [maps]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["pearson", "cosine"])
@pytest.mark.parametrize("side", [2, 4, 6, 8, 16])
def test_any_grid_of_the_prior_fits(loss: str, side: int) -> None:
    torch.manual_seed(0)
    config = PriorConfig(layers=[0, 1], pairs=[0, 1], loss=loss)  # type: ignore[arg-type]
    guide = GUIDANCE[loss](config, TOKENS, [(6, side, side), (10, 4, 4)])
    maps = [torch.randn(3, 2, 6, side, side), torch.randn(3, 2, 10, 4, 4)]
    student = [each.requires_grad_() for each in features()]
    value = guide(student, maps)
    assert 0 < value.item() < 2
    value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in guide.parameters())
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in student)


def test_layers_of_one_kind_share_a_projection() -> None:
    grids = [(6, 8, 8), (6, 8, 8), (10, 4, 4)]
    guide = PatternGuidance(PriorConfig(layers=[0, 1, 2], pairs=[0, 1, 2]), TOKENS, grids)
    assert guide.projection_of == [0, 0, 1]
    assert len(guide.projections) == 2


def test_training_the_head_and_tokens_aligns_them() -> None:
    torch.manual_seed(0)
    guide = GUIDANCE["pearson"](PriorConfig(layers=[0], pairs=[0]), TOKENS, [(6, 8, 8)])
    student, maps = torch.randn(3, 2, 16, 24, requires_grad=True), torch.randn(3, 2, 6, 8, 8)
    optimizer = torch.optim.Adam([student, *guide.parameters()], lr=0.05)
    first = guide([student], [maps]).item()
    for _ in range(50):
        optimizer.zero_grad()
        guide([student], [maps]).backward()
        optimizer.step()
    assert guide([student], [maps]).item() < 0.2 * first
