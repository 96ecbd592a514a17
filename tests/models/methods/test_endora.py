"""Endora as a method: guidance, sampling noise, conditioning, configuration."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from configs.shapes import VideoShape
from diffusion.schedule import NoiseSchedule
from models.backbones.video_transformer import VideoTransformer
from models.codecs.build import CodecConfig
from models.interface import Batch, VideoNoise
from models.methods.endora import (
    Endora,
    EndoraConfig,
    EndoraSampling,
    TransformerConfig,
    visited_timesteps,
)
from models.priors.features import PriorConfig

SHAPE = VideoShape(4, 3, 16, 16)


def endora(
    transformer: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    training: bool = True,
) -> Endora:
    sizes = {"patch": 2, "depth": 4, "width": 32, "heads": 2} | dict(transformer or {})
    settings = {"name": "resnet18", "weights": "untrained", "layers": [1, 2], "pairs": [0, 1]}
    config = EndoraConfig(
        transformer=TransformerConfig(**sizes),
        codec=CodecConfig(name="pixels", weights=None, stride=2),
        prior=PriorConfig(**(settings | dict(prior or {}))),
    )
    return Endora(config, SHAPE, training=training)


def batch(images: int = 2) -> Batch:
    torch.manual_seed(5)
    return Batch(
        torch.rand(SHAPE.batch(3)) * 2 - 1,
        torch.rand(3, images, 3, 16, 16) * 2 - 1 if images else None,
    )


def trained(method: Endora) -> dict[str, nn.Module]:
    """Networks with their zero gates opened."""
    torch.manual_seed(0)
    networks = method.build_networks()
    for parameter in networks["denoiser"].parameters():
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.1)
    return networks


def loss(method: Endora, networks: dict[str, nn.Module], step: int = 0, images: int = 2) -> Any:
    torch.manual_seed(1)
    return method.phases(step)[0].loss(networks, batch(images))


def test_the_total_is_the_sum_of_its_parts() -> None:
    method = endora(prior={"weight": 0.5})
    value = loss(method, trained(method))
    parts = value.parts
    assert set(parts) == {"mse", "vb", "prior"}
    expected = parts["mse"] + parts["vb"] + 0.5 * parts["prior"]
    torch.testing.assert_close(value.total.detach(), expected)


def test_a_new_network_predicts_no_noise() -> None:
    method = endora()
    assert loss(method, method.build_networks()).parts["mse"].item() == pytest.approx(1, abs=0.05)


def test_no_prior_builds_no_head() -> None:
    method = endora(prior={"weight": 0.0})
    networks = method.build_networks()
    assert not hasattr(networks["denoiser"], "guide")
    assert set(method.frozen_networks()) == {"codec"}
    assert set(loss(method, networks).parts) == {"mse", "vb"}


def test_guidance_can_end_and_still_reaches_every_parameter() -> None:
    method = endora(prior={"until_step": 5})
    networks = trained(method)
    assert "prior" in loss(method, networks, step=4).parts
    late = loss(method, networks, step=5)
    assert late.parts["prior"] == 0
    late.total.backward()
    head = list(networks["denoiser"].guide.parameters())
    assert all(parameter.grad is not None and parameter.grad.abs().max() == 0 for parameter in head)


def test_the_prior_changes_the_gradients_of_the_transformer() -> None:
    gradients = []
    for weight in (1e-6, 10.0):
        method = endora(prior={"weight": weight})
        networks = trained(method)
        loss(method, networks).total.backward()
        gradients.append(networks["denoiser"].transformer.patch_embedding.weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 0.1 * gradients[0].abs().max()


def test_sampling_needs_no_weights_of_the_prior() -> None:
    method = endora(prior={"weights": "/nowhere.pth"}, training=False)
    trained_method = endora()
    networks = method.build_networks()
    networks["denoiser"].load_state_dict(trained(trained_method)["denoiser"].state_dict())
    assert "prior" not in method.frozen_networks()


@pytest.mark.parametrize(
    ("sampler", "reuse"),
    [("ddpm", 0.0), ("ddim", 0.0), ("dpm_solver", 0.0), ("unipc3", 0.0), ("ddpm", 0.5)],
)
def test_a_video_depends_on_its_seed_alone(sampler: str, reuse: float) -> None:
    method = endora()
    denoiser = trained(method)["denoiser"].eval()
    settings = EndoraSampling(sampler=sampler, steps=5, reuse=reuse)  # type: ignore[arg-type]

    def sample(*seeds: int) -> torch.Tensor:
        with torch.no_grad():
            return method.sample({"denoiser": denoiser}, VideoNoise(seeds, "cpu"), settings)

    together = sample(7, 8, 9)
    assert together.shape == SHAPE.batch(3)
    assert together.abs().max() <= 1
    torch.testing.assert_close(together[1:2], sample(8), atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_guidance_scale_one_is_conditional_and_zero_unconditional() -> None:
    method = endora(transformer={"classes": 3})
    denoiser = trained(method)["denoiser"].eval()
    noisy, timestep = torch.randn(method.latents.batch(2)), torch.tensor([500, 500])
    with torch.no_grad():
        plain = denoiser(noisy, timestep).prediction
        labelled = denoiser(noisy, timestep, torch.tensor([1, 1])).prediction

        def guided(scale: float) -> torch.Tensor:
            settings = EndoraSampling(guidance=scale, label=1)
            return method.guided_denoise(denoiser, settings)(noisy, timestep)

        torch.testing.assert_close(guided(1.0), labelled)
        noise, variance = guided(0.0).chunk(2, dim=2)
        torch.testing.assert_close(noise, plain.chunk(2, dim=2)[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(variance, labelled.chunk(2, dim=2)[1], atol=1e-5, rtol=1e-4)
        half = (guided(0.5) - (guided(0.0) + guided(1.0)) / 2).abs().max()
        assert half < 1e-5


def test_wrong_sampling_choices_are_refused() -> None:
    method = endora(transformer={"classes": 3})
    denoiser = method.build_networks()["denoiser"]
    for settings, message in (
        (EndoraSampling(label=3), "knows 3 classes"),
        (EndoraSampling(guidance=2.0), "needs a class"),
    ):
        with pytest.raises(ValueError, match=message):
            method.guided_denoise(denoiser, settings)


def block_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the batch size whenever a transformer runs its blocks."""
    runs: list[int] = []
    plain = VideoTransformer.run_blocks

    def counting(self: VideoTransformer, tokens: torch.Tensor, *others: Any) -> Any:
        runs.append(len(tokens))
        return plain(self, tokens, *others)

    monkeypatch.setattr(VideoTransformer, "run_blocks", counting)
    return runs


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver", "unipc2", "unipc3"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_reuse_spares_blocks_and_begins_anew_with_each_batch(
    monkeypatch: pytest.MonkeyPatch, sampler: str, guidance: float
) -> None:
    method = endora(transformer={"classes": 2})
    networks = {"denoiser": trained(method)["denoiser"].eval()}
    runs = block_runs(monkeypatch)

    def sample(reuse: float) -> torch.Tensor:
        runs.clear()
        settings = EndoraSampling(
            sampler=sampler,  # type: ignore[arg-type]
            steps=8,
            label=1,
            guidance=guidance,
            reuse=reuse,
        )
        with torch.no_grad():
            return method.sample(networks, VideoNoise([3, 4], "cpu"), settings)

    exact = sample(0.0)
    assert runs == [2 if guidance == 1 else 4] * 8
    assert torch.equal(sample(1e-9), exact)  # any change at all runs the blocks
    assert len(runs) == 8
    rough = sample(1e9)
    assert len(runs) == 2  # first and last
    assert not torch.equal(rough, exact)
    assert torch.equal(sample(1e9), rough)
    assert torch.equal(sample(0.0), exact)


