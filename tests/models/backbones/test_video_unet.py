"""The 3D U-Net of LVDM: golden numbers of the original, sizes, symmetries."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones.video_unet import VideoUnet, timestep_waves

REDUCED: dict[str, Any] = {"width": 32, "blocks": 1}
LONG: dict[str, Any] = {"masked": True, "levels": 251}


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


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return fill(VideoUnet(**REDUCED)).requires_grad_(False)


@pytest.fixture(scope="module")
def long_network() -> nn.Module:
    return fill(VideoUnet(**REDUCED, **LONG)).requires_grad_(False)


def given_latents() -> tuple[Tensor, Tensor]:
    values = np.random.RandomState(1).standard_normal((2, 4, 4, 16, 16))
    return torch.from_numpy(values).float().transpose(1, 2), torch.tensor([10, 900])


def check(output: Tensor, statistics: list[float], probes: dict[tuple[int, ...], float]) -> None:
    """Mean, deviation, largest and single values of (B, C, F, h, w)."""
    output = output.transpose(1, 2)
    found = [output.mean(), output.std(correction=0), output.abs().max()]
    found += [output[place] for place in probes]
    wanted = [*statistics, *probes.values()]
    assert [float(value) for value in found] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_golden_output(network: nn.Module) -> None:
    check(
        network(*given_latents()),
        [-0.134685, 0.579083, 2.537381],
        {
            (0, 0, 0, 0, 0): 0.193032,
            (0, 3, 2, 5, 7): -0.081750,
            (1, 0, 0, 0, 0): 0.195621,
            (1, 3, 3, 15, 15): -0.174805,
        },
    )


def test_golden_output_without_relative_positions() -> None:
    network = without_positions()
    check(network(*given_latents()), [-0.135243, 0.583745, 2.621891], {(0, 0, 0, 0, 0): 0.057792})


def test_golden_output_of_long_videos(long_network: nn.Module) -> None:
    latents, timestep = given_latents()
    given = torch.tensor([1.0, 0, 0, 0]).expand(2, -1)
    check(
        long_network(latents, timestep, given, torch.tensor([100, 3])),
        [-0.134172, 0.571201, 2.353076],
        {(0, 0, 0, 0, 0): 0.158642, (1, 3, 3, 15, 15): -0.167222},
    )
    check(
        long_network(latents, timestep, given),
        [-0.133979, 0.570359, 2.379744],
        {(0, 0, 0, 0, 0): 0.165549, (1, 3, 3, 15, 15): -0.133942},
    )


@pytest.mark.parametrize(
    ("sizes", "parameters", "tensors"),
    [
        ({}, 548_904_580, 668),
        (LONG, 549_163_908, 669),
        ({**LONG, "reach": 5}, 549_181_060, 669),
        (REDUCED, 4_434_452, 324),
        ({**REDUCED, **LONG}, 4_466_868, 325),
    ],
)
def test_parameters_are_as_many_as_published(
    sizes: dict[str, Any], parameters: int, tensors: int
) -> None:
    with torch.device("meta"):
        found = list(VideoUnet(**sizes).parameters())
    assert sum(parameter.numel() for parameter in found) == parameters
    assert len(found) == tensors


def test_parts_of_the_published_size_have_their_share() -> None:
    with torch.device("meta"):
        network = VideoUnet()

    def count(part: str) -> int:
        return sum(p.numel() for name, p in network.named_parameters() if part in name)

    assert count("time_embed.") == 1_312_768
    assert count("input_blocks.") == 171_957_120
    assert count("middle_block.") == 50_364_928
    assert count("output_blocks.") == 325_260_032
    assert count("relative_position") == 77_184
    assert sum(p.numel() for p in network.out.parameters()) == 9_732
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["input_blocks.4.0.op.weight"] == (256, 256, 3, 3)
    assert shapes["output_blocks.3.0.in_layers.2.weight"] == (1024, 1792, 3, 3)
    assert shapes["output_blocks.3.2.conv.weight"] == (1024, 1024, 3, 3)
    assert shapes["middle_block.1.relative_position_k.embeddings_table"] == (9, 256)


def test_a_new_network_predicts_zero() -> None:
    network = VideoUnet(**REDUCED)
    assert not network(*given_latents()).any()


@pytest.mark.parametrize("shape", [(1, 1, 4, 8, 8), (2, 3, 4, 8, 16), (1, 7, 4, 24, 8)])
def test_any_number_of_frames_and_cells_keeps_its_shape(
    network: nn.Module, shape: tuple[int, ...]
) -> None:
    output = network(torch.randn(shape), torch.full((shape[0],), 500))
    assert output.shape == shape
    assert output.isfinite().all()


def without_positions() -> nn.Module:
    network = fill(VideoUnet(**REDUCED)).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if "relative_position" in name:
            nn.init.zeros_(parameter)
    return network


def test_frames_can_change_places_only_without_relative_positions(network: nn.Module) -> None:
    latents, timestep = torch.randn(2, 4, 4, 8, 8), torch.tensor([10, 900])
    order = [2, 0, 3, 1]
    blind = without_positions()
    torch.testing.assert_close(
        blind(latents[:, order], timestep), blind(latents, timestep)[:, order], atol=2e-5, rtol=1e-4
    )
    difference = network(latents[:, order], timestep) - network(latents, timestep)[:, order]
    assert difference.abs().max() > 1e-2


def test_clips_of_a_batch_know_nothing_of_each_other(long_network: nn.Module) -> None:
    torch.manual_seed(0)
    latents, timestep = torch.randn(3, 4, 4, 8, 8), torch.tensor([10, 500, 900])
    given, level = torch.rand(3, 4).round(), torch.tensor([0, 250, 100])
    together = long_network(latents, timestep, given, level)
    alone = [
        long_network(latents[k : k + 1], timestep[k : k + 1], given[k : k + 1], level[k : k + 1])
        for k in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=1e-4)


def test_checkpointing_changes_no_gradient() -> None:
    latents, timestep = torch.randn(1, 2, 4, 8, 8), torch.tensor([500])
    gradients = []
    for checkpointing in (False, True):
        network = fill(VideoUnet(**REDUCED, checkpointing=checkpointing)).train()
        network(latents, timestep).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        torch.testing.assert_close(plain, recomputed)


def test_half_precision_stays_close(network: nn.Module) -> None:
    latents, timestep = given_latents()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(latents, timestep)
    exact = network(latents, timestep)
    assert (rounded.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_groups_follow_narrow_widths() -> None:
    network = VideoUnet(width=24, blocks=1, groups=8)
    assert network(torch.randn(1, 2, 4, 8, 8), torch.tensor([3])).shape == (1, 2, 4, 8, 8)


def test_timestep_waves_are_cosines_then_sines() -> None:
    waves = timestep_waves(torch.tensor([0, 1, 500]), 256)
    assert torch.equal(waves[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    found = waves[1, [0, 1, 127, 128, 255]].tolist() + waves[2, [0, 128]].tolist()
    wanted = [0.5403023, 0.5973753, 1.0, 0.8414710, 1.0746e-4, -0.8838493, -0.4677718]
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
