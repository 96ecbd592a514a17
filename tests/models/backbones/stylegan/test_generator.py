"""The generator of StyleGAN-V: known numbers of whole networks, and what must (not) change what."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.stylegan.discriminator import Discriminator, DiscriminatorSizes
from models.backbones.stylegan.generator import Generator, GeneratorSizes, MotionStyleSizes
from models.backbones.stylegan.mapping import MappingNetwork
from models.backbones.stylegan.motion import MotionSizes
from models.layers.modulated import ModulatedConvolution
from models.layers.motion_modulation import MotionModulation
from tools.training.compiling import compile_regions

SMALL = GeneratorSizes(
    resolution=32,
    channel_base=1024,
    channel_max=64,
    noise_width=64,
    latent_width=64,
    motion=MotionSizes(noise_width=64, code_width=64, periods=32, longest_period=256),
)
SMALL_JUDGE = DiscriminatorSizes(
    resolution=32,
    frames=4,
    channel_base=1024,
    channel_max=64,
    hidden=64,
    conditioning_width=64,
    longest_video=64,
)
LENGTH = 26  # of the motion noise: enough for times below 96

# The names by which published checkpoints know the generator's tensors.
NAMES = re.compile(
    r"mapping\.(w_avg|fc[01]\.(weight|bias))|"
    r"synthesis\.motion_encoder\.(conv\.[01]\.(weight|bias)|"
    r"time_encoder\.(periods|phase|aligners)_predictor\.weight)|"
    r"synthesis\.b4\.input\.input\.const|"
    r"synthesis\.b\d+\.(conv[01]|torgb)\.(affine\.)?(weight|bias)"
)
FULL_COUNTS = {
    "mapping": 525_312,
    "synthesis.motion_encoder": 6_292_480,
    "synthesis.b4": 5_516_803,
    "synthesis.b8": 5_509_123,
    "synthesis.b16": 5_509_123,
    "synthesis.b32": 5_509_123,
    "synthesis.b64": 2_296_067,
    "synthesis.b128": 705_667,
    "": 31_863_698,
}
FULL_SHAPES = {
    "mapping.fc1.weight": (512, 512),
    "synthesis.motion_encoder.conv.1.weight": (512, 512, 11),
    "synthesis.b4.conv1.weight": (512, 1024, 3, 3),
    "synthesis.b4.conv1.affine.weight": (1024, 512),
    "synthesis.b32.conv0.weight": (512, 512, 3, 3),
    "synthesis.b64.conv0.weight": (256, 512, 3, 3),
    "synthesis.b128.conv1.affine.bias": (128,),
    "synthesis.b128.torgb.weight": (3, 128, 1, 1),
}


@pytest.fixture
def generator(fill) -> Generator:
    return fill(Generator(SMALL)).requires_grad_(False)


@pytest.fixture
def inputs(normal, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content noise, times and motion noise of four clips."""
    return normal(1, 4, 64), times, normal(2, 4, LENGTH, 64)


