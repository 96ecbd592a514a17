"""What a person may add to what an original checkpoint tells, and what comes of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.layers.motion_modulation import Mode
from tools.training.weights import Weights


@dataclass(frozen=True)
class Choices:
    """None where the file, or the usual settings, are to decide."""

    output: Path  # of the file to write
    which: str = "ema"  # ema or model: averaged weights, or those of training
    heads: int | None = None  # Endora and Latte: of attention, for widths off the presets
    interlaced: bool = True  # Endora and Latte: spatial and temporal blocks alternate
    anchor_distance: int | None = None  # StyleGAN-V, MoStGAN-V: frames between motion codes
    motion_modulation: Mode = "released"  # MoStGAN-V: how motion changes filters
    latent_scale: float | None = None  # LVDM: latents are scale * (latent + shift)
    latent_shift: float | None = None  # LVDM
    size: int = 128  # LVDM: pixels a side
    frames: int | None = None  # LVDM, stage 1: of a clip
    autoencoder: str | None = None  # LVDM, stage 2: of this project, in place of the file's own
    perceptual: Path | None = None  # LVDM, stage 1: where LPIPS goes, if it is wanted
    interpolation: Mapping[str, object] | None = None  # LVDM, long videos: the other checkpoint
    time_factor: int = 4  # LVDM: frames of the clip in one latent frame
    frame_interval: int = 1  # of the clips that a GAN or LVDM was trained on


@dataclass(frozen=True)
class Imported:
    """Weights to write, and in a few words what they are."""

    weights: Weights
    summary: str
    output: Path
