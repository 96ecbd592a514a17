"""MoStGAN-V: known numbers of the whole networks, and what its motion styles may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.stylegan.discriminator import Discriminator, DiscriminatorSizes
from models.backbones.stylegan.generator import Generator, GeneratorSizes, MotionStyleSizes
from models.backbones.stylegan.motion import MotionSizes
from models.layers.motion_modulation import MODES, Mode

SMALL = GeneratorSizes(
    resolution=32,
    channel_base=1024,
    channel_max=64,
    noise_width=64,
    latent_width=64,
    motion=MotionSizes(noise_width=64, code_width=64, periods=32, longest_period=256),
    motion_styles=MotionStyleSizes(count=4, width=32, resolutions=(16, 32)),
)
SMALL_JUDGE = DiscriminatorSizes(
    resolution=32,
    frames=4,
    channel_base=1024,
    channel_max=64,
    hidden=32,
    conditioning_width=64,
    longest_video=64,
    frame_differences=True,
)
FULL = GeneratorSizes(motion_styles=MotionStyleSizes())

# Mean and standard deviation of all pixels, then pixels [2, 3, :, 5, 7] and [0, 0, :, 31, 0].
PICTURES: dict[Mode, tuple[list[float], list[float], list[float]]] = {
    "demod": (
        [-0.254763, 1.01532],
        [-0.93676, -0.69749, 1.11546],
        [-0.124341, 0.177118, 0.246974],
    ),
    "paper": (
        [-0.278991, 1.04661],
        [-0.945204, -0.701173, 1.01198],
        [-0.146897, 0.199877, 0.254772],
    ),
}
# From a run in half precision, which is why they are good to three digits alone.
ROUGH = (
    [-0.253913, 0.999593],
    [-0.990102, -0.707422, 1.09683],
    [-0.133713, 0.143711, 0.258992],
)
# The generator's loss, and the lengths of its gradient.
LOSSES: dict[Mode, tuple[float, dict[str, float]]] = {
    "demod": (
        0.638064,
        {
            "mapping.fc0.weight": 0.0018957,
            "synthesis.multimotionmap.0.weight": 0.023766,
            "synthesis.b32.conv1.hypernet.conv0.weight": 0.00288176,
        },
    ),
    "paper": (
        0.60455,
        {
            "mapping.fc0.weight": 0.00227726,
            "synthesis.multimotionmap.0.weight": 0.0436289,
            "synthesis.b32.conv1.hypernet.conv0.weight": 0.0172801,
        },
    ),
}


def sizes(mode: Mode, base: GeneratorSizes = SMALL) -> GeneratorSizes:
    assert base.motion_styles
    return replace(base, motion_styles=replace(base.motion_styles, mode=mode))


@pytest.fixture
def inputs(normal, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Content noise, times and motion noise of four clips."""
    return normal(1, 4, 64), times, normal(2, 4, 26, 64)


def near(found: Tensor | float, known: list[float] | float, tolerance: float = 1e-4) -> None:
    found = torch.as_tensor(found).detach().float()
    torch.testing.assert_close(found, torch.tensor(known), rtol=tolerance, atol=tolerance / 50)


@pytest.mark.parametrize("mode", ["demod", "paper"])
def test_known_pictures_and_gradients(fill, inputs, times: Tensor, mode: Mode) -> None:
    generator = fill(Generator(sizes(mode)))
    videos = generator(*inputs)
    overall, late, early = PICTURES[mode]
    near(torch.stack([videos.mean(), videos.std()]), overall)
    near(videos[2, 3, :, 5, 7], late)
    near(videos[0, 0, :, 31, 0], early)

    judge = fill(Discriminator(SMALL_JUDGE)).requires_grad_(False)
    loss = F.softplus(-judge(videos, times)).mean()
    loss.backward()
    known_loss, known_gradients = LOSSES[mode]
    near(loss, known_loss)
    for name, known in known_gradients.items():
        gradient = generator.get_parameter(name).grad
        assert gradient is not None
        near(gradient.norm() / known, 1.0)


