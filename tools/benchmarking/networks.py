"""The method under test: Endora in a preset's size, with networks of the published shapes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from configs.schema import TrainConfig
from configs.shapes import VideoShape
from models.codecs.build import CodecConfig
from models.codecs.interface import Codec, Moments
from models.codecs.untrained import STABLE_DIFFUSION, write_untrained_autoencoder
from models.interface import Batch, Loss
from models.methods.endora import (
    LOG_VARIANCE,
    MEAN,
    Endora,
    EndoraConfig,
    GuidedDenoiser,
    TransformerConfig,
)
from models.priors.features import PriorConfig
from tools.benchmarking.counting import ItemShape

STRIDE = 8  # of the autoencoder
PRIOR, PRIOR_PATCH = "vit_small_patch8_224.dino", 8
SMALL_AUTOENCODER = (32, 32, 32, 32)  # in a hurry
OPENED = 0.02  # deviation of weights that start as zero, so that every layer does its part


@dataclass(frozen=True)
class Model:
    """What is timed: the preset and the clip it sees."""

    size: str = "S"
    frames: int = 16
    images: int = 8
    pixels: int = 128
    depth: int | None = None  # instead of the preset's, in a hurry
    small_codec: bool = False
    checkpointing: bool = False  # recompute activations in the backward pass

    @property
    def clip(self) -> VideoShape:
        """(F, 3, H, W)"""
        return VideoShape(self.frames, 3, self.pixels, self.pixels)

    @property
    def latents(self) -> VideoShape:
        """(F, C, h, w)"""
        return self.clip.downscale(STRIDE, 4)

    @property
    def transformer(self) -> TransformerConfig:
        """Its settings."""
        return TransformerConfig(
            size=self.size,  # type: ignore[arg-type]
            depth=self.depth,
            checkpointing=self.checkpointing,
        )

    @property
    def prior(self) -> PriorConfig:
        """Four layers of the ViT guide four pairs of blocks, spread evenly."""
        pairs = self.transformer.sizes[0] // 2
        chosen = [min(pairs - 1, pair) for pair in (2, 5, 8, 11)] if pairs < 12 else [2, 5, 8, 11]
        return PriorConfig(name=PRIOR, weights="untrained", pairs=chosen)

    @property
    def item(self) -> ItemShape:
        """Its sizes for counting."""
        depth, width, _ = self.transformer.sizes
        return ItemShape(
            frames=self.frames,
            images=self.images,
            latent=self.latents.height,
            depth=depth,
            width=width,
            prior_layers=len(self.prior.layers),
            prior_cells=(self.pixels // PRIOR_PATCH) ** 2,
        )

    @property
    def cached_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what a cache keeps of one frame."""
        latent = (4, self.latents.height, self.latents.width)
        side = self.pixels // PRIOR_PATCH
        maps = {f"prior.{k}": (384, side, side) for k in range(len(self.prior.layers))}
        return {MEAN: latent, LOG_VARIANCE: latent, **maps}


class BenchmarkedEndora(Endora):
    """Endora that trains a network, and with an optimizer, made elsewhere.

    Without `codec_folder` there is neither codec nor prior, as with a cache.
    """

    network: GuidedDenoiser | None = None
    optimizer: Optimizer | None = None

    def __init__(self, model: Model, codec_folder: Path | None = None) -> None:
        weights = str(codec_folder) if codec_folder else None
        config = EndoraConfig(
            transformer=model.transformer,
            codec=CodecConfig(name="autoencoder", weights=weights),
            prior=model.prior,
        )
        super().__init__(config, model.clip, cached=None if codec_folder else model.cached_shapes)

    def given(self, network: GuidedDenoiser, optimizer: Optimizer) -> BenchmarkedEndora:
        """The same method for these."""
        method = copy.copy(self)
        method.network, method.optimizer = network, optimizer
        return method

    def build_networks(self) -> dict[str, nn.Module]:
        return {"denoiser": self.network} if self.network else super().build_networks()

    def build_optimizer(self, network: nn.Module, settings: TrainConfig) -> Optimizer:
        return self.optimizer or super().build_optimizer(network, settings)

    def step_loss(self, network: nn.Module, batch: Batch) -> Loss:
        """The loss of the first training step."""
        return self.phases(0)[0].loss({"denoiser": network}, batch)


class LatentsOnly(BenchmarkedEndora):
    """Endora whose samples are its latents, so that sampling and decoding are timed apart."""

    @property
    def codec(self) -> Codec:
        """One that does nothing."""
        return _NoCodec()


class _NoCodec(Codec):
    stride, channels = STRIDE, 4

    def decode(self, latents: Tensor, *, bf16: bool = False) -> Tensor:
        return latents

    def encode_images(self, images: Tensor) -> Moments:
        raise NotImplementedError

    def decode_images(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def new_denoiser(model: Model, device: torch.device, seed: int = 0) -> GuidedDenoiser:
    """A network none of whose weights are zero."""
    torch.manual_seed(seed)
    network = BenchmarkedEndora(model).build_networks()["denoiser"].to(device)
    assert isinstance(network, GuidedDenoiser)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=OPENED)
    return network


def write_codec(folder: Path, model: Model) -> Path:
    """Random weights of the autoencoder, once for each folder."""
    if not (folder / "config.json").is_file():
        widths = SMALL_AUTOENCODER if model.small_codec else STABLE_DIFFUSION
        write_untrained_autoencoder(folder, widths)
    return folder


def pixel_batch(model: Model, items: int, device: torch.device) -> Batch:
    """Random pixels."""
    size = (3, model.pixels, model.pixels)
    return Batch(
        torch.rand(items, model.frames, *size, device=device) * 2 - 1,
        torch.rand(items, model.images, *size, device=device) * 2 - 1 if model.images else None,
    )


def cached_batch(model: Model, items: int, device: torch.device) -> Batch:
    """Random numbers in the place of what a cache keeps, in its type."""
    parts = {
        name: torch.randn(items, model.frames + model.images, *shape, device=device).half()
        for name, shape in model.cached_shapes.items()
    }
    parts[LOG_VARIANCE] -= 4
    return Batch(torch.empty(items, model.frames, 3, 0, 0, device=device), cached=parts)
