"""The contract of every method: a new file in models/methods is tested by existing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs.load import load_run
from configs.schema import RunConfig
from models.interface import Batch, Loss, Method, Phase, VideoNoise
from models.registry import build_method, method_class, method_config, method_names

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo"

# What makes the demo of a method smaller, and free of files that it needs.
SMALLER = {
    "endora": [
        "method.codec={name: pixels, weights: null, stride: 8}",
        "method.prior.weights=untrained",
        "method.transformer.width=32",
        "method.transformer.heads=2",
    ],
    "lvdm_autoencoder": [
        "method.width=2",
        "method.groups=2",
        "method.discriminator={weight: 0.5, start: 0, width: 4, layers: 2}",
        "clip.frames=4",
        "clip.size=32",
    ],
    "lvdm": [
        "method.autoencoder=untrained",
        "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
        "clip.frames=8",
        "clip.size=32",
    ],
    "lvdm_long": [
        "method.autoencoder=untrained",
        "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
        "method.key_every=2",
        "clip.frames=32",
        "clip.size=32",
    ],
}


def settings(name: str) -> RunConfig:
    """The demo of a method, small."""
    return load_run(DEMO / f"{name}.yaml", SMALLER.get(name, []), method_config)


@pytest.fixture(params=method_names())
def config(request: pytest.FixtureRequest) -> RunConfig:
    return settings(request.param)


@pytest.fixture
def method(config: RunConfig) -> Method:
    torch.manual_seed(0)
    return build_method(config)


def make_batch(method: Method, config: RunConfig, count: int = 2) -> Batch:
    """Smooth random videos, with the extra images that the demo trains on."""
    generator = torch.Generator().manual_seed(0)
    frames = method.shape.frames + config.data.images_per_clip
    shape = method.shape.with_frames(frames).batch(count)
    pixels = torch.rand(shape, generator=generator) * 2 - 1
    videos, images = pixels.split([method.shape.frames, config.data.images_per_clip], dim=1)
    times = available = None
    if config.clip.spacing == "random":
        times = torch.arange(float(method.shape.frames)).expand(count, -1)
        available = torch.full((count,), 2 * method.shape.frames)
    images = images if images.shape[1] else None
    return Batch(videos, images, times=times, available=available)


def run(phase: Phase, networks: dict[str, nn.Module], batch: Batch) -> Loss:
    """The loss of a phase after its way backward, with only its network moving."""
    for name, network in networks.items():
        network.train().requires_grad_(name == phase.network).zero_grad(set_to_none=True)
    loss = phase.loss(networks, batch)
    loss.total.backward()
    return loss


def test_every_method_has_a_demo_and_no_demo_is_without_a_method() -> None:
    for name in method_names():
        assert settings(name).method_name == name
    for file in set(DEMO.glob("*.yaml")) - {DEMO / "sample.yaml"}:
        assert load_run(file, [], method_config).method_name in method_names()


def test_the_settings_are_a_class_of_the_method(config: RunConfig) -> None:
    assert type(config.method) is method_class(config.method_name).Config


@pytest.mark.parametrize("step", [0, 1, 10**9])
def test_each_phase_reaches_every_parameter_of_its_network(
    method: Method, config: RunConfig, step: int
) -> None:
    networks = method.build_networks()
    phases = method.phases(step)
    assert phases
    for phase in phases:
        run(phase, networks, make_batch(method, config))
        parameters = dict(networks[phase.network].named_parameters())
        unreached = [name for name, parameter in parameters.items() if parameter.grad is None]
        assert not unreached, f"{phase.network}: no gradient for {unreached}"


def test_losses_are_finite_scalars_with_detached_parts(method: Method, config: RunConfig) -> None:
    networks = method.build_networks()
    for phase in method.phases(0):
        loss = run(phase, networks, make_batch(method, config))
        assert loss.total.shape == ()
        assert loss.total.dtype == torch.float32
        for name, value in {"total": loss.total.detach(), **loss.parts}.items():
            assert value.shape == (), name
            assert not value.requires_grad, name
            assert torch.isfinite(value), name


def test_losses_are_finite_and_float32_under_bf16(method: Method, config: RunConfig) -> None:
    networks = method.build_networks()
    for phase in method.phases(0):
        with torch.autocast("cpu", torch.bfloat16):
            loss = phase.loss(networks, make_batch(method, config))
        assert loss.total.dtype == torch.float32
        assert torch.isfinite(loss.total)


def test_a_loss_is_a_function_of_weights_batch_and_seed(method: Method, config: RunConfig) -> None:
    networks = method.build_networks()
    for network in networks.values():
        network.eval()  # running statistics, where there are any, stay
    batch = make_batch(method, config)
    given = batch.videos.clone()
    for phase in method.phases(0):
        torch.manual_seed(3)
        first = phase.loss(networks, batch).total
        torch.manual_seed(3)
        assert torch.equal(phase.loss(networks, batch).total, first)
    assert torch.equal(batch.videos, given)


def test_training_lowers_the_loss(method: Method, config: RunConfig) -> None:
    """Ten steps on one batch with the same random numbers have to help."""
    torch.manual_seed(0)
    networks = method.build_networks()
    optimizers = {
        name: method.build_optimizer(network, config.train) for name, network in networks.items()
    }
    batch = make_batch(method, config)
    losses: list[float] = []
    for _ in range(10):
        torch.manual_seed(0)
        (phase, *_others) = method.phases(0)
        losses.append(float(run(phase, networks, batch).total.detach()))
        optimizers[phase.network].step()
    assert losses[-1] < losses[0]


def test_new_networks_come_from_the_seed_alone(config: RunConfig) -> None:
    states: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(5)
        networks = build_method(config).build_networks()
        states.append(
            {f"{n}/{k}": v for n, net in networks.items() for k, v in net.state_dict().items()}
        )
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_networks_are_float32_and_load_their_own_state_strictly(method: Method) -> None:
    for name, network in method.build_networks().items():
        state = network.state_dict()
        floating = {v.dtype for v in state.values() if v.is_floating_point()}
        assert floating <= {torch.float32}, name
        network.load_state_dict(state, strict=True)


def test_networks_can_be_built_without_memory(method: Method) -> None:
    with torch.device("meta"):
        networks = method.build_networks()
    assert {p.device.type for net in networks.values() for p in net.parameters()} == {"meta"}


def test_frozen_helpers_need_no_gradients(method: Method) -> None:
    for name, network in method.frozen_networks().items():
        assert not any(parameter.requires_grad for parameter in network.parameters()), name
        assert not network.training, name
        assert name not in method.build_networks()


def sample(
    method: Method,
    networks: dict[str, nn.Module],
    seeds: list[int],
    frames: int | None = None,
) -> Tensor:
    """Videos in few steps, where the sampler has steps."""
    choices = method.Sampling()
    if any(field.name == "steps" for field in dataclasses.fields(choices)):
        choices = dataclasses.replace(choices, steps=2)  # type: ignore[call-arg]
    calls: list[tuple[int, int]] = []
    with torch.no_grad():
        noise = VideoNoise(seeds, "cpu")
        videos = method.sample(networks, noise, choices, lambda *done: calls.append(done), frames)
    assert calls[-1][0] == calls[-1][1]  # progress ends at the end
    return videos


def test_samples_are_videos_that_belong_to_their_seeds(config: RunConfig) -> None:
    torch.manual_seed(0)
    trained = build_method(config)
    networks = {name: network.eval() for name, network in trained.build_networks().items()}
    method = build_method(config, training=False)
    videos = sample(method, networks, [4, 5])
    assert videos.shape == method.shape.batch(2)
    assert videos.dtype == torch.float32
    assert -1 <= videos.min() <= videos.max() <= 1
    torch.manual_seed(77)  # a sampler has no other randomness
    torch.testing.assert_close(sample(method, networks, [5]), videos[1:], rtol=1e-3, atol=1e-3)
    assert not torch.equal(videos[0], videos[1])


def test_networks_for_sampling_have_the_names_and_shapes_of_training(config: RunConfig) -> None:
    trained, sampling = (
        build_method(config, training=training).build_networks() for training in (True, False)
    )
    wanted = method_class(config.method_name).sampled or tuple(trained)
    assert sampling.keys() == set(wanted)
    for name, network in sampling.items():
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        assert shapes == {key: v.shape for key, v in trained[name].state_dict().items()}


def test_a_step_ends_with_scalars_and_the_same_everywhere(
    method: Method, config: RunConfig
) -> None:
    networks = method.build_networks()
    for phase in method.phases(0):
        run(phase, networks, make_batch(method, config))
    for step in range(4):
        for name, value in method.end_step(networks, step, 8).items():
            assert value.shape == (), name
            assert torch.isfinite(value), name


def test_longer_videos_are_made_or_refused_in_one_line(config: RunConfig) -> None:
    torch.manual_seed(0)
    method = build_method(config, training=False)
    networks = {name: network.eval() for name, network in method.build_networks().items()}
    wanted = 2 * method.shape.frames
    try:
        longer = sample(method, networks, [4], frames=wanted)
    except ValueError as error:
        assert str(error).startswith("frames: ")  # noqa: PT017
        return
    assert longer.shape == method.shape.with_frames(wanted).batch(1)
    assert -1 <= longer.min() <= longer.max() <= 1