def test_known_pictures_of_the_released_mode(fill, inputs) -> None:
    videos = fill(Generator(sizes("released")))(*inputs)
    overall, late, early = ROUGH
    near(torch.stack([videos.mean(), videos.std()]), overall, 0.003)
    near(videos[2, 3, :, 5, 7], late, 0.003)
    near(videos[0, 0, :, 31, 0], early, 0.003)
    near(videos.std(), 0.999636)
    near(videos[2, 3, :, 5, 7], [-0.990204, -0.707792, 1.09842])


@pytest.mark.parametrize(("mode", "known"), [("demod", 0.0418157), ("paper", 0.0418157)])
def test_known_likeness(fill, inputs, mode: Mode, known: float) -> None:
    generator = fill(Generator(sizes(mode)))
    videos, likeness = generator(*inputs, likeness=True)
    near(likeness, known)
    assert torch.equal(videos, generator(*inputs))
    likeness.backward()
    for name, parameter in generator.named_parameters():
        if "multimotionmap" in name or "hypernet" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_known_sizes() -> None:
    with torch.device("meta"):
        small, full = Generator(SMALL), Generator(FULL)
        large = Generator(replace(FULL, resolution=256))  # its last block follows no motion
        judges = [
            Discriminator(SMALL_JUDGE),
            Discriminator(
                DiscriminatorSizes(hidden=128, longest_video=300, frame_differences=True)
            ),
            Discriminator(
                DiscriminatorSizes(hidden=128, longest_video=300, frame_differences=True, frames=3)
            ),
        ]
    counts = [
        sum(each.numel() for each in network.parameters())
        for network in [small, full, large, *judges]
    ]
    assert counts == [477_292, 40_673_170, 40_915_413, 447_072, 61_519_360, 25_616_896]
    parts = {
        "mapping": 525_312,
        "synthesis.motion_encoder": 6_292_480,
        "synthesis.multimotionmap": 8_393_728,
        "synthesis.b4": 5_516_803,
        "synthesis.b8": 5_509_123,
        "synthesis.b16": 5_641_731,
        "synthesis.b32": 5_641_731,
        "synthesis.b64": 2_395_907,
        "synthesis.b128": 756_355,
    }
    for name, known in parts.items():
        part = full.get_submodule(name)
        assert sum(each.numel() for each in part.parameters()) == known, name
    assert sum(parts.values()) == counts[1]


