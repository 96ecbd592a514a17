"""The discriminator against the numbers of the reference, and what it must and must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.adversarial import discriminator_loss, generator_loss, gradient_penalty, r1_loss
from models.backbones.stylegan.discriminator import (
    Discriminator,
    DiscriminatorSizes,
    Epilogue,
    deviation_map,
    frame_differences,
)
from models.layers.augmentation import Augmentation
from tools.training.compiling import compile_regions

MINI = DiscriminatorSizes(
    resolution=32,
    frames=4,
    channel_base=1024,
    channel_max=64,
    hidden=64,
    conditioning_width=64,
    longest_video=64,
)
FULL = DiscriminatorSizes()
VARIANTS = {
    "stylegan_v": (MINI, FULL),
    "mostgan_v": (
        replace(MINI, hidden=32, frame_differences=True),
        replace(FULL, hidden=128, frame_differences=True, longest_video=300),
    ),
}

# Weights filled by name, float32, on a CPU: computed with the published code of both methods.
GOLDEN = {
    "stylegan_v": {
        "parameters": 400_000,
        "logits": [-0.0931445, -0.403343, -0.154344, 0.0756907],
        "frame_norms": [0.000701243, 0.000661077, 0.000698129, 0.0008003],
        "penalties": [0.000715187, 0.000937489, 0.000837711, 0.000606241],
        "gradients": {
            "b16.conv0.weight": 6.67689e-05,
            "b32.fromrgb.weight": 0.000183853,
            "b4.out.weight": 0.000237735,
            "mapping.fc0.weight": 2.71058e-06,
        },
    },
    "mostgan_v": {
        "parameters": 447_072,
        "logits": [0.30214, 0.254319, 0.420786, 0.0385927],
        "frame_norms": [0.00127469, 0.00150401, 0.00187811, 0.00122133],
        "penalties": [0.00146954, 0.00288981, 0.000977498, 0.00114323],
        "gradients": {
            "b16.conv0.weight": 0.000171172,
            "b32.fromrgb.weight": 0.000397176,
            "b4.out.weight": 0.000694249,
            "mapping.fc0.weight": 6.0244e-06,
        },
    },
}
FULL_COUNTS = {
    "stylegan_v": {
        "time_encoder": 262_144,
        "b128": 476_032,
        "b64": 1_901_312,
        "b32": 3_670_784,
        "b16": 23_331_840,
        "b8": 4_981_760,
        "mapping": 2_645_504,
        "b4": 6_821_888,
        "": 44_091_264,
    },
    "mostgan_v": {
        "time_encoder": 76_800,
        "b128": 476_032,
        "b64": 1_901_312,
        "b32": 3_670_784,
        "b16": 44_303_360,
        "b8": 4_981_760,
        "mapping": 2_630_144,
        "b4": 3_479_168,
        "": 61_519_360,
    },
}
FULL_SHAPES = {
    "b128.fromrgb.weight": (128, 3, 1, 1),
    "b128.conv0.weight": (128, 128, 3, 3),
    "b64.skip.weight": (512, 256, 1, 1),
    "b32.conv1.weight": (256, 512, 3, 3),
    "b16.conv0.weight": (512, 4096, 3, 3),
    "b16.skip.weight": (512, 4096, 1, 1),
    "b8.conv1.bias": (512,),
    "mapping.embed.weight": (512, 4140),
    "mapping.fc1.bias": (512,),
    "b4.conv.weight": (512, 513, 3, 3),
    "b4.fc.weight": (512, 8192),
    "b4.out.weight": (512, 512),
    "time_encoder.const_embed.weight": (1024, 256),
}
FULL_LOGITS = {"stylegan_v": [0.735438, -0.162373], "mostgan_v": [0.310698, 0.523351]}


def pixels(seed: int, *shape: int) -> Tensor:
    """Uniform noise in [-1, 1], the same on every machine."""
    values = np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)
    return torch.from_numpy(values)


def close(found: Tensor, expected: list[float], rtol: float = 1e-4) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected), rtol=rtol, atol=1e-6)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def videos() -> Tensor:
    return pixels(3, 4, 4, 3, 32, 32)


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_and_the_penalty_to_second_order_are_those_of_the_reference(
    name: str, fill, videos: Tensor, times: Tensor
) -> None:
    golden = GOLDEN[name]
    discriminator = fill(Discriminator(VARIANTS[name][0]))
    assert parameters(discriminator) == golden["parameters"]
    given = videos.requires_grad_()
    logits = discriminator(given, times)
    close(logits, golden["logits"])
    (gradient,) = torch.autograd.grad(logits.sum(), given, retain_graph=True)
    close(gradient[0].square().flatten(1).sum(1), golden["frame_norms"])
    close(gradient_penalty(logits, given), golden["penalties"])  # half of gamma = 2 is 1
    loss, _ = r1_loss(discriminator, videos, times, gamma=2.0)
    loss.backward()
    for parameter, norm in golden["gradients"].items():
        found = discriminator.get_parameter(parameter).grad
        assert found is not None
        assert found.norm().item() == pytest.approx(norm, rel=1e-4), parameter


@pytest.mark.parametrize("name", VARIANTS)
def test_every_part_has_the_published_size(name: str) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(VARIANTS[name][1])
    counts = {
        part: parameters(discriminator.get_submodule(part) if part else discriminator)
        for part in FULL_COUNTS[name]
    }
    assert counts == FULL_COUNTS[name]
    if name == "stylegan_v":
        state = discriminator.state_dict()
        assert {key: tuple(state[key].shape) for key in FULL_SHAPES} == FULL_SHAPES
    # Nothing but parameters is saved: filters and frequencies are constants.
    assert state_names(discriminator) == {key for key, _ in discriminator.named_parameters()}


def state_names(network: nn.Module) -> set[str]:
    return set(network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_at_full_size_are_those_of_the_reference(name: str, fill) -> None:
    discriminator = fill(Discriminator(VARIANTS[name][1]))
    times = torch.stack([torch.arange(16.0), torch.arange(16.0) * 2 + 0.5])
    with torch.no_grad():
        logits = discriminator(pixels(3, 2, 16, 3, 128, 128), times)
    close(logits, FULL_LOGITS[name], rtol=2e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_only_gaps_of_time_are_seen(name: str, videos: Tensor, times: Tensor) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(VARIANTS[name][0])
    with torch.no_grad():
        logits = discriminator(videos, times)
        later = discriminator(videos, times + 1000)
        wider = discriminator(videos, 2 * times)
    torch.testing.assert_close(later, logits, rtol=1e-4, atol=1e-5)
    assert ((wider - logits).abs() > 1e-3).all()


def test_the_order_of_frames_matters(videos: Tensor, times: Tensor) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(MINI)
    with torch.no_grad():
        change = discriminator(videos.flip(1), times) - discriminator(videos, times)
    assert (change.abs() > 1e-3).all()


def test_differences_sum_to_zero_and_vanish_without_motion(videos: Tensor) -> None:
    differences = frame_differences(videos.double())
    torch.testing.assert_close(differences[:, 0], (videos[:, 0] - videos[:, 1]).double())
    torch.testing.assert_close(differences[:, 3], (videos[:, 3] - videos[:, 0]).double())
    assert differences.sum(1).abs().max() < 1e-12
    assert not frame_differences(videos[:, :1].expand(-1, 4, -1, -1, -1)).any()


def test_frames_come_before_their_differences(videos: Tensor, times: Tensor) -> None:
    """The maps of differences fill the second half of the joined channels."""
    torch.manual_seed(0)
    discriminator = Discriminator(VARIANTS["mostgan_v"][0])
    static = videos[:, :1].expand(-1, 4, -1, -1, -1)
    joined: list[Tensor] = []
    discriminator.get_submodule("b16").register_forward_pre_hook(
        lambda module, given: joined.append(given[0])
    )
    with torch.no_grad():
        discriminator(static, times)
    frames, differences = joined[0].chunk(2, dim=1)
    assert frames.abs().max() > 0.1
    assert differences.abs().max() < 1e-6  # without biases, black frames give black maps


@pytest.mark.parametrize(("batch", "group", "groups"), [(8, 4, 2), (6, 3, 2), (4, 4, 1), (2, 4, 1)])
def test_the_deviation_is_one_number_for_a_group(batch: int, group: int, groups: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(batch, 5, 4, 4).double()
    output = deviation_map(maps, group)
    assert output.shape == (batch, 1, 4, 4)
    assert (output == output[:, :, :1, :1]).all()
    for first in range(groups):
        members = maps[first::groups]  # those of a group are `groups` apart
        squares = members.square().mean(0) - members.mean(0).square()
        expected = (squares + 1e-8).sqrt().mean()
        torch.testing.assert_close(output[first::groups, 0, 0, 0], expected.expand(len(members)))


def test_equal_clips_deviate_by_next_to_nothing_and_can_be_differentiated() -> None:
    maps = torch.ones(4, 5, 4, 4, requires_grad=True)
    output = deviation_map(maps, 4)
    assert output.max().item() == pytest.approx(1e-4, rel=1e-3)
    output.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_a_batch_that_cannot_be_grouped_names_the_setting(videos: Tensor, times: Tensor) -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size: 6 clips .* choose a multiple of 4"):
        Discriminator(MINI)(videos.repeat(2, 1, 1, 1, 1)[:6], times.repeat(2, 1)[:6])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 96}, "resolution must be a power of 2, at least 8; it is 96"),
        ({"joined_at": 4}, "joined_at must be a power of 2, at least 8; it is 4"),
        ({"joined_at": 32}, "frames of 32 pixels cannot be joined at 32 pixels"),
        ({"frames": 1}, r"clip\.frames must be at least 2"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MINI, **given)


def test_frames_can_be_joined_later(videos: Tensor, times: Tensor) -> None:
    discriminator = Discriminator(replace(MINI, joined_at=8))
    assert discriminator(videos, times).shape == (4,)


class Darken(nn.Module):
    def forward(self, videos: Tensor) -> Tensor:
        return videos / 2


def test_clips_are_augmented_in_training_alone(videos: Tensor, times: Tensor) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(MINI, Darken())
    with torch.no_grad():
        seen = discriminator(videos, times)
        discriminator.eval()
        torch.testing.assert_close(discriminator(videos / 2, times), seen)
        assert (discriminator(videos, times) - seen).abs().max() > 1e-3


def test_augmentation_leaves_the_names_of_weights_alone() -> None:
    with torch.device("meta"):
        plain, augmented = Discriminator(MINI), Discriminator(MINI, Augmentation())
    added = state_names(augmented) - state_names(plain)
    assert state_names(plain) < state_names(augmented)
    assert {name.split(".")[0] for name in added} == {"augmentation"}
    assert "augmentation.strength" in added


@pytest.mark.parametrize("name", VARIANTS)
def test_in_bfloat16_small_maps_and_the_end_stay_float32(
    name: str, fill, videos: Tensor, times: Tensor
) -> None:
    discriminator = fill(Discriminator(VARIANTS[name][0]))
    kinds: dict[str, torch.dtype] = {}
    for part in ("b32.conv0", "b16.conv1", "b8.conv0", "b8.conv1", "b4.conv", "b4.fc", "mapping"):
        discriminator.get_submodule(part).register_forward_hook(
            lambda module, given, output, part=part: kinds.update({part: output.dtype})
        )
    exact, _ = logits_and_gradient(discriminator, videos, times)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, gradient = logits_and_gradient(discriminator, videos, times)
    half = {part for part, kind in kinds.items() if kind == torch.bfloat16}
    assert half == {"b32.conv0", "b16.conv1"}
    assert rounded.dtype == gradient.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


def logits_and_gradient(
    discriminator: nn.Module, videos: Tensor, times: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits, and how the R1 loss depends on the first weights."""
    discriminator.zero_grad()
    loss, logits = r1_loss(discriminator, videos, times, gamma=2.0)
    loss.backward()
    gradient = discriminator.get_parameter("b32.conv0.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()
    return logits, gradient


def test_the_epilogue_is_a_projection_on_the_conditions() -> None:
    torch.manual_seed(0)
    epilogue = Epilogue(MINI)
    maps, conditions = torch.randn(4, 64, 4, 4), torch.randn(4, 64)
    logits = epilogue(maps, conditions)
    torch.testing.assert_close(epilogue(maps, 3 * conditions), 3 * logits)
    torch.testing.assert_close(epilogue(maps, 0 * conditions), 0 * logits)


TINY = DiscriminatorSizes(
    resolution=16,
    frames=2,
    channel_base=64,
    channel_max=4,
    joined_at=8,
    hidden=4,
    conditioning_width=4,
    longest_video=8,
)


def phases(discriminator: Discriminator, videos: Tensor, times: Tensor) -> list[Tensor]:
    """Losses and gradients of a step of each kind, in the order of training."""
    found = []
    torch.manual_seed(1)  # of the augmentation
    discriminator.requires_grad_(False)
    given = videos.clone().requires_grad_()
    loss = generator_loss(discriminator(given, times))
    found += [loss.detach(), *torch.autograd.grad(loss, given)]
    discriminator.requires_grad_(True)
    loss = discriminator_loss(discriminator(videos.flip(0), times), discriminator(videos, times))
    found += [loss.detach(), *torch.autograd.grad(loss, list(discriminator.parameters()))]
    loss, logits = r1_loss(discriminator, videos, times, gamma=10.0)
    found += [loss.detach(), logits, *torch.autograd.grad(loss, list(discriminator.parameters()))]
    return found


# Of the compiler's own look at its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_it_trains_compiled_with_the_penalty_in_eager_mode() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY, Augmentation())
    assert isinstance(discriminator.augmentation, Augmentation)
    discriminator.augmentation.strength.fill_(1.0)
    videos, times = torch.randn(2, 2, 3, 16, 16), torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    plain = phases(discriminator, videos, times)
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, given: list[Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, given)

    torch._dynamo.reset()
    compile_regions(discriminator, counting)
    for _ in range(2):
        compiled = phases(discriminator, videos, times)
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 2  # weights frozen and not; none of the penalty, none of the second step
