"""The network of the diagnosis: shapes, depth of its parameters, dropped branches, sizes."""

from __future__ import annotations

import pytest
import torch

from tools.diagnosis.classifier import SIZES, VideoClassifier


def tiny(**choices: object) -> VideoClassifier:
    torch.manual_seed(0)
    return VideoClassifier("tiny", frames=4, image_size=32, **choices)  # type: ignore[arg-type]


def with_temporal(network: VideoClassifier) -> VideoClassifier:
    """Random numbers where the temporal part begins with zeros."""
    for name, parameter in network.named_parameters():
        if name.startswith(("temporal.", "time_embed")):
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_logits_and_features_have_their_shapes() -> None:
    network = tiny().eval()
    clips = torch.randn(3, 4, 3, 32, 32)
    assert network(clips).shape == (3, 2)
    assert network.features(clips).shape == (3, 64)
    assert torch.allclose(network(clips), network.head(network.features(clips)))


def test_it_begins_undecided_and_as_an_image_model() -> None:
    network = tiny().eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    assert network(clips).softmax(1).sub(0.5).abs().max() < 0.1
    assert torch.allclose(network(clips), network(clips.flip(1)), atol=1e-6)


def test_with_a_temporal_part_the_order_counts() -> None:
    network = with_temporal(tiny()).eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    assert (network.features(clips) - network.features(clips.flip(1))).abs().max() > 1e-3


def test_clips_of_a_batch_are_on_their_own() -> None:
    network = with_temporal(tiny()).eval()
    clips = torch.randn(3, 4, 3, 32, 32)
    each = torch.cat([network(clip[None]) for clip in clips])
    assert torch.allclose(network(clips), each, atol=1e-5)


def test_every_parameter_learns() -> None:
    network = with_temporal(tiny())
    network(torch.randn(2, 4, 3, 32, 32)).square().sum().backward()
    still = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not still


def test_layers_are_numbered_from_the_pixels_to_the_head() -> None:
    network = tiny()
    layers = {name: network.layer_of(name) for name, _ in network.named_parameters()}
    assert set(layers.values()) == {0, 1, 2, 3}
    assert layers["spatial.patch_embed.proj.weight"] == layers["time_embed"] == 0
    assert layers["spatial.blocks.0.attn.qkv.weight"] == layers["temporal.0.qkv.weight"] == 1
    assert layers["temporal.1.fc.bias"] == 2
    assert layers["spatial.norm.weight"] == layers["head.weight"] == 3
    with pytest.raises(ValueError, match="no parameter"):
        network.layer_of("spatial.blocks")


def test_branches_are_dropped_in_training_alone_and_whole_clips_at_once() -> None:
    network = with_temporal(tiny(drop_path=0.5))
    clips = torch.randn(1, 4, 3, 32, 32).expand(32, -1, -1, -1, -1)
    network.eval()
    assert torch.allclose(network(clips), network(clips[:1]), atol=1e-5)
    network.train()
    different = network.features(clips).detach()
    # The first block drops nothing, the last one each of three branches: eight outcomes.
    rounded = {tuple((row * 100).round().tolist()) for row in different}
    assert 4 <= len(rounded) <= 8


def test_dropping_keeps_the_mean() -> None:
    network = tiny(drop_path=0.5).train()
    change = network._dropped(torch.ones(20000, 2), 1)
    assert set(change.unique().tolist()) == {0.0, 2.0}
    assert abs(change.mean() - 1) < 0.05
    assert torch.equal(change[:, 0], change[:, 1])


def test_checkpointing_changes_nothing_but_memory() -> None:
    gradients = []
    for checkpointing in (False, True):
        network = with_temporal(tiny(drop_path=0.3, checkpointing=checkpointing)).train()
        torch.manual_seed(1)
        clips = torch.randn(4, 4, 3, 32, 32)
        network(clips).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, saving in zip(*gradients, strict=True):
        assert torch.allclose(plain, saving, atol=1e-6)


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = VideoClassifier("base", frames=8, image_size=224)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert round(count / 1e6, 1) == 121.3


@pytest.mark.parametrize("size", sorted(SIZES.keys() - {"base", "small"}))
def test_every_size_for_a_cpu_can_be_built(size: str) -> None:
    network = VideoClassifier(size, frames=2, image_size=32)
    assert network(torch.zeros(1, 2, 3, 32, 32)).shape == (1, 2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="'huge' is not one of"):
        VideoClassifier("huge")
    with pytest.raises(ValueError, match="frames of 36 pixels"):
        VideoClassifier("tiny", image_size=36)
    with pytest.raises(ValueError, match="at least one frame"):
        VideoClassifier("tiny", frames=0)
    with pytest.raises(
        ValueError, match=r"takes clips \(B, 4, 3, 32, 32\), got \(2, 3, 3, 32, 32\)"
    ):
        tiny()(torch.zeros(2, 3, 3, 32, 32))