def test_state_has_the_names_of_published_checkpoints() -> None:
    with torch.device("meta"):
        extra = Generator(FULL).state_dict().keys()
        plain = Generator(replace(FULL, motion_styles=None)).state_dict().keys()
    layers = [f"synthesis.b{r}.conv{i}" for r in (16, 32, 64, 128) for i in (0, 1)]
    styles = [f"synthesis.multimotionmap.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    expected = {*styles, *(f"{layer}.hypernet.conv0.weight" for layer in layers)}
    assert extra - plain == expected
    assert plain - extra == set()


@pytest.mark.parametrize("mode", MODES)
def test_without_projections_it_is_the_generator_without_motion_styles(
    fill, inputs, mode: Mode
) -> None:
    generator = fill(Generator(sizes(mode)))
    plain = Generator(replace(SMALL, motion_styles=None)).eval()
    plain.load_state_dict(
        {name: part for name, part in generator.state_dict().items() if name in plain.state_dict()}
    )
    expected = plain(*inputs)
    assert (generator(*inputs) - expected).abs().max() > 0.01
    for name, parameter in generator.named_parameters():
        if "hypernet" in name:
            torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(generator(*inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_frames_do_not_depend_on_the_other_frames(fill, inputs, mode: Mode) -> None:
    generator = fill(Generator(sizes(mode)))
    noise, times, motion_noise = inputs
    together = generator(*inputs)
    alone = generator(noise[2:3], times[2:3, 3:], motion_noise[2:3])
    assert alone.shape == (1, 1, 3, 32, 32)
    torch.testing.assert_close(alone[0, 0], together[2, 3], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_pictures_are_continuous_at_anchors(fill, inputs, mode: Mode) -> None:
    generator = fill(Generator(sizes(mode)))
    noise, _, motion_noise = inputs
    steps = torch.tensor([0.0, -0.1, -0.01, 0.01, 0.1])
    videos = generator(noise, (16 + steps).expand(4, -1), motion_noise)
    jumps = (videos[:, 1:] - videos[:, :1]).abs().mean(dim=(0, 2, 3, 4))
    assert jumps.max() < 0.05
    near(jumps[0] / jumps[1], 10.0, 0.1)
    near(jumps[3] / jumps[2], 10.0, 0.1)


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_learns(inputs, mode: Mode) -> None:
    torch.manual_seed(0)
    generator = Generator(sizes(mode))
    generator(*inputs).square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_generator_without_motion_styles_has_no_likeness(inputs) -> None:
    generator = Generator(replace(SMALL, motion_styles=None))
    with pytest.raises(ValueError, match="without motion styles"):
        generator(*inputs, likeness=True)


def test_motion_styles_that_change_no_block_are_refused() -> None:
    with pytest.raises(ValueError, match="change no block"):
        replace(SMALL, motion_styles=MotionStyleSizes(resolutions=(64, 128)))


# Of all pixels and of the first picture: mean, standard deviation; then three pixels of pictures
# [0, 0], [0, 1] and [1, 2].
FULL_PICTURES: dict[Mode, tuple[list[float], list[float], list[list[float]]]] = {
    "demod": (
        [0.532620, 1.718829],
        [0.663166, 1.679840],
        [
            [0.156101, -1.691105, 0.106234],
            [0.166532, -1.778838, 0.080948],
            [0.311979, -2.252520, 1.068581],
        ],
    ),
    "paper": (
        [0.626671, 1.884817],
        [0.765793, 1.806158],
        [
            [0.172279, -1.846394, 0.152036],
            [0.186699, -1.817166, 0.112041],
            [0.357118, -2.482475, 1.216211],
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["demod", "paper"])
def test_known_pictures_at_full_size(fill, normal, mode: Mode) -> None:
    generator = fill(Generator(sizes(mode, FULL)))
    times = torch.tensor([[0, 3.5, 16], [7.25, 15.999, 31]])
    noise, motion_noise = normal(1, 2, 512), normal(2, 2, 41, 512)
    with torch.no_grad():
        latents = generator.mapping(noise)
        truncated = generator.mapping(noise, 0.9)
        motion = generator.synthesis.motion_encoder(times, motion_noise)
        videos, likeness = generator(noise, times, motion_noise, likeness=True)
    near(latents[0, [0, 1, 511]], [0.630581, 1.088476, -0.137417])
    near(truncated[0, [0, 1, 511]], [0.571243, 0.985780, -0.134405])
    places = [0, 100, 255, 256, 511]
    near(motion[0, 0, places], [-0.524305, -0.341433, 0.042357, 0.203586, 0.359342])
    near(motion[0, 1, places], [-0.261254, -0.291961, 0.397726, -0.065842, -0.573264])
    near(motion[0, 2, places], [0.689751, -0.007234, 0.125180, -1.032555, 0.266796])
    near(likeness, 0.033183)
    overall, first, pixels = FULL_PICTURES[mode]
    near(torch.stack([videos.mean(), videos.std()]), overall)
    near(torch.stack([videos[0, 0].mean(), videos[0, 0].std()]), first)
    for place, known in zip(((0, 0), (0, 1), (1, 2)), pixels, strict=True):
        picture = videos[place]
        near(torch.stack([picture[0, 0, 0], picture[1, 64, 64], picture[2, 127, 100]]), known)