def test_reuse_is_0_or_more() -> None:
    with pytest.raises(ValueError, match=r"sampling\.reuse: 0 or more, got -1"):
        EndoraSampling(reuse=-1)


def test_each_sampler_has_its_own_spacing() -> None:
    schedule = NoiseSchedule.linear()
    integer = visited_timesteps(EndoraSampling(sampler="ddim", steps=50), schedule)
    assert integer == list(range(0, 1000, 20))
    uneven = visited_timesteps(EndoraSampling(sampler="ddim", steps=30), schedule)
    assert (uneven[0], uneven[-1], len(uneven)) == (0, 999, 30)
    solver = visited_timesteps(EndoraSampling(sampler="dpm_solver", steps=10), schedule)
    assert solver[-1] == 999
    assert solver[1] - solver[0] < 20


def test_impossible_settings_are_refused_with_their_names() -> None:
    with pytest.raises(ValueError, match=r"method\.prior\.pairs.*pairs 0\.\.1"):
        endora(prior={"pairs": [0, 2]})
    with pytest.raises(ValueError, match=r"method\.prior\.layers"):
        endora(prior={"pairs": [0]})
    with pytest.raises(ValueError, match=r"choose clip\.size"):
        endora(transformer={"patch": 16})


def test_a_conditional_model_asks_for_fitting_labels() -> None:
    method = endora(transformer={"classes": 3})
    networks = trained(method)
    with pytest.raises(ValueError, match=r"needs data\.labels"):
        loss(method, networks)
    for labels, fits in (([0, 1, 2], True), ([0, 1, 3], False), ([-1, 0, 0], False)):
        labelled = dataclasses.replace(batch(), labels=torch.tensor(labels))
        if fits:
            method.phases(0)[0].loss(networks, labelled).total.backward()
            table = networks["denoiser"].transformer.label_embedding.table.weight
            assert table.grad.abs().max() > 0
        else:
            with pytest.raises(ValueError, match=r"data\.labels: labels are 0\.\.2"):
                method.phases(0)[0].loss(networks, labelled)


