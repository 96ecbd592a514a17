"""Stage 2 of LVDM: what it learns, which autoencoder it belongs to, how it samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.load import load_run
from configs.schema import RunConfig
from diffusion.schedule import NoiseSchedule
from models.backbones.latent_denoiser import LatentDenoiser
from models.codecs.video import load_video_autoencoder
from models.interface import Batch, VideoNoise
from models.latent_diffusion import UnetConfig
from models.methods.lvdm import Lvdm, LvdmSampling
from models.registry import build_method, method_config

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "method.autoencoder=untrained",
    "method.prediction=noise",
    "clip.frames=8",
    "clip.size=32",
    "method.unet={width: 16, multipliers: [1, 2], groups: 8}",
]
FEW = LvdmSampling(sampler="ddim", steps=3)


def settings(*overrides: str) -> RunConfig:
    return load_run(ROOT / "configs" / "demo" / "lvdm.yaml", [*SMALL, *overrides], method_config)


def build(*overrides: str, training: bool = True) -> Lvdm:
    torch.manual_seed(0)
    method = build_method(settings(*overrides), training=training)
    assert isinstance(method, Lvdm)
    return method


def clips(method: Lvdm, count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(method.shape.batch(count), generator=generator) * 2 - 1)


def networks_of(method: Lvdm) -> dict[str, nn.Module]:
    """Networks whose output is not zero, as a new one's is."""
    torch.manual_seed(1)
    networks = method.build_networks()
    for network in networks.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.05)
        network.eval().requires_grad_(False)
    return networks


def sampled(method: Lvdm, choices: LvdmSampling, frames: int | None = None) -> Tensor:
    with torch.no_grad():
        return method.sample(networks_of(method), VideoNoise([3, 4], "cpu"), choices, frames=frames)


def test_a_new_network_has_the_loss_of_predicting_nothing() -> None:
    method = build()
    networks = method.build_networks()
    batch = clips(method, 64)
    loss = method.noise_loss(networks, batch).total.item()
    assert loss == pytest.approx((2 / torch.pi) ** 0.5, abs=0.02)  # E |N(0, 1)|


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_denoiser_that_knows_the_latents_has_no_loss_and_tells_the_noise(prediction: str) -> None:
    method = build(f"method.prediction={prediction}")
    clean, noise = torch.randn(4, 2, 4, 8, 8), torch.randn(4, 2, 4, 8, 8)
    level = torch.tensor([0, 10, 500, 999])
    noisy = method.schedule.add_noise(clean, noise, level)
    output = method.target(clean, noise, level)
    torch.testing.assert_close(method.as_noise(output, noisy, level), noise, atol=1e-4, rtol=1e-4)
    if prediction == "velocity":  # at the noisiest level an error of the output stays as it is
        start = method.schedule.predict_start(
            noisy, method.as_noise(output + 0.1, noisy, level), level
        )
        torch.testing.assert_close(
            (start - clean)[3], torch.full_like(clean[3], -0.1), rtol=0.01, atol=1e-3
        )


def test_the_latents_follow_from_the_clips_and_the_autoencoder() -> None:
    method = build("clip.frames=16", "clip.size=64")
    assert method.latents.batch(1) == (1, 4, 4, 8, 8)
    assert method.codec.shape is None


def test_calibration_brings_latents_to_mean_0_and_deviation_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = build()
    networks = method.build_networks()
    encode = method.codec.encode
    monkeypatch.setattr(method.codec, "encode", lambda videos: 3 * encode(videos) + 5)
    batches = [clips(method), Batch(clips(method).videos * 0.3 + 0.5)]
    method.calibrate(networks, batches)
    denoiser = networks["denoiser"]
    assert isinstance(denoiser, LatentDenoiser)
    raw = torch.cat([method.codec.encode(batch.videos) for batch in batches])
    normal = denoiser.normalise(raw)
    assert normal.mean().item() == pytest.approx(0, abs=0.1)
    assert normal.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(denoiser.restore(normal), raw, atol=1e-5, rtol=1e-4)


def test_moments_of_two_processes_average_to_those_of_all() -> None:
    first, second = torch.randn(2, 500) * 3 + torch.tensor([[1.0], [5.0]])
    networks = [LatentDenoiser(4, width=8, multipliers=[1], blocks=1, groups=4) for _ in range(3)]
    for network, parts in zip(networks, ([first], [second], [first, second]), strict=True):
        network.measure(parts)
    mean = (networks[0].latent_moments + networks[1].latent_moments) / 2
    torch.testing.assert_close(mean, networks[2].latent_moments)


def test_given_constants_are_taken_and_nothing_is_measured() -> None:
    method = build("method.latent_scale=0.33422927", "method.latent_shift=1.4606637")
    assert method.calibration == 0
    denoiser = method.build_networks()["denoiser"]
    assert isinstance(denoiser, LatentDenoiser)
    raw = torch.randn(2, 3)
    torch.testing.assert_close(denoiser.normalise(raw), 0.33422927 * (raw + 1.4606637))
    assert build().calibration > 0


def test_the_autoencoder_is_recorded_and_compared() -> None:
    method = build()
    denoiser = method.build_networks()["denoiser"]
    assert isinstance(denoiser, LatentDenoiser)
    assert denoiser.recorded_sha256 == load_video_autoencoder("untrained").sha256
    method.checked(denoiser)
    other = build()
    state = denoiser.state_dict()
    state["autoencoder_sha256"] = torch.zeros(32, dtype=torch.uint8)
    foreign = other.build_networks()
    foreign["denoiser"].load_state_dict(state)
    with pytest.raises(ValueError, match=r"method.autoencoder: untrained has other weights"):
        other.sample(foreign, VideoNoise([0], "cpu"), FEW)
    with pytest.raises(ValueError, match=r"name that one, as a checkpoint file"):
        other.noise_loss(foreign, clips(other))


