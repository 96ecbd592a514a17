"""Original checkpoints of both stages of LVDM become weights of this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbones.patch_discriminator import PatchDiscriminator
from models.interface import VideoNoise
from models.registry import build_method
from sample.writers import read_sample, to_frames
from tools.import_checkpoint import main
from tools.training.weights import Weights, read_weights

CONSTANTS = ["--latent-scale", "0.33422927", "--latent-shift", "1.4606637"]
SMALL = ["--size", "32", "--time-factor", "2"]


@pytest.fixture(scope="module")
def autoencoder(originals: ModuleType) -> nn.Module:
    """A stage 1 of known weights."""
    method = build_method(originals.lvdm_autoencoder_config(), training=False)
    return originals.fill_lvdm(method.build_networks()["autoencoder"])


@pytest.fixture(scope="module")
def denoisers(originals: ModuleType) -> dict[str, nn.Module]:
    """A stage 2 of known weights in training, and its average."""
    config = originals.lvdm_config("untrained")
    network, average = (config.method.unet.build(3, "", 4) for _ in range(2))
    return {
        "model": originals.fill_lvdm(network),
        "ema": originals.fill_lvdm(average, change=0.25),
    }


@pytest.fixture(scope="module")
def stage_2(
    originals: ModuleType, autoencoder: nn.Module, denoisers: dict[str, nn.Module]
) -> dict[str, Tensor]:
    """The state dict of a complete file of stage 2."""
    return originals.diffusion_state(denoisers["model"], denoisers["ema"], autoencoder)


def run(monkeypatch: pytest.MonkeyPatch, original: Path, *arguments: str) -> Weights:
    output = original.with_name("imported.safetensors")
    command = ["import_checkpoint", str(original), "--output", str(output), *SMALL, *arguments]
    monkeypatch.setattr(sys, "argv", command)
    main()
    return read_weights(output)


def test_stage_1_arrives_with_its_discriminator(
    originals: ModuleType,
    autoencoder: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    patches = originals.fill_lvdm(PatchDiscriminator(width=8, layers=2))
    state = {
        **originals.autoencoder_state(autoencoder),
        "loss.logvar": torch.zeros(()),
        "loss.perceptual_loss.lin0.model.1.weight": torch.rand(1, 64, 1, 1),
        **{f"loss.discriminator.{n}": v for n, v in patches.state_dict().items()},
    }
    copied = "encoder.conv_blocks.0.res.conv1.weight"
    state[copied] = state[copied].clone()  # equal, but stored on its own
    weights = run(
        monkeypatch, originals.write_lightning(state, tmp_path / "last.ckpt"), "--frames", "12"
    )
    config: Any = weights.run_config()
    assert config.method_name == "lvdm_autoencoder"
    assert (config.method.width, config.method.channels) == (16, 3)
    assert config.method.factors == [2, 4, 4]
    assert (config.method.discriminator.width, config.method.discriminator.layers) == (8, 2)
    assert (config.clip.frames, config.clip.size) == (12, 32)
    assert weights.step == 1234
    expected = {"autoencoder": autoencoder, "discriminator": patches}
    assert weights.networks.keys() == expected.keys()
    for name, network in expected.items():
        torch.testing.assert_close(
            weights.networks[name],
            {
                key: value.float() if value.is_floating_point() else value
                for key, value in network.state_dict().items()
            },
            rtol=0,
            atol=0,
        )


@pytest.mark.parametrize("which", ["ema", "model"])
def test_stage_2_arrives_averaged_or_raw(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    denoisers: dict[str, nn.Module],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    which: str,
) -> None:
    original = originals.write_lightning(stage_2, tmp_path / "last.ckpt")
    weights = run(monkeypatch, original, *CONSTANTS, "--which", which)
    config: Any = weights.run_config()
    expected = originals.lvdm_config(str(tmp_path / "imported.autoencoder.safetensors"))
    assert config.method == expected.method
    assert (config.clip.frames, config.clip.size) == (8, 32)
    for name, value in denoisers[which].state_dict().items():
        if name not in ("latent_moments", "autoencoder_sha256"):
            assert torch.equal(weights.networks["denoiser"][name], value), name
    inner = read_weights(tmp_path / "imported.autoencoder.safetensors")
    assert inner.method_name == "lvdm_autoencoder"
    assert inner.networks.keys() == {"autoencoder"}


def test_samples_of_the_command_are_those_of_the_original_weights(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    denoisers: dict[str, nn.Module],
    autoencoder: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    root: Path,
) -> None:
    run(monkeypatch, originals.write_lightning(stage_2, tmp_path / "last.ckpt"), *CONSTANTS)
    samples = tmp_path / "samples"
    command = ["-m", "sample.sample", "--checkpoint", str(tmp_path / "imported.safetensors")]
    settings = ["count=1", "seed=3", "formats=[npz]", f"output={samples}"]
    sampling = ["sampling.sampler=ddim", "sampling.steps=2", "sampling.eta=0"]
    done = subprocess.run(
        [sys.executable, *command, *settings, *sampling],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    method = build_method(originals.lvdm_config(str(tmp_path / "imported.autoencoder.safetensors")))
    method.codec.network.load_state_dict(autoencoder.state_dict())
    network = method.build_networks()["denoiser"]
    network.load_state_dict({**network.state_dict(), **weights_of(denoisers["ema"])})
    with torch.no_grad():
        choices = method.Sampling(sampler="ddim", steps=2, eta=0.0)
        video = method.sample({"denoiser": network.eval()}, VideoNoise([3], "cpu"), choices)[0]
    (file,) = samples.glob("*.npz")
    difference = np.abs(read_sample(file, "npz").astype(int) - to_frames(video).astype(int))
    assert difference.max() <= 1  # of 255; sums may be in another order
    assert to_frames(video).std() > 1


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Without what this project adds."""
    added = ("latent_moments", "autoencoder_sha256")
    return {name: value for name, value in network.state_dict().items() if name not in added}


