"""Both stages of LVDM."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.load import to_plain
from configs.schema import ClipConfig, DataConfig, MethodConfig, RunConfig
from diffusion.schedule import NoiseSchedule
from models.backbones.patch_discriminator import PatchDiscriminator
from models.importers.lvdm import (
    Autoencoder,
    Denoiser,
    DenoiserSizes,
    StoredState,
    lvdm_state,
    read_autoencoder,
    read_denoiser,
    without_single_axes,
)
from models.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, UnetConfig
from models.methods.lvdm import LvdmConfig
from models.methods.lvdm_autoencoder import DiscriminatorConfig, LvdmAutoencoderConfig
from models.methods.lvdm_long import INTERPOLATION, PREDICTION, LvdmLongConfig
from models.registry import build_method
from tools.importing.choices import Choices, Imported
from tools.training.state import load_networks
from tools.training.weights import Weights, write_weights

FRAMES = 16  # of a clip in the published trainings of stage 1
_OF_THE_PROJECT = ("latent_moments", "autoencoder_sha256")  # what originals keep in settings


def import_autoencoder(checkpoint: Mapping[str, object], choices: Choices) -> list[Imported]:
    """Stage 1 from its own file. Raises ValueError in one line."""
    original = read_autoencoder(_state(checkpoint))
    imported = _autoencoder(original, choices, choices.output, _step(checkpoint))
    if choices.perceptual:
        if not original.perceptual:
            raise ValueError("--perceptual: the file holds no LPIPS")
        torch.save(_read(original.perceptual), choices.perceptual)
    return [imported]


def import_denoiser(checkpoint: Mapping[str, object], choices: Choices) -> list[Imported]:
    """Stage 2, and beside it the stage 1 that its file holds. Raises ValueError in one line."""
    originals = _originals(checkpoint, choices)
    first = next(iter(originals.values()))
    scale, shift = _constants(first, choices)
    inner: list[Imported] = []
    source = choices.autoencoder
    if source is None:
        if first.autoencoder is None:
            raise ValueError("--autoencoder: the file holds no stage 1; name an imported one")
        output = choices.output.with_name(f"{choices.output.stem}.autoencoder.safetensors")
        inner = [_autoencoder(first.autoencoder, choices, output, 0)]
        source = str(output)
    common: dict[str, Any] = {
        "autoencoder": source,
        "unet": _unet(first.sizes),
        "latent_scale": scale,
        "latent_shift": shift,
    }
    config = _denoiser_config(originals, common, choices)
    weights = _denoisers(config, originals, inner)
    summary = (
        f"{config.method_name}, width {first.sizes.width}, {config.clip.frames} frames of "
        f"{choices.size}x{choices.size}, latents scaled by {scale:g} after adding {shift:g}, "
        f"stage 1 {source}"
    )
    made = Weights(to_plain(config), config.method_name, _step(checkpoint), weights)
    return [*inner, Imported(made, summary, choices.output)]


def _originals(checkpoint: Mapping[str, object], choices: Choices) -> dict[str, Denoiser]:
    """The networks of the short model, or the two of the long one, by their names here."""
    original = read_denoiser(_state(checkpoint), choices.which)
    _check_schedule(original)
    if not original.sizes.masked:
        if choices.interpolation:
            raise ValueError("--interpolation: the file is of the model of short videos")
        return {"denoiser": original}
    if choices.interpolation is None:
        raise ValueError(
            "--interpolation: the file is one of the two networks of the model of long videos; "
            "import that of prediction, and name the file of interpolation here"
        )
    other = read_denoiser(_state(choices.interpolation), choices.which)
    _check_schedule(other)
    if dataclasses.replace(other.sizes, reach=original.sizes.reach) != original.sizes:
        raise ValueError("--interpolation: the two networks have different sizes")
    return {PREDICTION: original, INTERPOLATION: other}


def _denoiser_config(
    originals: Mapping[str, Denoiser], common: Mapping[str, Any], choices: Choices
) -> RunConfig:
    if "denoiser" in originals:
        frames = originals["denoiser"].sizes.reach * choices.time_factor
        return _run_config("lvdm", frames, LvdmConfig(**common), choices)
    sizes = originals[PREDICTION].sizes
    key_every = originals[INTERPOLATION].sizes.reach - 1
    settings = LvdmLongConfig(
        **common,
        key_every=key_every,
        levels=sizes.levels - 1,
        unconditional="none",
    )
    frames = sizes.reach * key_every * choices.time_factor
    return _run_config("lvdm_long", frames, settings, choices)


def _autoencoder(original: Autoencoder, choices: Choices, output: Path, step: int) -> Imported:
    sizes, patches = original.sizes, original.patches
    space = 2**sizes.stages
    settings = LvdmAutoencoderConfig(
        width=sizes.width,
        factors=[choices.time_factor, space, space],
        channels=sizes.channels,
    )
    if patches:
        settings.discriminator = DiscriminatorConfig(width=patches.width, layers=patches.layers)
    frames = choices.frames or FRAMES
    config = _run_config("lvdm_autoencoder", frames, settings, choices)
    networks = build_method(config, training=False).build_networks()
    weights = {"autoencoder": _read(original.weights)}
    if original.discriminator and patches:
        networks["discriminator"] = PatchDiscriminator(patches.width, patches.layers)
        weights["discriminator"] = _read(original.discriminator)
    load_networks(networks, weights)
    summary = (
        f"lvdm_autoencoder, width {sizes.width}, {sizes.channels} channels, factors "
        f"{choices.time_factor} x {space} x {space}"
        f"{'' if original.discriminator else ', without discriminator'}"
    )
    return Imported(Weights(to_plain(config), config.method_name, step, weights), summary, output)


def _denoisers(
    config: RunConfig, originals: Mapping[str, Denoiser], inner: list[Imported]
) -> dict[str, dict[str, Tensor]]:
    """The weights of networks of this project, after a strict test that these take them."""
    with tempfile.TemporaryDirectory() as folder:
        if inner:  # not written yet
            file = Path(folder, "autoencoder.safetensors")
            write_weights(file, inner[0].weights)
            assert isinstance(config.method, LatentDiffusionConfig)
            settings = dataclasses.replace(config.method, autoencoder=str(file))
            config = dataclasses.replace(config, method=settings)
        method = build_method(config, training=False)
        networks = method.build_networks()
    assert isinstance(method, LatentDiffusion)
    _check_autoencoder(method.codec.network, originals)
    weights = {}
    for name, original in originals.items():
        own = networks[name].state_dict()
        weights[name] = {key: own[key] for key in _OF_THE_PROJECT}
        for key, value in original.weights.items():
            weights[name][key] = without_single_axes(value.read())
    load_networks(networks, weights)
    return weights


def _check_autoencoder(network: nn.Module, originals: Mapping[str, Denoiser]) -> None:
    """Raise ValueError unless a denoiser's own copy of stage 1, if its file has one, is what will
    decode its latents, up to what half precision rounds."""
    for original in originals.values():
        copy = original.autoencoder
        for name, value in network.state_dict().items() if copy else ():
            assert copy is not None
            theirs = copy.weights[name].read().float() if name in copy.weights else None
            if theirs is None or not _nearly(theirs, value):
                raise ValueError(
                    f"--autoencoder: not the stage 1 that every file of stage 2 holds a copy of "
                    f"({name} differs); leave it away, or import stage 1 of the same training"
                )


def _nearly(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-4)


def _run_config(name: str, frames: int, method: MethodConfig, choices: Choices) -> RunConfig:
    clip = ClipConfig(frames=frames, size=choices.size, frame_interval=choices.frame_interval)
    data = DataConfig(folder="data", images_per_clip=0, flip=False)
    return RunConfig(method_name=name, output="runs/imported", clip=clip, data=data, method=method)


def _unet(sizes: DenoiserSizes) -> UnetConfig:
    return UnetConfig(
        width=sizes.width,
        multipliers=list(sizes.multipliers),
        blocks=sizes.blocks,
        attention_at=list(sizes.attention_at),
        heads=sizes.heads,
        positions="reference",
    )


def _constants(original: Denoiser, choices: Choices) -> tuple[float, float]:
    """Scale and shift of the latents, which most files do not tell."""
    scale = choices.latent_scale if choices.latent_scale is not None else original.scale
    if scale is None or choices.latent_shift is None:
        raise ValueError(
            "--latent-scale and --latent-shift: the file does not tell by which constants its "
            "latents were normalised; name those of its training (0.33422927 and 1.4606637 in "
            "those on endoscopy)"
        )
    return scale, choices.latent_shift


def _check_schedule(original: Denoiser) -> None:
    ours = NoiseSchedule.scaled_linear().betas
    theirs = original.betas
    if theirs is not None and (
        theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-4)
    ):
        raise ValueError("betas are not those of the noise schedule that this project uses")


def _state(checkpoint: Mapping[str, object]) -> StoredState:
    state = lvdm_state(checkpoint)
    if state is None:
        raise ValueError("no checkpoint of LVDM: it has no state_dict")
    return state


def _step(checkpoint: Mapping[str, object]) -> int:
    step = checkpoint.get("global_step")
    return step if isinstance(step, int) else 0


def _read(state: StoredState) -> dict[str, Tensor]:
    return {name: value.read() for name, value in state.items()}