def test_the_schedule_is_the_published_one() -> None:
    schedule = build().schedule
    assert float(schedule.signal_squared[500]) == pytest.approx(0.150070056)
    assert len(schedule) == 1000


def test_gradients_reach_only_the_denoiser() -> None:
    method = build()
    networks = method.build_networks()
    method.noise_loss(networks, clips(method)).total.backward()
    assert all(parameter.grad is None for parameter in method.codec.parameters())


def test_ddim_ends_at_the_first_level_as_the_original_does() -> None:
    full = NoiseSchedule.scaled_linear()
    levels = LvdmSampling(sampler="ddim", steps=50).levels(full)
    assert levels.timesteps.tolist() == list(range(1, 1000, 20))
    assert float(levels.signal_squared_before[0]) == float(full.signal_squared[0])
    assert LvdmSampling(sampler="ddpm").levels(full).timesteps.tolist() == list(range(1000))
    assert len(LvdmSampling(sampler="unipc3", steps=12).levels(full)) == 12
    assert len(LvdmSampling(sampler="ddim", steps=1000).levels(full)) == 1000


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver", "unipc2", "unipc3"])
def test_every_sampler_makes_videos(sampler: Any) -> None:
    videos = sampled(build(training=False), LvdmSampling(sampler=sampler, steps=4))
    assert videos.shape == (2, 8, 3, 32, 32)
    assert videos.isfinite().all()
    assert not torch.equal(videos[0], videos[1])


def test_eta_adds_noise() -> None:
    method = build(training=False)
    still, noisy = (
        sampled(method, LvdmSampling(sampler="ddim", steps=4, eta=eta)) for eta in (0.0, 1.0)
    )
    assert not torch.equal(still, noisy)
    assert torch.equal(still, sampled(method, LvdmSampling(sampler="ddim", steps=4, eta=0.0)))


def test_a_larger_grid_makes_larger_videos_as_the_original_did() -> None:
    videos = sampled(build(training=False), dataclasses.replace(FEW, latent_size=8))
    assert videos.shape == (2, 8, 3, 64, 64)
    with pytest.raises(ValueError, match=r"sampling.latent_size: a multiple of 2 cells, got 5"):
        sampled(build(training=False), dataclasses.replace(FEW, latent_size=5))


@pytest.mark.parametrize("size", [0, -4])
def test_a_grid_has_cells(size: int) -> None:
    with pytest.raises(ValueError, match=r"sampling.latent_size: at least 1 cell"):
        LvdmSampling(latent_size=size)


def test_solvers_need_two_levels_to_go_from_one_to_the_other() -> None:
    with pytest.raises(ValueError, match=r"sampling.steps: from 2 to 1000, got 1"):
        LvdmSampling(sampler="unipc3", steps=1).levels(NoiseSchedule.scaled_linear())


def test_longer_videos_are_made_in_windows_and_begin_as_shorter_ones_do() -> None:
    method = build("clip.frames=16", training=False)
    choices = dataclasses.replace(FEW, corrections=0)
    longer = sampled(method, choices, frames=30)
    assert longer.shape == (2, 30, 3, 32, 32)
    windows = method.windows(choices, 30)
    assert (windows.length, windows.overlap, windows.total) == (4, 2, 8)
    assert method.seams(choices, 30) == [16, 24]  # frames, of latent frames 4 and 6
    assert method.seams(choices) == []
    # Windows of pixels are cut in the middle of what they share, so the last frames may differ.
    torch.testing.assert_close(longer[:, :12], sampled(method, choices)[:, :12])
    assert sampled(method, choices, frames=5).shape == (2, 5, 3, 32, 32)
    with pytest.raises(ValueError, match=r"sampling.overlap: from 1 to 3 latent frames of the 4"):
        sampled(method, dataclasses.replace(choices, overlap=4), frames=30)


def test_one_latent_frame_is_not_gone_on_from() -> None:
    method = build("clip.frames=4", training=False)
    assert sampled(method, FEW).shape == (2, 4, 3, 32, 32)
    with pytest.raises(ValueError, match="frames: clips of one latent frame"):
        sampled(method, FEW, frames=8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.autoencoder=''"], "method.autoencoder: name stage 1"),
        (["method.autoencoder="], "method.autoencoder: name stage 1"),
        (["method.unet.attention_at=[3]"], "method.unet.attention_at: reductions 1, 2, 4"),
        (["method.autoencoder=/no/such/run"], "method.autoencoder: .*/no/such/run; train stage 1"),
        (["clip.frames=10"], "clip.frames as a multiple of 4"),
        (["clip.size=40"], "latents of 5x5 cells cannot be halved 1 times"),
        (["method.latent_scale=1.0"], "give both or none"),
        (["method.unet.groups=32"], "a width of 16 cannot be split into 32 groups"),
        (["method.unet.multipliers=[]"], "method.unet.multipliers: one or more"),
        (["method.calibration=0"], "method.calibration: at least 1 batch"),
    ],
)
def test_mistakes_are_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        build(*overrides)
    assert "\n" not in str(caught.value)


def test_published_settings_build_the_published_network() -> None:
    with torch.device("meta"):
        network = UnetConfig().build(4, "", 4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 548_904_580
    config = load_run(ROOT / "configs" / "col" / "lvdm.yaml", [], method_config)
    assert config.method == dataclasses.replace(
        method_config("lvdm")(),
        autoencoder="runs/col-lvdm-autoencoder",  # type: ignore[call-arg]
    )
    assert (config.train.learning_rate, config.train.weight_decay) == (6e-5, 0.01)
    assert config.train.batch_size * config.train.accumulation == 6
