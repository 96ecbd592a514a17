"""StyleGAN-V as a method: its schedule, optimisers, augmentation strength and sampling."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import train
from configs.errors import run_command
from configs.load import load_run
from configs.schema import RunConfig, TrainConfig
from configs.shapes import FrameTimes, VideoShape
from models.backbones.stylegan.discriminator import Discriminator
from models.interface import Batch, VideoNoise
from models.layers.augmentation import Augmentation
from models.methods.stylegan_v import (
    AugmentationConfig,
    DiscriminatorConfig,
    MotionConfig,
    StyleGANV,
    StyleGANVConfig,
    StyleGANVSampling,
)
from models.registry import build_method, method_config

ROOT = Path(__file__).resolve().parents[3]
SHAPE = VideoShape(4, 3, 16, 16)
TIMES = FrameTimes(4, "random", longest_span=8, longest_video=20)


def tiny(**changes: Any) -> StyleGANVConfig:
    """Settings of networks that take milliseconds."""
    motion = MotionConfig(width=8, kernel=3, anchor_distance=4, periods=4, longest_period=64)
    judge = DiscriminatorConfig(joined_at=8, group=2, hidden=8, conditioning_width=8)
    given = {"motion": motion, "discriminator": judge, **changes}
    return StyleGANVConfig(channel_base=128, channel_max=16, latent=8, **given)


def build(**changes: Any) -> StyleGANV:
    return StyleGANV(tiny(**changes), SHAPE, times=TIMES)


def make_batch(count: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    videos = torch.rand(SHAPE.batch(count), generator=generator) * 2 - 1
    times = torch.tensor([[0.0, 1, 3, 4], [2, 3, 4, 10]]).repeat(count // 2, 1)
    return Batch(videos, times=times, available=torch.tensor([20, 11] * (count // 2)))


def names(method: StyleGANV, step: int) -> list[str]:
    return [phase.loss.__name__ for phase in method.phases(step)]


# ---------------------------------------------------------------- training


def test_generator_and_discriminator_take_turns_and_the_penalty_comes_every_16_steps() -> None:
    method = build()
    both = ["generator_loss", "discriminator_loss"]
    assert [step for step in range(40) if names(method, step) != both] == [0, 16, 32]
    assert names(method, 16) == [*both, "penalty_loss"]
    networks = [phase.network for phase in method.phases(0)]
    assert networks == ["generator", "discriminator", "discriminator"]


def run_config(data: str, method: str) -> RunConfig:
    return load_run(ROOT / "configs" / data / f"{method}.yaml", [], method_config)


# Learning rates and second betas of StyleGAN2's lazily regularised Adam at 0.0025, (0, 0.99),
# to seven digits.
OPTIMISERS = {
    "stylegan_v": {"generator": (0.002, 0.9919920), "discriminator": (0.00235294, 0.9905855)},
    "mostgan_v": {"generator": (0.00222222, 0.9911062), "discriminator": (0.00235294, 0.9905855)},
}
# Parameters, frames in all (millions), weight of the penalty, augmentation, longest video, mirrored
PUBLISHED = {
    "stylegan_v": (31_863_698, 44_091_264, 10.0, 0.2048, "bgc", 1024, True),
    "mostgan_v": (40_673_170, 61_519_360, 7.0, 10.0, "bgc_noro", 300, False),
}


@pytest.mark.parametrize("data", ["col", "kva", "cho"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_settings_are_those_of_the_published_runs(data: str, name: str) -> None:
    config = run_config(data, name)
    with torch.device("meta"):
        method = build_method(config)
        networks = method.build_networks()
    assert isinstance(method, StyleGANV)
    sizes = [sum(p.numel() for p in networks[n].parameters()) for n in OPTIMISERS[name]]
    train_settings = config.train
    clips = train_settings.batch_size * train_settings.accumulation
    frames = clips * config.clip.frames * train_settings.steps / 1e6
    found = (
        *sizes,
        pytest.approx(frames, rel=1e-4),
        method.config.penalty.weight,
        method.config.augmentation.transforms,
        method.times.longest_video,
        config.data.flip,
    )
    assert found == PUBLISHED[name]
    assert clips == {"stylegan_v": 16, "mostgan_v": 8}[name]
    # A half-life of 10 clips of 32 in a batch: 312.5 steps, whatever the batch.
    assert train_settings.ema_decays == [pytest.approx(0.5 ** (1 / 312.5), abs=1e-7)]
    assert train_settings.ema_rampup == 0.05
    assert train_settings.clip_norm == 0
    for network, (rate, beta) in OPTIMISERS[name].items():
        (group,) = method.build_optimizer(networks[network], train_settings).param_groups
        assert group["lr"] == pytest.approx(rate, abs=5e-9)
        assert group["betas"] == (0.0, pytest.approx(beta, abs=5e-8))
        assert (group["eps"], group["weight_decay"]) == (1e-8, 0)
    assert len({run_config(each, name).output for each in ("col", "kva", "cho", "demo")}) == 4


def test_the_penalty_counts_for_the_steps_without_it() -> None:
    method = build(augmentation=AugmentationConfig("none"))
    networks, batch = method.build_networks(), make_batch()
    loss = method.penalty_loss(networks, batch)
    videos = batch.videos.clone().requires_grad_()
    assert batch.times is not None
    logits = networks["discriminator"](videos, batch.times)
    (gradient,) = torch.autograd.grad(logits.sum(), videos)
    per_frame = gradient.square().sum(dim=(2, 3, 4))
    expected = 0.2048 / 2 * per_frame.mean()
    torch.testing.assert_close(loss.parts["r1"], expected)
    torch.testing.assert_close(loss.total.detach(), 16 * expected)


def test_the_mean_style_follows_in_both_phases_of_training_alone() -> None:
    method = build()
    networks, batch = method.build_networks(), make_batch()
    mean = networks["generator"].get_submodule("mapping").w_avg
    for phase in method.phases(1):
        before = mean.clone()
        networks["generator"].train()
        phase.loss(networks, batch)
        assert not torch.equal(mean, before)
        networks["generator"].eval()
        before = mean.clone()
        phase.loss(networks, batch)
        assert torch.equal(mean, before)


@pytest.mark.parametrize("rounds", [1, 4])
def test_the_mean_style_moves_as_far_in_several_rounds_as_in_one(rounds: int) -> None:
    method = build()
    networks, batch = method.build_networks(), make_batch()
    generator = networks["generator"]
    method.build_optimizer(generator, TrainConfig(batch_size=2, accumulation=rounds))
    mean = generator.get_submodule("mapping").w_avg
    mean.fill_(1e6)  # beside which new styles are nothing
    for _ in range(rounds):
        method.generator_loss(networks, batch)
    torch.testing.assert_close(mean / 1e6, torch.full_like(mean, 0.995), rtol=0, atol=2e-6)


def test_the_penalty_is_logged_apart_from_the_loss_of_its_network() -> None:
    titles = [phase.title for phase in build().phases(0)]
    assert titles == ["generator", "discriminator", "penalty"]


def test_generated_clips_have_the_time_patterns_of_real_ones() -> None:
    method = build()
    batch = Batch(make_batch().videos, available=torch.tensor([20, 11]))
    drawn = torch.cat([method.draw_inputs(batch)[1] for _ in range(200)])
    spans = drawn[:, -1] - drawn[:, 0]
    assert set(spans.tolist()) == {4.0, 8.0}
    gaps = drawn.diff(dim=1)
    assert torch.equal(gaps, gaps.round())
    assert drawn[:, 0].frac().std() > 0.2  # they begin between frames
    assert 10 < drawn.max() < 19
    short = drawn[:, -1] < 10
    assert 0.5 < short.float().mean() < 0.9  # either video's length, at times


# ---------------------------------------------------------------- strength of augmentation


def signs(networks: dict[str, nn.Module], real: float) -> Augmentation:
    discriminator = networks["discriminator"]
    assert isinstance(discriminator, Discriminator)
    assert isinstance(discriminator.augmentation, Augmentation)
    discriminator.augmentation.record(torch.full((4,), real))
    return discriminator.augmentation


def test_the_strength_moves_every_four_steps_by_the_clips_seen() -> None:
    method = build(augmentation=AugmentationConfig(speed=100_000))
    networks = method.build_networks()
    strengths = []
    for step in range(12):
        augmentation = signs(networks, 1.0)
        logged = method.end_step(networks, step, clips=16)
        assert logged["sign_real"] == 1
        strengths.append(float(augmentation.strength))
        torch.testing.assert_close(logged["augmentation"], augmentation.strength)
    # The step of the published runs: 16 clips x 4 / 100,000.
    expected = [0, 0, 0, *[6.4e-4] * 4, *[1.28e-3] * 4, 1.92e-3]
    assert strengths == pytest.approx(expected, rel=1e-6)
    assert AugmentationConfig().speed == 500_000


@pytest.mark.parametrize(("real", "limit"), [(1.0, 1.0), (-1.0, 0.0)])
def test_the_strength_stays_a_probability(real: float, limit: float) -> None:
    method = build(augmentation=AugmentationConfig(every=1, speed=10))
    networks = method.build_networks()
    signs(networks, real).strength.fill_(0.5)
    for step in range(3):
        augmentation = signs(networks, real)
        method.end_step(networks, step, clips=4)
    assert float(augmentation.strength) == limit


def test_signs_are_those_of_real_clips_in_both_phases_of_the_discriminator() -> None:
    method = build()
    networks, batch = method.build_networks(), make_batch()
    augmentation = signs(networks, 1.0)
    assert augmentation.sign_count == 4
    counts = []
    for phase in method.phases(0):
        phase.loss(networks, batch)
        counts.append(int(augmentation.sign_count) - 4)
    assert counts == [0, 2, 4]


def test_without_augmentation_it_trains_too() -> None:
    method = build(augmentation=AugmentationConfig("none"))
    networks, batch = method.build_networks(), make_batch()
    for phase in method.phases(0):
        assert torch.isfinite(phase.loss(networks, batch).total)
    assert method.end_step(networks, 3, clips=4) == {}


# ---------------------------------------------------------------- sampling


@pytest.fixture(scope="module")
def trained() -> tuple[StyleGANV, dict[str, nn.Module]]:
    """A generator whose pixels stay within [-1, 1], so that no clipping hides a difference."""
    torch.manual_seed(0)
    method = StyleGANV(tiny(), SHAPE, training=False, times=TIMES)
    networks = method.build_networks()
    with torch.no_grad():
        for name, parameter in networks["generator"].named_parameters():
            if "torgb.weight" in name:
                parameter.mul_(0.1)
        networks["generator"].get_submodule("mapping").w_avg.normal_()
    return method, {name: network.eval() for name, network in networks.items()}


def sample(
    trained: tuple[StyleGANV, dict[str, nn.Module]],
    seeds: list[int],
    frames: int | None = None,
    **choices: Any,
) -> Tensor:
    method, networks = trained
    with torch.no_grad():
        videos = method.sample(
            networks, VideoNoise(seeds, "cpu"), StyleGANVSampling(**choices), None, frames
        )
    assert videos.abs().max() < 1
    return videos


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


def test_a_longer_video_begins_like_a_shorter_one(trained: Any) -> None:
    short, long = sample(trained, [3, 4]), sample(trained, [3, 4], frames=41)
    assert long.shape == (2, 41, 3, 16, 16)
    close(long[:, :4], short)
    assert differ(long[:, 36:40], short)


def test_slow_motion_shows_the_same_and_what_lies_between(trained: Any) -> None:
    normal, slow = sample(trained, [3]), sample(trained, [3], frames=7, time_step=0.5)
    close(slow[:, ::2], normal)
    between = (slow[:, 1] - slow[:, 0]).norm() + (slow[:, 2] - slow[:, 1]).norm()
    assert between < 3 * (slow[:, 2] - slow[:, 0]).norm()
    later = sample(trained, [3], frames=2, time_offset=2)
    close(later, normal[:, 2:])
    # A last time that float32 rounds up to the next anchor.
    assert sample(trained, [3], 2, time_offset=4, time_step=3.9999999999).isfinite().all()


@pytest.mark.parametrize("some", [1, 3, 64])
def test_frames_made_a_few_at_a_time_are_the_same(trained: Any, some: int) -> None:
    close(sample(trained, [1, 2], 10, frame_batch=some), sample(trained, [1, 2], 10))


def test_one_content_in_many_motions(trained: Any) -> None:
    usual = sample(trained, [5, 6], 12)
    fixed = sample(trained, [5, 6, 7], 12, content_seed=5)
    close(fixed[0], usual[0])  # the content is that of seed 5, the motion each video's own
    assert differ(fixed[1], usual[1])
    assert differ(fixed[1], fixed[0])
    # Without motion in the picture's style, all that differs is what the motion adds.
    same = sample(trained, [5, 6], 12, content_seed=5, motion_seed=5)
    close(same[1], usual[0])


def test_one_motion_in_many_contents(trained: Any) -> None:
    usual = sample(trained, [5, 6], 12)
    fixed = sample(trained, [5, 6], 12, motion_seed=5)
    close(fixed[0], usual[0])
    assert differ(fixed[1], usual[1])
    close(sample(trained, [6], 12, motion_seed=6), usual[1:])


def test_truncation_draws_contents_together(trained: Any) -> None:
    def spread(truncation: float) -> float:
        videos = sample(trained, [1, 2, 3], motion_seed=1, truncation=truncation)
        return float(videos.std(0).mean())

    assert spread(0.0) < 1e-6
    assert spread(0.0) < spread(0.5) < spread(1.0)


def test_a_method_for_sampling_has_the_generator_alone(trained: Any) -> None:
    assert list(trained[1]) == ["generator"] == list(StyleGANV.sampled)


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 24 frames of noise, one folder each."""
    folder = tmp_path_factory.mktemp("frames")
    generator = numpy.random.default_rng(0)
    for video in range(4):
        (folder / f"{video:05d}").mkdir()
        for index in range(24):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{video:05d}" / f"{index:06d}.png")
    return folder


