"""Pre-trained image autoencoders through diffusers."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from models.codecs.interface import Codec, Moments


class DiffusersCodec(Codec):
    """Any `AutoencoderKL` or `AutoencoderTiny`; scale, shift, stride and channels are its own.

    Input:   `source` is a hub name such as stabilityai/sd-vae-ft-mse, or a local folder with
             config.json and the weights
    Raises:  FileNotFoundError, in one line, when neither is to be had
    """

    chunk = 16

    def __init__(self, source: str) -> None:
        super().__init__()
        self.autoencoder = load_autoencoder(source)
        config = self.autoencoder.config
        levels = config.get("block_out_channels") or config["encoder_block_out_channels"]
        self.stride = 2 ** (len(levels) - 1)
        self.channels = config["latent_channels"]
        self.scale = float(config.get("scaling_factor") or 1.0)
        self.shift = float(config.get("shift_factor") or 0.0)

    def encode_images(self, images: Tensor) -> Moments:
        output = self.autoencoder.encode(images)
        if hasattr(output, "latents"):
            return (output.latents - self.shift) * self.scale, None
        posterior = output.latent_dist
        log_variance = posterior.logvar + 2 * math.log(abs(self.scale))
        return (posterior.mean - self.shift) * self.scale, log_variance

    def decode_images(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents / self.scale + self.shift).sample


def load_autoencoder(source: str) -> Any:
    """The diffusers model, of the class that its own config.json names; safetensors only."""
    import diffusers
    from huggingface_hub.utils.logging import set_verbosity

    set_verbosity(logging.CRITICAL)  # its retries would hide the one line that helps
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    classes = {
        "AutoencoderKL": diffusers.AutoencoderKL,
        "AutoencoderTiny": diffusers.AutoencoderTiny,
    }
    is_folder = Path(source).is_dir()
    warnings.filterwarnings("ignore", module="huggingface_hub")  # of diffusers' own calls to it
    try:
        config = diffusers.AutoencoderKL.load_config(source, local_files_only=is_folder)
        name = config.get("_class_name")
        if name not in classes:
            raise ValueError(
                f"method.codec.weights: {source} is a {name}; known: {', '.join(classes)}"
            )
        return classes[name].from_pretrained(
            source, local_files_only=is_folder, use_safetensors=True, low_cpu_mem_usage=False
        )
    except OSError as error:
        if is_folder:
            raise ValueError(
                f"method.codec.weights: {source} is damaged or incomplete: {_first_line(error)}"
            ) from None
        raise FileNotFoundError(
            f"method.codec.weights: no autoencoder at {source!r}, neither as a local folder nor "
            f"on the hub ({_first_line(error)}); download it where there is a network and give "
            f"its folder, or take method.codec.name=tiny or pixels"
        ) from None


def weight_files(source: str) -> list[Path]:
    """config.json and weights of a local folder, or of a hub's copy on this machine; else none."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return sorted(f for f in Path(source).iterdir() if f.suffix in (".json", ".safetensors"))
    names = ("config.json", "diffusion_pytorch_model.safetensors")
    try:
        found = [try_to_load_from_cache(source, name) for name in names]
    except ValueError:  # no name that a hub would know
        return []
    copies = [Path(path) for path in found if isinstance(path, str)]
    return copies if len(copies) == len(names) else []


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
