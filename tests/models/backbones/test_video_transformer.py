"""The video transformer: sizes, symmetries, and what may see what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from configs.shapes import VideoShape
from models.backbones.video_transformer import VideoTransformer, block_order
from models.methods.endora import SIZES

LATENTS = VideoShape(frames=4, channels=3, height=8, width=8)


def build(**changes: object) -> VideoTransformer:
    torch.manual_seed(0)
    settings = {"width": 32, "depth": 4, "heads": 4, "patch": 2} | changes
    network = VideoTransformer(LATENTS, **settings)  # type: ignore[arg-type]
    for parameter in network.parameters():  # open the gates, which start at zero
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.2)
    return network.eval()


def noisy(images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4 + images, 3, 8, 8, generator=generator)


TIMESTEP = torch.tensor([10, 700])


@pytest.mark.parametrize(
    ("size", "values"),
    [("XL", 673_773_728), ("L", 456_897_568), ("B", 129_608_480), ("S", 32_511_392)],
)
def test_published_sizes(size: str, values: int) -> None:
    depth, width, heads = SIZES[size]
    with torch.device("meta"):
        network = VideoTransformer(
            VideoShape(16, 4, 16, 16), width=width, depth=depth, heads=heads, patch=2
        )
    learned = sum(parameter.numel() for parameter in network.parameters())
    tables = network.grid_positions.numel() + network.frame_positions.numel()
    assert learned + tables == values


def test_a_new_network_is_the_zero_map() -> None:
    network = VideoTransformer(LATENTS, width=32, depth=4, heads=4, patch=2)
    assert network(noisy(), TIMESTEP).prediction.abs().max() == 0


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_shapes(patch: int) -> None:
    output = build(patch=patch)(noisy(), TIMESTEP, feature_pairs=[0, 1])
    assert output.prediction.shape == (2, 6, 6, 8, 8)
    assert [each.shape for each in output.features] == [(2, 6, (8 // patch) ** 2, 32)] * 2


@pytest.mark.parametrize("interlaced", [True, False])
def test_extra_images_see_nothing_and_are_not_seen(interlaced: bool) -> None:
    network, frames = build(interlaced=interlaced), noisy()
    changed = frames.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        before, after = (network(each, TIMESTEP).prediction for each in (frames, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3
    alone = network(frames[:, :4], TIMESTEP).prediction
    torch.testing.assert_close(alone, before[:, :4], rtol=1e-4, atol=1e-5)


def test_every_frame_of_a_clip_sees_the_others() -> None:
    network, frames = build(), noisy(images=0)
    changed = frames.clone()
    changed[:, 0, :, 0, 0] += 1
    with torch.no_grad():
        difference = network(frames, TIMESTEP).prediction - network(changed, TIMESTEP).prediction
    assert difference.abs().amax((0, 2, 3, 4)).min() > 1e-5


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    network, frames = build(), noisy()
    with torch.no_grad():
        together = network(frames, TIMESTEP).prediction
        alone = network(frames[1:], TIMESTEP[1:]).prediction
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_time_has_a_direction() -> None:
    """Without the frame positions, reversing the clip would reverse the output."""
    network, frames = build(), noisy(images=0)
    with torch.no_grad():
        backwards = network(frames.flip(1), TIMESTEP).prediction.flip(1)
        assert (backwards - network(frames, TIMESTEP).prediction).abs().max() > 1e-3
        network.frame_positions.zero_()
        backwards = network(frames.flip(1), TIMESTEP).prediction.flip(1)
        torch.testing.assert_close(
            backwards, network(frames, TIMESTEP).prediction, rtol=1e-4, atol=1e-5
        )


def test_patches_go_back_where_they_came_from() -> None:
    """A network whose final layer copied its patch would return the latent, twice."""
    network = build()
    latent = noisy()[:1]
    cells = latent.reshape(1, 6, 3, 4, 2, 4, 2).permute(0, 1, 3, 5, 4, 6, 2)  # rows, cols, p, q, c
    patches = torch.cat([cells, cells], dim=-1).reshape(1, 6, 16, -1)
    assert torch.equal(network.unpatchify(patches), torch.cat([latent, latent], dim=2))


def test_block_order() -> None:
    assert block_order(2, True) == [
        ("spatial", 0),
        ("temporal", 0),
        ("spatial", 1),
        ("temporal", 1),
    ]
    assert [kind for kind, _ in block_order(2, False)] == ["spatial"] * 2 + ["temporal"] * 2


def test_labels_change_the_output_and_are_dropped_only_in_training() -> None:
    network, frames = build(classes=3, class_dropout=0.999), noisy()
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        unlabelled = network(frames, TIMESTEP).prediction
        labelled = network(frames, TIMESTEP, labels).prediction
        assert (labelled - unlabelled).abs().max() > 1e-3
        torch.testing.assert_close(
            network(frames, TIMESTEP, torch.tensor([3, 3])).prediction, unlabelled
        )
        torch.manual_seed(0)
        torch.testing.assert_close(network.train()(frames, TIMESTEP, labels).prediction, unlabelled)


def measured_loss(network: VideoTransformer, sizes: list[int]) -> Tensor:
    """A loss, and the sizes of the tensors that are kept for its gradient."""

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return network(noisy(), TIMESTEP).prediction.square().mean()


@pytest.mark.parametrize("checkpointing", [True, "half", "mlp"])
def test_checkpointing_gives_the_same_gradients_from_less_memory(checkpointing: bool | str) -> None:
    gradients, kept = [], []
    for choice in (False, checkpointing):
        network = build(checkpointing=choice).train()
        sizes: list[int] = []
        loss = measured_loss(network, sizes)
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        kept.append(sum(sizes))
    assert kept[1] < 0.9 * kept[0]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="depth of 3 is odd"):
        build(depth=3)
    with pytest.raises(ValueError, match="over 5 heads"):
        build(heads=5)
    with pytest.raises(ValueError, match="cannot be divided"):
        build(patch=3)
