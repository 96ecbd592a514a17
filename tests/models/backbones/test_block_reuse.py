"""Steps that reuse earlier updates of the blocks: exact without reuse, decided by timesteps."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from configs.shapes import VideoShape
from models.backbones.block_reuse import BlockReuse, computed_steps, modulation_changes
from models.backbones.video_transformer import VideoTransformer

SHAPE = VideoShape(3, 4, 4, 4)


def random_transformer(classes: int = 0) -> VideoTransformer:
    torch.manual_seed(0)
    transformer = VideoTransformer(SHAPE, width=16, depth=4, heads=2, classes=classes).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def noisy(step: int) -> torch.Tensor:
    return torch.randn(SHAPE.batch(2), generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_steps_that_run_the_blocks_are_those_of_the_transformer(classes: int) -> None:
    transformer = random_transformer(classes)
    labels = torch.tensor([2, 0]) if classes else None
    reusing = BlockReuse(transformer, [True, False, True])
    found, expected = (
        [
            network(noisy(step), torch.tensor([900 - 50 * step] * 2), labels).prediction
            for step in range(3)
        ]
        for network in (reusing, transformer)
    )
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2], expected[2])
    assert not torch.allclose(found[1], expected[1], atol=1e-3)


@torch.no_grad()
def test_a_reused_update_is_added_to_the_new_tokens() -> None:
    transformer = random_transformer()
    reusing = BlockReuse(transformer, [True, False])
    first, second = torch.tensor([800] * 2), torch.tensor([790] * 2)
    reusing(noisy(0), first)
    found = reusing(noisy(1), second).prediction
    before = transformer.embed(noisy(0))
    after, _ = transformer.run_blocks(before, transformer.condition(first))
    tokens = transformer.embed(noisy(1)) + (after - before)
    torch.testing.assert_close(found, transformer.predict(tokens, transformer.condition(second)))


def test_the_first_step_cannot_reuse() -> None:
    with pytest.raises(ValueError, match="first step"):
        BlockReuse(random_transformer(), [False, True])


def test_blocks_run_when_the_changes_have_added_up() -> None:
    changes = [0.25] * 7
    assert computed_steps(changes, 0.0) == [True] * 8
    assert computed_steps(changes, 0.5) == [True, False, True, False, True, False, True, True]
    assert computed_steps(changes, 9.0) == [True] + [False] * 6 + [True]
    assert computed_steps([], 1.0) == [True]
    counts = [sum(computed_steps(changes, allowed / 10)) for allowed in range(20)]
    assert counts == sorted(counts, reverse=True)


@torch.no_grad()
def test_changes_are_those_of_modulated_normal_tokens() -> None:
    transformer = random_transformer(classes=2)
    timesteps = [900, 850, 300, 300]
    found = modulation_changes(transformer, timesteps, label=1)
    conditioning = transformer.condition(torch.tensor(timesteps), torch.tensor([1]))
    shift, scale = transformer.spatial[0].modulation(conditioning).chunk(6, dim=-1)[:2]
    tokens = torch.randn(20_000, 1, 16)
    inputs = tokens * (1 + scale) + shift  # (samples, timesteps, width)
    measured = inputs.diff(dim=1).square().mean((0, 2)) / inputs[:, :-1].square().mean((0, 2))
    torch.testing.assert_close(torch.tensor(found), measured.sqrt(), rtol=0.02, atol=1e-6)
    assert found[2] == 0
    assert found != modulation_changes(transformer, timesteps, label=None)


@torch.no_grad()
def test_reuse_compiles_no_more_than_its_first_step() -> None:
    transformer = random_transformer()
    counter = CompileCounter()
    for block in (*transformer.spatial, *transformer.temporal, transformer.final):
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    timestep = torch.tensor([500] * 2)
    transformer(noisy(0), timestep)
    once = counter.frame_count
    assert once >= 2
    reusing = BlockReuse(transformer, [True, False, False, True, False, True])
    found = [reusing(noisy(step), timestep).prediction for step in range(6)]
    assert counter.frame_count == once
    torch.testing.assert_close(found[5], random_transformer()(noisy(5), timestep).prediction)