def test_a_file_of_stage_2_without_stage_1_takes_an_imported_one(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    autoencoder: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    first = originals.write_lightning(
        originals.autoencoder_state(autoencoder), tmp_path / "first.ckpt"
    )
    run(monkeypatch, first)
    inner = (tmp_path / "imported.safetensors").rename(tmp_path / "first.safetensors")
    state = {n: v for n, v in stage_2.items() if not n.startswith("first_stage_model.")}
    second = originals.write_lightning(state, tmp_path / "second.ckpt")
    with pytest.raises(ValueError, match="--autoencoder: the file holds no stage 1"):
        run(monkeypatch, second, *CONSTANTS)
    config: Any = run(monkeypatch, second, *CONSTANTS, "--autoencoder", str(inner)).run_config()
    assert config.method.autoencoder == str(inner)


def test_another_stage_1_than_that_of_the_file_is_refused(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    autoencoder: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    second = originals.write_lightning(stage_2, tmp_path / "second.ckpt")
    state = originals.autoencoder_state(autoencoder)
    inner = tmp_path / "first.safetensors"
    for name, change in (("same", 0.0), ("other", 0.1)):
        bias = {"quant_conv.conv.bias": state["quant_conv.conv.bias"] + change}
        first = originals.write_lightning({**state, **bias}, tmp_path / f"{name}.ckpt")
        run(monkeypatch, first)
        (tmp_path / "imported.safetensors").replace(inner)
        if not change:
            run(monkeypatch, second, *CONSTANTS, "--autoencoder", str(inner))
    with pytest.raises(ValueError, match=r"--autoencoder: not the stage 1 .*quant_conv.conv.bias"):
        run(monkeypatch, second, *CONSTANTS, "--autoencoder", str(inner))


def changed(state: dict[str, Tensor], name: str, value: Tensor | None) -> dict[str, Tensor]:
    """The state with another value in one place, or without it."""
    state = dict(state)
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


UNET, INNER = "model.diffusion_model.", "first_stage_model."
BAD: dict[str, tuple[str, Tensor | None]] = {
    "no average of": ("model_emadiffusion_modelout2bias".replace("ema", "ema.", 1), None),
    "no weight 'middle_block.1.relative_position_k.embeddings_table'": (
        f"{UNET}middle_block.1.relative_position_k.embeddings_table",
        None,
    ),
    "unknown weights .1., such as extra.weight": ("extra.weight", torch.ones(2)),
    "unknown weights .1., such as model_ema.extra": ("model_ema.extra", torch.ones(2)),
    "conditional": ("cond_stage_model.weight", torch.ones(2)),
    "betas are not those": ("betas", torch.linspace(1e-4, 2e-2, 1000)),
    "to be equal and are not": (f"{INNER}decoder.conv_out.weight", torch.ones(3, 16, 3, 3, 3)),
    "decoder.conv_out.conv.bias missing": (f"{INNER}decoder.conv_out.conv.bias", None),
    "no weight 'encoder.conv_first.conv.weight'|no encoder.conv_first.conv.weight": (
        f"{INNER}encoder.conv_first.conv.weight",
        None,
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_a_file_of_stage_2_that_does_not_fit_is_refused_in_one_line(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    message: str,
) -> None:
    original = originals.write_lightning(changed(stage_2, *BAD[message]), tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=message) as error:
        run(monkeypatch, original, *CONSTANTS)
    assert str(error.value).startswith(f"{original}: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_constants_of_the_latents_have_to_be_given(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    original = originals.write_lightning(stage_2, tmp_path / "last.ckpt")
    for some in ([], CONSTANTS[:2], CONSTANTS[2:]):
        with pytest.raises(ValueError, match="--latent-scale and --latent-shift"):
            run(monkeypatch, original, *some)


def test_a_size_that_the_networks_cannot_have_is_refused(
    originals: ModuleType,
    stage_2: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    original = originals.write_lightning(stage_2, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="multiple of 8 pixels"):
        run(monkeypatch, original, *CONSTANTS, "--size", "36")


def test_the_two_networks_of_long_videos_make_one_model(
    originals: ModuleType,
    autoencoder: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    unet = originals.lvdm_config("untrained").method.unet
    networks = {
        name: originals.fill_lvdm(unet.build(3, "", reach, masked=True, levels=6))
        for name, reach in (("prediction", 4), ("interpolation", 3))
    }
    files = {
        name: originals.write_lightning(
            originals.diffusion_state(network, network, autoencoder), tmp_path / f"{name}.ckpt"
        )
        for name, network in networks.items()
    }
    with pytest.raises(ValueError, match="--interpolation: the file is one of the two"):
        run(monkeypatch, files["prediction"], *CONSTANTS)
    weights = run(
        monkeypatch,
        files["prediction"],
        *CONSTANTS,
        "--interpolation",
        str(files["interpolation"]),
    )
    config: Any = weights.run_config()
    assert config.method_name == "lvdm_long"
    assert (config.method.key_every, config.method.levels) == (2, 5)
    assert config.method.unconditional == "none"
    assert config.clip.frames == 16
    for name, network in networks.items():
        for key, value in weights_of(network).items():
            assert torch.equal(weights.networks[name][key], value), key
