"""Published pickles of StyleGAN-V and MoStGAN-V become weights of this project."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from models.interface import Method, VideoNoise
from models.registry import build_method
from sample.sample import main as sample
from sample.writers import read_sample, to_frames
from tools.import_checkpoint import main
from tools.training.state import load_networks
from tools.training.weights import Weights, networks_for_sampling, read_weights

METHODS = ("stylegan_v", "mostgan_v")


def small(originals: ModuleType, name: str) -> Method:
    return build_method(originals.gan_config(name))


def run(monkeypatch: pytest.MonkeyPatch, original: Path, *arguments: str) -> Weights:
    output = original.with_name("imported.safetensors")
    command = ["import_checkpoint", str(original), "--output", str(output), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    main()
    return read_weights(output)


@pytest.mark.parametrize("name", METHODS)
def test_weights_and_sizes_arrive_and_no_source_text_is_run(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    method = small(originals, name)
    weights = run(monkeypatch, originals.write_gan(method, tmp_path))
    assert not (tmp_path / "trap").exists()
    config, expected = weights.run_config(), originals.gan_config(name)
    assert config.method_name == name
    assert config.clip == expected.clip
    assert config.method == expected.method
    assert weights.step == 16
    networks = originals.gan_networks(method)
    assert torch.equal(
        weights.networks["discriminator"].pop("augmentation.strength"),
        torch.tensor(originals.STRENGTH),
    )
    for network in ("generator", "discriminator"):
        wanted = dict(networks[network].state_dict())
        wanted.pop("augmentation.strength", None)
        torch.testing.assert_close(weights.networks[network], wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_samples_are_those_of_the_original_weights(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    method = small(originals, name)
    run(monkeypatch, originals.write_gan(method, tmp_path))
    settings = ["count=2", "seed=5", "formats=[npz]", f"output={tmp_path / 'samples'}"]
    sample(["--checkpoint", str(tmp_path / "imported.safetensors"), *settings])
    networks = originals.gan_networks(method)
    networks["generator"].eval()
    with torch.no_grad():
        videos = method.sample(networks, VideoNoise([5, 6], "cpu"), method.Sampling())
    for video, file in zip(videos, sorted((tmp_path / "samples").glob("*.npz")), strict=True):
        difference = np.abs(read_sample(file, "npz").astype(int) - to_frames(video).astype(int))
        assert difference.max() <= 1  # of 255; sums may be in another order


def test_the_generator_of_training_can_be_taken(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method = small(originals, "stylegan_v")
    weights = run(monkeypatch, originals.write_gan(method, tmp_path), "--which", "model")
    expected = originals.gan_networks(method, change=0.5)["generator"].state_dict()
    torch.testing.assert_close(weights.networks["generator"], dict(expected), rtol=0, atol=0)


def test_what_the_file_does_not_tell_can_be_said(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method = small(originals, "mostgan_v")
    original = originals.write_gan(method, tmp_path, settings=False)
    with pytest.raises(ValueError, match="--anchor-distance: the file does not tell"):
        run(monkeypatch, original)
    config: Any = run(
        monkeypatch, original, "--anchor-distance", "8", "--motion-modulation", "paper"
    ).run_config()
    assert config.method.motion.anchor_distance == 8
    assert config.method.motion_modulation == "paper"


def test_imported_weights_load_for_sampling_and_for_training(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method = small(originals, "stylegan_v")
    weights = run(monkeypatch, originals.write_gan(method, tmp_path))
    _, networks, _ = networks_for_sampling(weights, tmp_path)
    assert set(networks) == {"generator"}
    load_networks(build_method(weights.run_config()).build_networks(), weights.networks)


BAD = {
    "class-conditional": {"attributes": {"c_dim": 10}},
    "class-conditional; this project": {"generator": {"mapping.embed.weight": torch.zeros(64, 10)}},
    "class-conditional or unknown": {
        "discriminator": {"mapping.embed.weight": torch.zeros(64, 3 * 268 + 10)}
    },
    "no network 'D'": {"D": None},
    "no weight 'mapping.fc0.weight'": {"without": "mapping.fc0.weight"},
    "synthesis.b4.input.input.const missing": {"without": "synthesis.b4.input.input.const"},
    "synthesis.b8.extra unknown": {"generator": {"synthesis.b8.extra": torch.zeros(2)}},
    "b8.skip.weight is": {"discriminator": {"b8.skip.weight": torch.zeros(3, 3, 1, 1)}},
    "shapes that no such network has": {"generator": {"mapping.fc0.weight": torch.zeros(64)}},
    "no weight 'mapping.fc0.bias'|mapping.fc0.bias missing": {"without": "mapping.fc0.bias"},
    "is not the low-pass filter": {
        "generator": {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4)}
    },
    "is not the constant": {
        "discriminator": {"time_encoder.time_encoder.fourier_coefs": torch.ones(1, 6)}
    },
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_no_model_of_this_project_is_refused_in_one_line(
    originals: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str
) -> None:
    original = originals.write_gan(small(originals, "stylegan_v"), tmp_path, **BAD[message])
    with pytest.raises(ValueError, match=message) as error:
        run(monkeypatch, original)
    assert str(error.value).startswith(f"{original}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "imported.safetensors").exists()
