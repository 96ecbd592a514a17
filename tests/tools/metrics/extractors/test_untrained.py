from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tools.metrics.corruptions import CORRUPTIONS, response
from tools.metrics.extractors.untrained import CHANNELS, UntrainedExtractor

BLOCKS = tuple(zip((0, 96, 288), CHANNELS, strict=True))  # where each layer's features begin
CPU = torch.device("cpu")
WEIGHTS = "b0770a9d49b970f5896671c17a7e603ebd2de550667593371ffd23f3369f9701"


def moving_discs(count: int, seed: int, frames: int = 16, size: int = 48) -> Tensor:
    """Soft and sharp discs that drift over a coloured gradient, (count, frames, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(0, 1, size)
    slopes = torch.rand(count, 1, 3, 1, 1, generator=generator) * 0.5
    clips = (slopes * axis + slopes.flip(2) * axis[:, None]).repeat(1, frames, 1, 1, 1)
    times = torch.arange(frames)[:, None, None]
    for _ in range(3):
        place, speed = (torch.rand(count, 2, 1, 1, 1, generator=generator) for _ in range(2))
        path = (place + (speed - 0.5) * 0.08 * times) % 1
        radius = 0.06 + 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
        distance = ((axis[:, None] - path[:, 0]) ** 2 + (axis - path[:, 1]) ** 2).sqrt()
        cover = torch.sigmoid((radius - distance) * 90)[:, :, None]
        colour = torch.rand(count, 1, 3, 1, 1, generator=generator)
        clips = clips * (1 - cover) + colour * cover
    return (clips.clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def extractor() -> UntrainedExtractor:
    return UntrainedExtractor(CPU, 16)


def test_it_gives_672_statistics_and_10_class_scores(extractor: UntrainedExtractor) -> None:
    outputs = extractor(moving_discs(2, 0))
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {
        "features": (2, 672),
        "logits": (2, 10),
    }
    assert dict(extractor.outputs) == {"features": 672, "logits": 10}
    assert all(values.dtype == torch.float32 for values in outputs.values())
    assert not extractor.comparable
    assert extractor.caveat == "untrained features - not comparable with published numbers"
    assert extractor.name == "untrained-v1-clips"


def test_its_weights_never_change(extractor: UntrainedExtractor) -> None:
    # Another value means another network: then its version has to go up.
    assert extractor.provenance["sha256"] == WEIGHTS
    torch.manual_seed(1)
    assert UntrainedExtractor(CPU, 16).fingerprint == extractor.fingerprint
    assert UntrainedExtractor(CPU, 8).fingerprint != extractor.fingerprint


def test_weights_are_scaled_to_keep_activations_alive(extractor: UntrainedExtractor) -> None:
    widths = (3, *CHANNELS)
    for before, weight in zip(widths, extractor.network.layers, strict=False):
        assert weight.var().item() == pytest.approx(2 / (27 * before), rel=0.05)
    features = extractor(moving_discs(1, 0))["features"][0]
    spreads = [features[start + width : start + 2 * width].mean() for start, width in BLOCKS]
    assert min(spreads) > 0.3 * max(spreads)


def test_runs_are_bit_identical_and_batches_do_not_matter(extractor: UntrainedExtractor) -> None:
    clips = moving_discs(5, 1)
    together = extractor(clips)["features"]
    assert torch.equal(together, UntrainedExtractor(CPU, 16)(clips)["features"])
    one_by_one = torch.cat([extractor(clip[None])["features"] for clip in clips])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)


def test_still_clips_have_no_change_in_time(extractor: UntrainedExtractor) -> None:
    still = moving_discs(2, 0)[:, :1].expand(-1, 16, -1, -1, -1)
    change = extractor(still)["features"][:, 64:96]  # of the first layer
    # Padding in time makes the ends differ; between them nothing moves.
    moving = extractor(moving_discs(2, 0))["features"][:, 64:96]
    assert (change < moving).float().mean() > 0.95


def test_images_go_through_the_same_network_without_change_in_time() -> None:
    images = UntrainedExtractor(CPU, 1)
    outputs = images(moving_discs(3, 2, frames=1, size=64))
    assert images.name == "untrained-v1-images"
    assert outputs["features"].shape == (3, 672)
    for start, width in BLOCKS:
        block = outputs["features"][:, start : start + 3 * width]
        assert not block[:, 2 * width :].any()
        assert (block[:, width : 2 * width] > 0).all()
    assert images.provenance["sha256"] == UntrainedExtractor(CPU, 16).provenance["sha256"]


def test_other_shapes_are_refused_in_one_line(extractor: UntrainedExtractor) -> None:
    with pytest.raises(ValueError, match=r"takes uint8 videos of shape \(B, 16, 3, H, W\), got"):
        extractor(moving_discs(1, 0, frames=8))
    with pytest.raises(ValueError, match="takes uint8"):
        extractor(moving_discs(1, 0).float())


def test_distances_grow_with_every_corruption(extractor: UntrainedExtractor) -> None:
    clips = moving_discs(6, 3)
    rows = response(extractor, clips, clips)
    assert rows.keys() == CORRUPTIONS.keys()
    for name, row in rows.items():
        assert row[0] == pytest.approx(0, abs=1e-9), name
        assert all(low < high for low, high in itertools.pairwise(row)), (name, row)


def test_corruptions_do_what_they_say() -> None:
    clips = moving_discs(2, 4)
    spoiled = {
        name: [corrupt(clips, level) for level in levels]
        for name, (corrupt, levels) in CORRUPTIONS.items()
    }
    for name, row in spoiled.items():
        for each in row:
            assert each.dtype == torch.uint8, name
            assert each.shape == clips.shape, name
            assert not torch.equal(each, clips), name
    assert torch.equal(spoiled["frozen frames"][-1], clips[:, :1].expand_as(clips))
    assert torch.equal(spoiled["frozen frames"][1][:, :10], clips[:, :10])
    frame_sums = clips.flatten(2).long().sum(2)
    for level, row in zip(
        CORRUPTIONS["shuffled frames"][1], spoiled["shuffled frames"], strict=True
    ):
        sums = row.flatten(2).long().sum(2)
        assert torch.equal(sums.sort(1)[0], frame_sums.sort(1)[0])
        assert (sums != frame_sums).sum(1).tolist() == [round(16 * level)] * 2