MISTAKES = {
    "clip.size=48": "clip.size: .*power of two from 16 on, got 48",
    "clip.size=8": "clip.size: .*power of two from 16 on, got 8",
    "clip.spacing=even": "clip.spacing: .*set clip.spacing=random",
    "clip.longest_span=5": "clip.longest_span: .*8 frames span at least 7",
    "clip.frames=30 clip.longest_span=32": "none of its 4 videos has the 30 frames of a clip",
    "train.batch_size=6": "train.batch_size: .*groups of 4.*got 6",
    "method.discriminator.joined_at=32": "joined_at: a power of two from 8 to half of clip.size",
    "method.augmentation.transforms=bcg": "method.augmentation.transforms",
    "method.augmentation.speed=0": "method.augmentation.speed: at least 1",
    "method.penalty.every=0": "method.penalty.every: at least 1",
    "method.motion.shortest_period=0": "method.motion.shortest_period: above 0",
    "method.motions.width=8": "did you mean method.motion",
    "data.images_per_clip=2": "data.images_per_clip: .*set data.images_per_clip=0",
    "data.cache=nowhere": "data.cache: .*works on pixels",
    "train.sharding=full": "train.sharding: .*trains generator, discriminator; set none",
    "method.channel_base=16": "method.channel_base: at least clip.size .32., .*got 16",
    "method.channel_max=1": "method.discriminator.joined_divisor: at most the 1 channels",
}


