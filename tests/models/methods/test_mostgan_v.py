"""MoStGAN-V as a method: what it adds to StyleGAN-V, whose tests hold for it too."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

import train
from configs.errors import run_command
from configs.shapes import FrameTimes, VideoShape
from models.backbones.stylegan.discriminator import Discriminator
from models.backbones.stylegan.generator import Generator
from models.interface import Batch, VideoNoise
from models.methods.mostgan_v import MoStGANV, MoStGANVConfig, MotionStylesConfig
from models.methods.stylegan_v import (
    AugmentationConfig,
    DiscriminatorConfig,
    MotionConfig,
    StyleGANVSampling,
)

ROOT = Path(__file__).resolve().parents[3]
SHAPE = VideoShape(4, 3, 16, 16)
TIMES = FrameTimes(4, "random", longest_span=8, longest_video=20)


def build(*, training: bool = True, **changes: Any) -> MoStGANV:
    """A method whose networks take milliseconds."""
    motion = MotionConfig(width=8, kernel=3, anchor_distance=4, periods=4, longest_period=64)
    judge = DiscriminatorConfig(8, 2, 2, hidden=8, conditioning_width=8, frame_differences=True)
    styles = MotionStylesConfig(count=3, width=6, resolutions=[8, 16])
    given = {"motion": motion, "discriminator": judge, "motion_styles": styles, **changes}
    config = MoStGANVConfig(channel_base=128, channel_max=16, latent=8, **given)
    return MoStGANV(config, SHAPE, training=training, times=TIMES)


def make_batch() -> Batch:
    videos = torch.rand(SHAPE.batch(2), generator=torch.Generator().manual_seed(0)) * 2 - 1
    times = torch.tensor([[0.0, 1, 3, 4], [2, 3, 4, 10]])
    return Batch(videos, times=times, available=torch.tensor([20, 11]))


def train_mode(networks: dict[str, nn.Module], moving: str) -> None:
    for name, network in networks.items():
        network.train().requires_grad_(name == moving).zero_grad(set_to_none=True)


def test_its_networks_are_those_of_stylegan_v_with_motion_styles_and_differences() -> None:
    networks = build().build_networks()
    generator, discriminator = networks["generator"], networks["discriminator"]
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert any("hypernet" in name for name in generator.state_dict())
    assert discriminator.sizes.frame_differences
    settings = MoStGANVConfig()
    assert settings.motion_modulation == "released"
    assert settings.discriminator == DiscriminatorConfig(hidden=128, frame_differences=True)
    assert settings.diversity_weight == 0


@pytest.mark.parametrize("form", ["released", "paper", "demod"])
@pytest.mark.parametrize("transforms", ["bgc_noro", "none"])
def test_each_form_trains_with_and_without_augmentation(form: Any, transforms: Any) -> None:
    torch.manual_seed(0)
    method = build(motion_modulation=form, augmentation=AugmentationConfig(transforms))
    networks, batch = method.build_networks(), make_batch()
    if transforms == "bgc_noro":
        networks["discriminator"].get_buffer("augmentation.strength").fill_(0.5)
    for phase in method.phases(0):
        train_mode(networks, phase.network)
        loss = phase.loss(networks, batch)
        loss.total.backward()
        assert torch.isfinite(loss.total)
        for name, parameter in networks[phase.network].named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_the_forms_make_different_videos_from_the_same_weights() -> None:
    torch.manual_seed(0)
    weights = build(training=False).build_networks()["generator"].state_dict()
    videos = []
    for form in ("released", "paper", "demod"):
        method = build(training=False, motion_modulation=form)
        networks = method.build_networks()
        networks["generator"].load_state_dict(weights)
        networks["generator"].eval()
        with torch.no_grad():
            noise = VideoNoise([1], "cpu")
            videos.append(method.sample(networks, noise, StyleGANVSampling(), frames=5))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (videos[one] - videos[other]).abs().max() > 1e-4


def test_one_frame_at_a_time_gives_the_same_video() -> None:
    torch.manual_seed(0)
    method = build(training=False)
    networks = {name: network.eval() for name, network in method.build_networks().items()}
    with torch.no_grad():
        whole, single = (
            method.sample(
                networks, VideoNoise([1], "cpu"), StyleGANVSampling(frame_batch=some), frames=6
            )
            for some in (6, 1)
        )
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)


def test_the_diversity_term_is_added_to_the_generators_loss_where_it_has_weight() -> None:
    torch.manual_seed(0)
    plain, weighted = build(), build(diversity_weight=2.0)
    networks, batch = plain.build_networks(), make_batch()
    torch.manual_seed(1)
    without = plain.generator_loss(networks, batch)
    torch.manual_seed(1)
    loss = weighted.generator_loss(networks, batch)
    assert "likeness" not in without.parts
    assert 0 < loss.parts["likeness"] < 1
    torch.testing.assert_close(loss.total, without.total + 2 * loss.parts["likeness"])


MISTAKES = {
    "method.motion_modulation=fused": "method.motion_modulation",
    "method.motion_styles.resolutions=[64]": "resolutions: at least one up to clip.size",
    "method.motion_styles.resolutions=[12]": "resolutions: powers of two from 8 on, got 12",
    "method.motion_styles.count=0": "method.motion_styles.count: at least 1",
    "method.diversity_weight=-1": "method.diversity_weight: 0 or more",
    "clip.size=24": "clip.size: .*power of two from 16 on, got 24",
}


@pytest.mark.parametrize(("mistake", "line"), MISTAKES.items())
def test_mistakes_end_in_one_line(
    mistake: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "00000").mkdir()
    for index in range(20):
        Image.fromarray(numpy.zeros((32, 32, 3), numpy.uint8)).save(
            tmp_path / "00000" / f"{index:06d}.png"
        )
    given = [f"data.folder={tmp_path}", "data.layout=frames", "data.workers=0", "train.steps=1"]
    config = ["--config", str(ROOT / "configs/demo/mostgan_v.yaml"), f"output={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as stop:
        run_command(partial(train.main, [*config, *given, mistake]))
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(line, error), error
