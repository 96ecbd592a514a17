"""Pre-trained image autoencoders through diffusers."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from models.codecs.interface import Codec


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

    def encode_images(self, images: Tensor) -> Tensor:
        output = self.autoencoder.encode(images)
        latents = output.latents if hasattr(output, "latents") else output.latent_dist.sample()
        return (latents - self.shift) * self.scale

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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