def test_predicting_velocity_is_the_same_process_in_other_words() -> None:
    """A network that gives the true velocity has no error, whatever the level."""
    method = endora()
    method.config = dataclasses.replace(method.config, prediction="velocity")
    start, noise = torch.randn(method.latents.batch(3)), torch.randn(method.latents.batch(3))
    level = torch.tensor([3, 500, 990])
    noisy = method.schedule.add_noise(start, noise, level)
    signal, deviation = (
        table[level].float().view(3, 1, 1, 1, 1)
        for table in (method.schedule.signal, method.schedule.noise)
    )
    velocity = signal * noise - deviation * start  # arXiv 2202.00512, appendix D
    output = torch.cat([velocity, torch.zeros_like(velocity)], dim=2)
    converted = method._as_noise(output, noisy, level).chunk(2, dim=2)[0]
    torch.testing.assert_close(converted, noise, atol=1e-4, rtol=1e-4)
    shifted = method._as_noise(output + 0.1, noisy, level).chunk(2, dim=2)[0]
    error = (shifted - noise).square().flatten(1).mean(1) * method._weight(level)
    torch.testing.assert_close(error, torch.full((3,), 0.01), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_frames_of_a_clip_can_share_noise_of_unit_variance(share: float) -> None:
    method = endora()
    method.config = dataclasses.replace(method.config, shared_noise=share)
    noise = torch.randn(
        64, 6, *method.latents.batch(1)[2:], generator=torch.Generator().manual_seed(0)
    )
    mixed = method._mixed(noise)
    values = mixed.transpose(0, 1).flatten(1)
    covariance = torch.cov(values)
    torch.testing.assert_close(covariance.diag(), torch.ones(6), atol=0.03, rtol=0)
    # What remains of each frame adds up to nothing, so its parts repel each other a little.
    between = share - (1 - share) / 3 if share else 0.0
    expected = torch.full((6,), between)
    torch.testing.assert_close(covariance[0, 1:4], expected[1:4], atol=0.03, rtol=0)
    assert torch.equal(mixed[:, 4:], noise[:, 4:])  # extra images keep theirs


def test_no_images_is_fine() -> None:
    method = endora()
    value = loss(method, trained(method), images=0)
    assert torch.isfinite(value.total)


def cached_batch(method: Endora, frames: Batch) -> Batch:
    """The same batch as a cache in float32 has it."""
    pixels = frames.frames
    parts = method.cached_parts(pixels.flatten(0, 1))
    kept = {name: part.unflatten(0, pixels.shape[:2]).clone() for name, part in parts.items()}
    return Batch(frames.videos[..., :0, :0], cached=kept)


@pytest.mark.parametrize("prior", [{}, {"loss": "cosine"}, {"weight": 0.0}])
def test_cached_parts_give_the_losses_of_pixels(prior: dict[str, Any]) -> None:
    online, pixels = endora(prior=prior), batch()
    kept = cached_batch(online, pixels)
    assert kept.cached is not None
    shapes = {name: tuple(part.shape[2:]) for name, part in kept.cached.items()}
    cached = Endora(online.config, SHAPE, cached=shapes)
    assert cached.frozen_networks() == {}
    assert set(cached.cached_names()) == set(shapes)
    assert cached.cache_identity() == online.cache_identity()
    networks = trained(online)
    assert {n: p.shape for n, p in networks["denoiser"].named_parameters()} == {
        n: p.shape for n, p in cached.build_networks()["denoiser"].named_parameters()
    }
    torch.manual_seed(1)
    expected = online.phases(0)[0].loss(networks, pixels)
    torch.manual_seed(1)
    found = cached.phases(0)[0].loss(networks, kept)
    assert torch.equal(found.total, expected.total)
    halved = {name: part.half() for name, part in kept.cached.items()}
    torch.manual_seed(1)
    rounded = cached.phases(0)[0].loss(networks, dataclasses.replace(kept, cached=halved))
    torch.testing.assert_close(rounded.total, expected.total, rtol=1e-3, atol=1e-4)


def test_beside_a_cache_the_codec_comes_at_first_use() -> None:
    method = Endora(endora().config, SHAPE, cached={"mean": (12, 8, 8)})
    assert method.frozen_networks() == {}
    noise = VideoNoise([3], "cpu")
    denoiser = trained(endora(prior={"weight": 0.0}))["denoiser"].eval()
    with torch.no_grad():
        videos = method.sample({"denoiser": denoiser}, noise, EndoraSampling(steps=2))
    assert videos.shape == SHAPE.batch(1)
    assert set(method.frozen_networks()) == {"codec"}


def test_a_loaded_batch_has_its_cached_parts_apart() -> None:
    loaded = {"videos": torch.zeros(2, 4, 3, 0, 0), "cached/mean": torch.ones(2, 6, 12, 8, 8)}
    found = Batch.of({**loaded, "labels": torch.tensor([1, 2])}).to(torch.device("cpu"))
    assert found.cached is not None
    assert torch.equal(found.cached["mean"], loaded["cached/mean"])
    assert found.frames.shape == (2, 4, 3, 0, 0)
    assert found.labels is not None
    assert Batch.of({"videos": loaded["videos"]}).cached is None


def test_bfloat16_stays_close_to_float32() -> None:
    method = endora()
    networks = trained(method)
    exact = loss(method, networks)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(method, networks)
    for name, value in exact.parts.items():
        torch.testing.assert_close(rounded.parts[name], value, rtol=0.05, atol=0.01)
    assert dataclasses.is_dataclass(exact)


# ---------------------------------------------------------------- long videos


def long_sample(
    method: Endora,
    denoiser: nn.Module,
    frames: int | None,
    *seeds: int,
    **settings: Any,
) -> torch.Tensor:
    chosen = EndoraSampling(**({"sampler": "unipc3", "steps": 4} | settings))
    with torch.no_grad():
        return method.sample(
            {"denoiser": denoiser}, VideoNoise(seeds, "cpu"), chosen, frames=frames
        )


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver", "unipc3"])
def test_a_longer_video_begins_with_the_shorter_one(sampler: str) -> None:
    method = endora()
    method.config.shared_noise = 0.6
    denoiser = trained(method)["denoiser"].eval()
    clip = long_sample(method, denoiser, None, 7, 8, sampler=sampler)
    lengths = [long_sample(method, denoiser, frames, 7, 8, sampler=sampler) for frames in (2, 4, 9)]
    for shorter, longer in itertools.pairwise(lengths):
        assert torch.equal(longer[:, : shorter.shape[1]], shorter)
    assert torch.equal(lengths[1], clip)
    assert [video.shape[1] for video in lengths] == [2, 4, 9]
    assert lengths[-1].abs().max() <= 1


@pytest.mark.parametrize("settings", [{"corrections": 2}, {"corrections": 0, "reuse": 0.5}])
def test_a_long_video_depends_on_its_seed_alone(settings: dict[str, Any]) -> None:
    method = endora()
    denoiser = trained(method)["denoiser"].eval()
    together = long_sample(method, denoiser, 9, 7, 8, 9, **settings)
    alone = long_sample(method, denoiser, 9, 8, **settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_windows_are_decoded_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    method = endora()
    denoiser = trained(method)["denoiser"].eval()
    decoded: list[int] = []
    decode = method.codec.decode

    def counting(latents: torch.Tensor, **options: Any) -> torch.Tensor:
        decoded.append(latents.shape[1])
        return decode(latents, **options)

    monkeypatch.setattr(method.codec, "decode", counting)
    long_sample(method, denoiser, 12, 0, overlap=1)
    assert decoded == [4, 3, 3, 3]


def test_labels_and_guidance_hold_in_every_window() -> None:
    method = endora(transformer={"classes": 2})
    denoiser = trained(method)["denoiser"].eval()
    one, other = (
        long_sample(method, denoiser, 8, 0, label=label, guidance=2.0) for label in (0, 1)
    )
    assert (one[:, 4:] - other[:, 4:]).abs().max() > 0.01


def test_the_seams_of_a_long_video_can_be_told() -> None:
    method = endora()
    assert method.seams(EndoraSampling(overlap=1), 9) == [4, 7]
    assert method.windows(EndoraSampling(overlap=9)).seams == []  # one window has no overlap


@pytest.mark.parametrize(
    ("frames", "settings", "named"),
    [
        (9, {"overlap": 4}, "sampling.overlap"),
        (9, {"corrections": 1, "reuse": 0.2}, "sampling.reuse"),
        (0, {}, "at least 1 frame"),
    ],
)
def test_impossible_long_videos_are_refused(
    frames: int, settings: dict[str, Any], named: str
) -> None:
    method = endora()
    with pytest.raises(ValueError, match=named):
        long_sample(method, trained(method)["denoiser"], frames, 0, **settings)


@pytest.mark.parametrize("settings", [{"overlap": 0}, {"corrections": -1}])
def test_settings_of_long_videos_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"sampling.{next(iter(settings))}"):
        EndoraSampling(**settings)