def near(found: Tensor, known: list[float] | float, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(
        found.detach(), torch.tensor(known), rtol=tolerance, atol=tolerance / 50
    )


def test_known_latents(generator: Generator, inputs) -> None:
    near(generator.mapping(inputs[0])[1, [0, 1, 63]], [-0.120039, -0.54691, -0.475805])
    truncated = generator.mapping(inputs[0], 0.9)
    near(truncated[1, [0, 1, 63]], [-0.104314, -0.486068, -0.43357])


def test_known_pictures(generator: Generator, inputs) -> None:
    videos = generator(*inputs)
    assert videos.shape == (4, 4, 3, 32, 32)
    near(torch.stack([videos.mean(), videos.std()]), [-0.259362, 1.02756])
    near(videos[2, 3, :, 5, 7], [-0.903606, -0.653489, 1.07472])
    near(videos[0, 0, :, 31, 0], [-0.112854, 0.209671, 0.241352])


def test_known_gradients_of_the_loss(fill, inputs, times: Tensor) -> None:
    generator = fill(Generator(SMALL))
    judge = fill(Discriminator(SMALL_JUDGE)).requires_grad_(False)
    loss = F.softplus(-judge(generator(*inputs), times)).mean()
    loss.backward()
    near(loss, 0.854637)
    for name, known in {
        "mapping.fc0.weight": 0.00263087,
        "synthesis.motion_encoder.conv.0.weight": 0.00408256,
        "synthesis.motion_encoder.time_encoder.aligners_predictor.weight": 0.0877004,
        "synthesis.b4.conv1.weight": 0.164836,
        "synthesis.b32.torgb.weight": 0.0515762,
    }.items():
        gradient = generator.get_parameter(name).grad
        assert gradient is not None
        near(gradient.norm() / known, 1.0)
    assert all(each.grad is not None for each in generator.parameters())


def test_parameters_are_those_of_the_original() -> None:
    with torch.device("meta"):
        generator, small = Generator(GeneratorSizes()), Generator(SMALL)
    for part, wanted in FULL_COUNTS.items():
        module = generator.get_submodule(part)
        assert sum(each.numel() for each in module.parameters()) == wanted, part
    assert sum(each.numel() for each in small.parameters()) == 403_436
    shapes = {name: tuple(each.shape) for name, each in generator.state_dict().items()}
    assert FULL_SHAPES.items() <= shapes.items()
    assert not [name for name in shapes if not NAMES.fullmatch(name)]
    # Published files have 100 tensors, 19 of them constants: 17 filters and 2 rows of waves.
    assert len(shapes) == 81


@pytest.mark.slow
def test_known_full_size_pictures(fill, normal) -> None:
    generator = fill(Generator(GeneratorSizes())).requires_grad_(False)
    noise, motion_noise = normal(1, 2, 512), normal(2, 2, 86, 512)
    times = torch.tensor([[0, 3.5, 16], [7.25, 15.999, 31]])
    near(generator.mapping(noise)[0, [0, 1, 511]], [0.630581, 1.088476, -0.137417])
    near(generator.mapping(noise, 0.9)[0, [0, 1, 511]], [0.571243, 0.985780, -0.134405])
    videos = generator(noise, times, motion_noise)
    near(torch.stack([videos.mean(), videos.std()]), [0.707392, 1.915674])
    near(torch.stack([videos[0, 0].mean(), videos[0, 0].std()]), [0.719614, 1.753048])
    for clip, frame, known in (
        (0, 0, [0.165785, -1.740828, 0.118310]),
        (0, 1, [0.179839, -1.878142, 0.082873]),
        (1, 2, [0.320118, -3.007604, 0.738749]),
    ):
        picture = videos[clip, frame]
        near(torch.stack([picture[0, 0, 0], picture[1, 64, 64], picture[2, 127, 100]]), known)


def test_a_frame_does_not_depend_on_the_other_frames(generator: Generator, inputs) -> None:
    noise, times, motion_noise = inputs
    videos = generator(*inputs)
    assert torch.equal(generator(*inputs), videos)  # nothing is random inside
    others = times.clone()
    others[:, [0, 2, 3]] += torch.tensor([4.5, 20.0, 1.0])
    torch.testing.assert_close(generator(noise, others, motion_noise)[:, 1], videos[:, 1])
    parts = [generator(noise, part, motion_noise) for part in times.split(2, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), videos, rtol=1e-4, atol=1e-5)
    alone = generator(noise[2:3], times[2:3, 3:], motion_noise[2:3])
    torch.testing.assert_close(alone[0, 0], videos[2, 3], rtol=1e-4, atol=1e-5)


def test_pictures_change_smoothly_through_an_anchor(generator: Generator, inputs) -> None:
    noise, _, motion_noise = inputs
    steps = torch.tensor([0.1, 0.01, 0.001])
    times = torch.cat([16 - steps, 16 + steps, torch.tensor([16.0])]).expand(4, -1)
    videos = generator(noise, times, motion_noise)
    changes = (videos[:, :-1] - videos[:, -1:]).abs().mean(dim=(0, 2, 3, 4)).view(2, 3)
    for side in changes:
        torch.testing.assert_close(side, 0.12 * steps, rtol=0.15, atol=0)


def test_motion_noise_acts_only_nearby_in_time(generator: Generator, inputs) -> None:
    noise, _, motion_noise = inputs
    times = torch.tensor([0, 32, 33, 48, 49.0]).expand(4, -1)
    before = generator(noise, times, motion_noise)

    def changed(first: int, last: int) -> list[bool]:
        """Which times a change of the noise vectors from first to last shows at."""
        other = motion_noise.clone()
        other[:, first:last] += 1
        moved = (generator(noise, times, other) - before).abs().amax(dim=(0, 2, 3, 4))
        return (moved > 1e-4).tolist()

    assert changed(24, LENGTH) == [False, False, False, False, True]
    assert changed(23, 24) == [False, False, True, True, True]


def test_truncation_draws_all_content_to_the_mean_and_leaves_motion(
    generator: Generator, inputs
) -> None:
    noise, times, motion_noise = inputs
    latents = generator.mapping(noise)
    assert torch.equal(generator.mapping(noise, 1.0), latents)
    torch.testing.assert_close(generator.mapping(noise, 0.0), generator.mapping.w_avg.expand(4, -1))
    videos = generator(noise, times, motion_noise, 0.0)
    same = times[:1].expand(4, -1), motion_noise[:1].expand(4, -1, -1)
    torch.testing.assert_close(generator(noise, *same, 0.0)[3], videos[0], rtol=1e-4, atol=1e-5)
    assert (generator(noise, same[0], motion_noise, 0.0)[1] - videos[0]).abs().max() > 0.1


def test_content_and_motion_both_show(generator: Generator, inputs) -> None:
    noise, times, motion_noise = inputs
    videos = generator(*inputs)
    for others in ((noise.flip(0), times, motion_noise), (noise, times, motion_noise.flip(0))):
        assert (generator(*others) - videos).abs().mean() > 0.1


def test_the_mean_of_latents_runs_in_training_alone() -> None:
    torch.manual_seed(0)
    mapping = MappingNetwork(8, 16)
    expected = torch.zeros(16)
    for _ in range(3):
        latents = mapping(torch.randn(5, 8))
        expected = 0.995 * expected + 0.005 * latents.detach().mean(0)
        latents.sum().backward()
    torch.testing.assert_close(mapping.w_avg, expected)
    assert expected.abs().max() > 1e-4
    assert not mapping.w_avg.requires_grad
    mapping.eval()
    mapping(torch.randn(5, 8))
    torch.testing.assert_close(mapping.w_avg, expected)


def test_new_networks_start_as_expected(normal) -> None:
    torch.manual_seed(1)
    generator = Generator(SMALL).requires_grad_(False)
    times = torch.arange(4.0).expand(8, -1)
    videos = generator(normal(1, 8, 64), times, normal(2, 8, generator.motion_length(3), 64))
    assert 0.7 < videos.std() < 2.5
    assert videos.abs().max() < 20


def test_in_half_precision_only_large_maps_are(generator: Generator, inputs) -> None:
    kinds: dict[str, torch.dtype] = {}

    def note(name: str):
        return lambda _module, _given, result: kinds.update({name: result.dtype})

    for name, module in generator.named_modules():
        if not list(module.children()) or "conv" in name or name.endswith("torgb"):
            module.register_forward_hook(note(name))
    whole = generator(*inputs)
    assert set(kinds.values()) == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        half = generator(*inputs)
    low = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert low == {f"synthesis.b{r}.conv{i}" for r in (16, 32) for i in (0, 1)}
    assert half.dtype == torch.float32
    assert 1e-5 < (half - whole).square().mean().sqrt() < 0.01 * whole.std()


def test_no_layer_follows_motion(generator: Generator) -> None:
    parts = list(generator.modules())
    assert sum(isinstance(part, ModulatedConvolution) for part in parts) == 7
    assert not any(isinstance(part, MotionModulation) for part in parts)


def test_half_precision_leaves_the_likeness_of_motion_styles_alone(fill, inputs) -> None:
    extra = MotionStyleSizes(count=4, width=32, resolutions=(16, 32))
    generator = fill(Generator(replace(SMALL, motion_styles=extra))).requires_grad_(False)
    _, whole = generator(*inputs, likeness=True)
    with torch.autocast("cpu", torch.bfloat16):
        _, half = generator(*inputs, likeness=True)
    assert torch.equal(half, whole)


@pytest.mark.slow
def test_synthesis_compiles_without_breaks_for_every_use(fill, normal) -> None:
    sizes = GeneratorSizes(8, 64, 8, 8, 8, motion=MotionSizes(8, 8, periods=4))
    generator = fill(Generator(sizes))
    noise, motion_noise = normal(1, 2, 8), normal(2, 2, 26, 8)
    times = torch.tensor([[0, 1.0], [3, 40]]), torch.tensor([[0, 50.0], [3, 4]])
    wanted = [generator(noise, each, motion_noise, 0.9) for each in times]
    compile_regions(generator, backend="eager")
    with torch.compiler.set_stance("default"):
        for each, eager in zip(times, wanted, strict=True):
            torch.testing.assert_close(generator(noise, each, motion_noise, 0.9), eager)
            with torch.no_grad():
                torch.testing.assert_close(generator(noise, each, motion_noise, 0.9), eager)


@pytest.mark.parametrize("resolution", [4, 48, 0])
def test_resolutions_are_powers_of_two(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"power of 2.* it is {resolution}"):
        GeneratorSizes(resolution=resolution)


def test_motion_noise_of_the_stated_length_is_enough_and_less_is_not(
    generator: Generator, inputs
) -> None:
    noise, times, motion_noise = inputs
    length = generator.motion_length(19)
    videos = generator(noise, times, motion_noise[:, :length])
    torch.testing.assert_close(videos, generator(*inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="too short"):
        generator(noise, times, motion_noise[:, : length - 1])
