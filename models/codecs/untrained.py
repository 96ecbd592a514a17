"""Autoencoders of a published shape with random weights, for timing where no weights are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

# The autoencoder of Stable Diffusion 1 (stabilityai/sd-vae-ft-mse), as its config.json has it.
STABLE_DIFFUSION = (128, 256, 512, 512)


def write_untrained_autoencoder(
    folder: Path, widths: Sequence[int] = STABLE_DIFFUSION, seed: int = 0
) -> None:
    """Write config.json and random weights of an `AutoencoderKL`, for the codec `autoencoder`.

    Inputs:  widths, the channels of each level, multiples of 32; each further level halves the
             resolution. 335 MB with those of Stable Diffusion
    """
    import diffusers
    from huggingface_hub.utils.logging import set_verbosity

    set_verbosity(logging.CRITICAL)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder: Any = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=32,
        )
    autoencoder.save_pretrained(folder)
