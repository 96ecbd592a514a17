"""Stage 1 of LVDM: what its losses are made of, when the discriminator acts, and its settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.load import load_run
from configs.schema import TrainConfig
from configs.shapes import VideoShape
from models.backbones.video_autoencoder import VideoAutoencoder, kl_divergence
from models.interface import Batch, VideoNoise
from models.methods.lvdm_autoencoder import (
    DiscriminatorConfig,
    LvdmAutoencoder,
    LvdmAutoencoderConfig,
    balance,
    hinge_loss,
    psnr,
)
from models.priors.perceptual import PerceptualConfig
from models.registry import build_method, method_config
from tools.training.compiling import compile_regions

CLIP = VideoShape(4, 3, 24, 24)
ROOT = Path(__file__).resolve().parents[3]


def method(start: int = 0, **settings: Any) -> LvdmAutoencoder:
    """Small, pixels alone, the discriminator from step `start` on."""
    config = LvdmAutoencoderConfig(
        width=2,
        groups=2,
        perceptual=PerceptualConfig(name="none"),
        discriminator=DiscriminatorConfig(start=start, width=4),
    )
    for name, value in settings.items():
        setattr(config, name, value)
    return LvdmAutoencoder(config, CLIP)


def networks(built: LvdmAutoencoder) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: network.train() for name, network in built.build_networks().items()}


def batch(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(*CLIP.batch(count), generator=generator) * 2 - 1)


class MeanDistance(nn.Module):
    """Takes the place of LPIPS: the absolute difference of mean brightness, (N,)."""

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return (images - targets).mean((1, 2, 3)).abs()


def test_the_discriminator_acts_from_its_start_on() -> None:
    built = method(start=50_001)
    for step in (0, 50_000):
        assert [phase.network for phase in built.phases(step)] == ["autoencoder"]
    for step in (50_001, 10**7):
        names = [phase.network for phase in built.phases(step)]
        assert names == ["autoencoder", "discriminator"]
    never = method(discriminator=DiscriminatorConfig(weight=0, start=0))
    assert [phase.network for phase in never.phases(10**7)] == ["autoencoder"]


def test_the_loss_is_pixels_of_a_frame_times_mean_error_plus_mean_distance() -> None:
    built = method()
    built.perceptual = MeanDistance()  # type: ignore[assignment]
    built.config.perceptual = PerceptualConfig(weight=2.0)
    nets, data = networks(built), batch()
    torch.manual_seed(1)
    loss = built.reconstruction_loss(nets, data)
    torch.manual_seed(1)
    output, moments = nets["autoencoder"](data.videos.transpose(1, 2))
    frames = output.transpose(1, 2)
    error = (frames - data.videos).abs().mean()
    distances = [
        (frames[b, f] - data.videos[b, f]).mean().abs() for b in range(2) for f in range(4)
    ]
    distance = torch.stack(distances).mean()
    torch.testing.assert_close(loss.total, 3 * 24 * 24 * (error + 2 * distance))
    torch.testing.assert_close(loss.parts["l1"], error.detach())
    torch.testing.assert_close(loss.parts["perceptual"], distance.detach())
    torch.testing.assert_close(loss.parts["kl"], kl_divergence(moments).mean().detach())


def test_the_factor_at_128_pixels_is_that_of_the_paper() -> None:
    built = method()
    built.shape = VideoShape(4, 3, 128, 128)
    data = Batch(torch.zeros(1, 4, 3, 128, 128))
    loss = built.reconstruction_loss(networks(built), data)
    torch.testing.assert_close(loss.total.detach(), 49_152 * loss.parts["l1"])


def test_the_divergence_counts_by_its_weight_alone() -> None:
    losses = []
    for weight in (0.0, 0.5):
        built = method(kl_weight=weight)
        nets = networks(built)
        torch.manual_seed(1)
        losses.append(built.reconstruction_loss(nets, batch()))
    extra = losses[1].total - losses[0].total
    torch.testing.assert_close(extra.detach(), 0.5 * losses[1].parts["kl"], rtol=1e-3, atol=1e-3)


def test_the_adversarial_loss_adds_balanced_logits() -> None:
    built = method()
    nets, data = networks(built), batch()
    torch.manual_seed(1)
    plain = built.reconstruction_loss(nets, data)
    torch.manual_seed(1)
    loss = built.adversarial_reconstruction_loss(nets, data)
    added = loss.parts["balance"] * loss.parts["adversarial"]
    torch.testing.assert_close(loss.total.detach(), plain.total.detach() + added)

    torch.manual_seed(1)
    output, _ = nets["autoencoder"](data.videos.transpose(1, 2))
    frames = output.transpose(1, 2).flatten(0, 1)
    pretended = -nets["discriminator"](frames).mean()
    error = 3 * 24 * 24 * (frames - data.videos.flatten(0, 1)).abs().mean()
    network = nets["autoencoder"]
    assert isinstance(network, VideoAutoencoder)
    kernel = network.decoder.conv_out.conv.weight
    norms = [
        torch.autograd.grad(v, kernel, retain_graph=True)[0].norm() for v in (error, pretended)
    ]
    expected = 0.5 * norms[0] / (norms[1] + 1e-4)
    torch.testing.assert_close(loss.parts["balance"], expected)
    torch.testing.assert_close(loss.parts["adversarial"], pretended.detach())

    parameters = list(network.parameters())
    found = torch.autograd.grad(loss.total, parameters)
    summed = torch.autograd.grad(error + expected.detach() * pretended, parameters)
    for one, other in zip(found, summed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_the_balance_is_a_ratio_of_gradients_with_a_limit() -> None:
    weight = torch.ones(4, requires_grad=True)
    output = 2 * weight
    ones, nothing = torch.ones(4), torch.zeros(4)
    assert float(balance(output, 6 * ones, 2 * ones, weight)) == pytest.approx(3, rel=1e-3)
    assert float(balance(output, ones, nothing, weight)) == 1e4
    assert float(balance(output, nothing, ones, weight)) == 0
    assert not balance(output, ones, ones, weight).requires_grad


@pytest.mark.slow
def test_compiled_networks_have_the_same_losses_and_gradients() -> None:
    """The losses ask for parts of the gradients, which compiled code gives but once."""
    built = method(kl_weight=0.1)
    results: list[list[Tensor]] = []
    for compiled in (False, True):
        nets = networks(built)
        if compiled:
            for network in nets.values():
                compile_regions(network, backend="aot_eager")
        values = []
        for phase in built.phases(0):
            for name, network in nets.items():
                network.requires_grad_(name == phase.network)
            torch.manual_seed(1)
            total = phase.loss(nets, batch()).total
            values += [total, *torch.autograd.grad(total, list(nets[phase.network].parameters()))]
        results.append([value.detach() for value in values])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_the_hinge_loss() -> None:
    zero = torch.zeros(3, 1, 2, 2)
    assert float(hinge_loss(zero, zero)) == 1
    assert float(hinge_loss(zero + 5, zero - 5)) == 0
    assert float(hinge_loss(zero - 1, zero - 5)) == 1
    assert float(hinge_loss(zero + 5, zero + 2)) == 1.5


def test_the_discriminator_learns_from_the_moved_autoencoder_and_moves_it_not() -> None:
    built = method()
    nets, data = networks(built), batch()
    calls: list[Tensor] = []
    nets["discriminator"].register_forward_pre_hook(lambda _m, inputs: calls.append(inputs[0]))
    torch.manual_seed(1)
    loss = built.discriminator_loss(nets, data)
    torch.manual_seed(1)
    output, _ = nets["autoencoder"](data.videos.transpose(1, 2))
    real, fake = calls
    assert torch.equal(real, data.videos.flatten(0, 1))
    torch.testing.assert_close(fake, output.transpose(1, 2).flatten(0, 1))
    loss.total.backward()
    assert all(p.grad is None for p in nets["autoencoder"].parameters())
    assert all(p.grad is not None for p in nets["discriminator"].parameters())


def test_the_recipe_separates_real_from_reconstructed_frames() -> None:
    built = method()
    nets, data = networks(built), batch()
    settings = TrainConfig(learning_rate=2e-3, betas=(0.5, 0.9))
    optimizer = built.build_optimizer(nets["discriminator"], settings)
    for step in range(25):
        torch.manual_seed(step)
        loss = built.discriminator_loss(nets, data)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert float(loss.total.detach()) < 0.5
    assert loss.parts["logit_real"] > loss.parts["logit_fake"]


def test_optimizers_are_adam_without_decay(caplog: pytest.LogCaptureFixture) -> None:
    built = method()
    settings = TrainConfig(learning_rate=3.6e-5, betas=(0.5, 0.9), weight_decay=0.3)
    for network in networks(built).values():
        optimizer = built.build_optimizer(network, settings)
        assert type(optimizer) is torch.optim.Adam
        group = optimizer.param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (3.6e-5, (0.5, 0.9), 0)
    assert not caplog.text


@pytest.mark.parametrize(("steps", "warned"), [(100, True), (101, False)])
def test_a_start_that_no_step_reaches_is_warned_of_once(
    steps: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    built = method(start=100)
    with caplog.at_level(logging.WARNING):
        for network in networks(built).values():
            built.build_optimizer(network, TrainConfig(steps=steps))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    if warned:
        assert "train.steps=100" in caplog.text


def test_psnr_of_known_errors() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert float(psnr(images + 0.2, images)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(images + 7, images + 1)) == float("inf")  # beyond the range is clamped


def test_previews_show_clips_above_their_reconstructions() -> None:
    built = method()
    nets = {name: network.eval() for name, network in networks(built).items()}
    noise = VideoNoise([0, 1, 2, 3], "cpu")
    with torch.no_grad():
        assert built.preview(nets, noise).shape == CLIP.batch(4)  # nothing to show yet: samples
        data = batch(3)
        built.reconstruction_loss(nets, data)
        built.reconstruction_loss(nets, Batch(torch.zeros(CLIP.batch(3))))  # the first ones stay
        rows = built.preview(nets, noise)
        assert rows.shape == CLIP.batch(4)
        assert torch.equal(rows[0::2], data.videos[:2])
        network = nets["autoencoder"]
        assert isinstance(network, VideoAutoencoder)
        mean = network.encode(data.videos[1:2].transpose(1, 2))[:, :4]
        decoded = network.decode(mean).transpose(1, 2).clamp(-1, 1)
    torch.testing.assert_close(rows[3:], decoded, rtol=1e-4, atol=1e-5)


def test_sampling_builds_neither_discriminator_nor_perceptual_distance() -> None:
    config = LvdmAutoencoderConfig(width=2, groups=2)  # LPIPS, whose weights are not here
    built = LvdmAutoencoder(config, CLIP, training=False)
    assert set(built.build_networks()) == set(LvdmAutoencoder.sampled) == {"autoencoder"}
    assert built.frozen_networks() == {}


def test_other_lengths_are_not_sampled() -> None:
    built = method()
    with pytest.raises(ValueError, match="4 frames alone"):
        built.sample(networks(built), VideoNoise([0], "cpu"), built.Sampling(), frames=8)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (VideoShape(6, 3, 24, 24), "6 frames .* multiple of 4"),
        (VideoShape(4, 3, 20, 20), "20x20 frame .* multiple of 8"),
    ],
)
def test_clips_that_do_not_divide_are_refused_at_once(shape: VideoShape, words: str) -> None:
    config = LvdmAutoencoderConfig(perceptual=PerceptualConfig(name="none"))
    with pytest.raises(ValueError, match=words):
        LvdmAutoencoder(config, shape)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("method.width=3", "twice method.width"),
        ("method.channels=0", "method.channels"),
        ("method.kl_weight=-1", "method.kl_weight"),
        ("method.factors=[4,6,8]", "method.factors"),
        ("method.discriminator.weight=-1", "discriminator.weight"),
        ("method.discriminator.width=0", "discriminator.width"),
        ("method.perceptual.weight=-1", "perceptual.weight"),
        ("method.perceptual.name=vgg", "perceptual.name"),
    ],
)
def test_wrong_settings_are_one_line(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_run(ROOT / "configs" / "demo" / "lvdm_autoencoder.yaml", [key], method_config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["col", "kva", "cho"])
def test_the_recipes_are_the_published_one(name: str) -> None:
    config = load_run(ROOT / "configs" / name / "lvdm_autoencoder.yaml", [], method_config)
    settings, train = config.method, config.train
    assert isinstance(settings, LvdmAutoencoderConfig)
    assert (config.clip.frames, config.clip.size, config.clip.frame_interval) == (16, 128, 1)
    assert (settings.width, settings.factors, settings.channels) == (32, [4, 8, 8], 4)
    assert (settings.kl_weight, settings.perceptual.weight) == (0, 1)
    assert settings.perceptual.name == "lpips"
    assert (settings.discriminator.weight, settings.discriminator.start) == (0.5, 50_001)
    assert (train.batch_size, train.accumulation, train.learning_rate) == (1, 2, 3.6e-5)
    assert (list(train.betas), train.clip_norm, train.ema_decays) == ([0.5, 0.9], 0, [0])
    assert config.data.images_per_clip == 0
    assert not config.data.flip
    config.method.perceptual.name = "none"
    with torch.device("meta"):
        nets = build_method(config).build_networks()
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert sizes == {"autoencoder": 19_446_759, "discriminator": 2_765_633}


@torch.no_grad()
def test_the_first_log_variance_can_be_lower() -> None:
    data = batch(1).videos.transpose(1, 2)
    moments = []
    for amount in (0.0, -6.0):
        network = networks(method(initial_log_variance=amount))["autoencoder"]
        assert isinstance(network, VideoAutoencoder)
        moments.append(network.encode(data).chunk(2, dim=1))
    torch.testing.assert_close(moments[1][0], moments[0][0])
    torch.testing.assert_close(moments[1][1], moments[0][1] - 6)
