"""The sizes of published networks, told by nothing but the names and shapes of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from models.backbones.stylegan.discriminator import Discriminator, DiscriminatorSizes
from models.backbones.stylegan.generator import Generator, GeneratorSizes, MotionStyleSizes
from models.backbones.stylegan.motion import AcyclicEncoding, MotionSizes
from models.backbones.video_unet import VideoUnet
from models.importers.lvdm import DenoiserSizes, read_denoiser, without_single_axes
from models.importers.stored_tensors import Span, Storage, StoredTensor
from models.importers.stylegan_v import MotionStylesFound, read_gan


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def shape_alone(value: Tensor) -> StoredTensor:
    """A stored tensor whose numbers nobody may ask for."""
    shape = tuple(value.shape)
    count = math.prod(shape)
    storage = Storage(torch.float32, count, Span(b"", 0, 4 * count))
    return StoredTensor(storage, 0, shape, contiguous(shape))


def stored(value: Tensor) -> StoredTensor:
    """A stored tensor with its numbers."""
    content = value.contiguous().numpy().tobytes()
    storage = Storage(torch.float32, value.numel(), Span(content, 0, len(content)))
    return StoredTensor(storage, 0, tuple(value.shape), contiguous(tuple(value.shape)))


def shapes(network: nn.Module) -> dict[str, StoredTensor]:
    return {name: shape_alone(value) for name, value in network.state_dict().items()}


def count(state: Mapping[str, StoredTensor]) -> int:
    return sum(math.prod(value.shape) for name, value in state.items() if "w_avg" not in name)


PUBLISHED = {
    # method, resolution, frames, longest video: parameters of G and D
    ("stylegan_v", 128, 16, 1024): (31_863_698, 44_091_264),
    ("mostgan_v", 128, 16, 300): (40_673_170, 61_519_360),
    ("stylegan_v", 256, 3, 1024): (32_105_941, 25_333_568),
    ("mostgan_v", 256, 3, 1024): (40_915_413, 25_923_008),
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_gans(published: tuple[str, int, int, int]) -> None:
    name, resolution, frames, longest = published
    moves = name == "mostgan_v"
    with torch.device("meta"):
        generator = Generator(
            GeneratorSizes(
                resolution=resolution, motion_styles=MotionStyleSizes() if moves else None
            )
        )
        discriminator = Discriminator(
            DiscriminatorSizes(
                resolution=resolution,
                frames=frames,
                longest_video=longest,
                hidden=128 if moves else 512,
                frame_differences=moves,
            )
        )
    encoding = AcyclicEncoding(MotionSizes(code_width=1))
    encoder = "synthesis.motion_encoder.time_encoder"
    constants = {
        f"{encoder}.freqs": stored(encoding.frequencies[None]),
        f"{encoder}.phase_scales": stored(encoding.phase_scales[None]),
    }
    original = read_gan(
        {
            "G_ema": {"_parameters": {**shapes(generator), **constants}, "motion_z_distance": 16},
            "D": {"_parameters": shapes(discriminator)},
        }
    )
    assert (count(original.generator), count(original.discriminator)) == PUBLISHED[published]
    sizes = original.sizes
    assert (sizes.resolution, sizes.frames, sizes.longest_video) == published[1:]
    assert (sizes.channel_base, sizes.channel_max, sizes.latent) == (16384, 512, 512)
    assert (sizes.motion_width, sizes.kernel, sizes.periods) == (512, 11, 256)
    assert (sizes.shortest_period, sizes.longest_period, sizes.anchor_distance) == (16, 1024, 16)
    assert (sizes.joined_at, sizes.joined_divisor, sizes.group) == (16, 2, 4)
    assert (sizes.hidden, sizes.conditioning_width) == (128 if moves else 512, 512)
    assert sizes.frame_differences == moves
    expected = MotionStylesFound(8, 128, (16, 32, 64, 128)) if moves else None
    assert sizes.motion_styles == expected


@pytest.mark.parametrize(
    ("reach", "masked", "levels"), [(4, False, 0), (4, True, 251), (5, True, 251)]
)
def test_published_denoisers(reach: int, masked: bool, levels: int) -> None:
    with torch.device("meta"):
        network = VideoUnet(reach=reach, masked=masked, levels=levels)
    weights = shapes(network)
    state = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    original = read_denoiser(state, "model")
    assert len(original.weights) == 668 + bool(levels)
    assert original.sizes == DenoiserSizes(
        channels=4,
        width=256,
        multipliers=(1, 2, 3, 4),
        blocks=3,
        attention_at=(8, 4, 2),
        heads=4,
        reach=reach,
        masked=masked,
        levels=levels,
    )
    if not masked:
        assert count(weights) == 548_904_580


def test_names_of_averages_without_dots_do_not_collide() -> None:
    with torch.device("meta"):
        weights = shapes(VideoUnet())
    averages = {
        f"model_ema.{f'diffusion_model.{name}'.replace('.', '')}": value
        for name, value in weights.items()
    }
    assert len(averages) == len(weights)
    raw = {
        f"model.diffusion_model.{name}": shape_alone(torch.empty(v.shape, device="meta"))
        for name, v in weights.items()
    }
    original = read_denoiser({**raw, **averages}, "ema")
    assert all(original.weights[name] is value for name, value in weights.items())


def test_kernel_axes_of_size_one_go() -> None:
    for before, after in [
        ((4, 3, 1, 3, 3), (4, 3, 3, 3)),
        ((4, 3, 1, 1, 1), (4, 3, 1, 1)),
        ((6, 2, 1), (6, 2)),
        ((9, 8), (9, 8)),
        ((8,), (8,)),
    ]:
        assert without_single_axes(torch.zeros(before)).shape == after