@pytest.mark.parametrize(("mistake", "line"), MISTAKES.items())
def test_mistakes_end_in_one_line(
    mistake: str, line: str, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"data.folder={frames}", "data.layout=frames", "data.workers=0", "train.steps=1"]
    config = ["--config", str(ROOT / "configs/demo/stylegan_v.yaml"), f"output={tmp_path}"]
    with pytest.raises(SystemExit) as stop:
        run_command(partial(train.main, [*config, *given, *mistake.split()]))
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(line, error), error


@pytest.mark.parametrize(
    ("choices", "line"),
    [
        ({"truncation": 3.0}, "sampling.truncation: from 0 to 2"),
        ({"time_offset": -1.0}, "sampling.time_offset: 0 or later"),
        ({"time_step": 0.0}, "sampling.time_step: above 0"),
        ({"frame_batch": 0}, "sampling.frame_batch: at least 1"),
    ],
)
def test_impossible_choices_when_sampling_are_refused(choices: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        StyleGANVSampling(**choices)


@pytest.mark.parametrize("choice", [{"time_step": 1e9}, {"time_offset": math.inf}])
def test_times_beyond_the_precision_of_motion_are_refused(trained: Any, choice: Any) -> None:
    with pytest.raises(ValueError, match=r"sampling\.time_offset.*at most 1,048,576"):
        sample(trained, [1], **choice)


# ---------------------------------------------------------------- several processes


def gradients(method: StyleGANV, networks: dict[str, nn.Module], batch: Batch) -> dict[str, Tensor]:
    """Of the penalty, the one loss without random numbers of a process."""
    method.penalty_loss(networks, batch).total.backward()
    found = {}
    for name, parameter in networks["discriminator"].named_parameters():
        assert parameter.grad is not None
        found[name.removeprefix("module.")] = parameter.grad
    return found


def half(rank: int, port: str, output: str) -> None:
    """One of two processes with half of the batch each; the first keeps the mean gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    method, networks, batch = same_everywhere()
    kept = slice(rank, None, 2)  # groups of clips are k mod 2 in the whole batch
    assert batch.times is not None
    mine = Batch(batch.videos[kept], times=batch.times[kept], available=batch.available)
    parallel = DistributedDataParallel(networks["discriminator"], broadcast_buffers=False)
    found = gradients(method, {**networks, "discriminator": parallel}, mine)
    if rank == 0:
        torch.save(found, output)
    dist.destroy_process_group()


def same_everywhere() -> tuple[StyleGANV, dict[str, nn.Module], Batch]:
    torch.manual_seed(0)
    method = build(augmentation=AugmentationConfig("none"))
    return method, method.build_networks(), make_batch(4, seed=1)


@pytest.mark.slow
def test_the_penalty_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Through DistributedDataParallel, whose hooks see the second differentiation."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    output = tmp_path / "gradients.pt"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(port), str(output)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    together = torch.load(output, weights_only=True)
    torch.testing.assert_close(together, gradients(*same_everywhere()), rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    half(int(sys.argv[1]), sys.argv[2], sys.argv[3])
