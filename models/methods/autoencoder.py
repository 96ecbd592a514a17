"""A small image autoencoder, trained on frames: latents for when no pre-trained one fits.

Mean absolute error plus that of image gradients, which keeps edges such as vessels and
highlights; a little noise on the latents makes the decoder robust to a generator's errors. The
statistics of the latents are measured during training and kept beside the weights, so that a
diffusion model sees zero mean and unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import MethodConfig, SamplingConfig
from models.backbones.tiny_autoencoder import TinyAutoencoder
from models.interface import Batch, Loss, Method, Networks, Phase, Progress, VideoNoise


@dataclass
class AutoencoderConfig(MethodConfig):
    channels: int = 8  # of a latent cell
    width: int = 64  # channels of every layer
    encoder_blocks: list[int] = field(default_factory=lambda: [1, 3, 3, 3])  # fine to coarse
    decoder_blocks: list[int] = field(default_factory=lambda: [3, 3, 3, 1])  # coarse to fine
    gradient_weight: float = 1.0  # of the error of image gradients
    latent_noise: float = 0.1  # standard deviation of the noise on normalised latents
    spread_weight: float = 0.01  # keeps raw latents near zero mean and unit variance


class TrainedAutoencoder(nn.Module):
    """A `TinyAutoencoder` with the running mean and deviation of each latent channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.autoencoder = TinyAutoencoder(
            config.channels, config.width, config.encoder_blocks, config.decoder_blocks
        )
        self.register_buffer("mean", torch.zeros(config.channels))
        self.register_buffer("deviation", torch.ones(config.channels))

    def forward(self, images: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> (reconstruction, raw latents), with noise in units of a deviation."""
        latents = self.autoencoder.encode(images)
        self._measure(latents.detach().float())
        noisy = latents + noise * torch.randn_like(latents) * self.deviation[:, None, None]
        return self.autoencoder.decode(noisy), latents

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> normalised latents (N, C, h, w)"""
        latents = self.autoencoder.encode(images)
        return (latents - self.mean[:, None, None]) / self.deviation[:, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (N, C, h, w) -> (N, 3, H, W)"""
        raw = latents * self.deviation[:, None, None] + self.mean[:, None, None]
        return self.autoencoder.decode(raw)

    @torch.no_grad()
    def _measure(self, latents: Tensor, momentum: float = 0.01) -> None:
        if self.training:
            self.mean.lerp_(latents.mean((0, 2, 3)), momentum)
            self.deviation.lerp_(latents.std((0, 2, 3)).clamp_min(1e-3), momentum)


class Autoencoder(Method):
    Config = AutoencoderConfig
    config: AutoencoderConfig

    def build_networks(self) -> dict[str, nn.Module]:
        network = TrainedAutoencoder(self.config)
        self.shape.downscale(network.autoencoder.stride, self.config.channels)  # must divide
        return {"autoencoder": network}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("autoencoder", self.reconstruction_loss)]

    def reconstruction_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Reconstruct every frame of the clips and every extra image."""
        images = batch.frames.flatten(0, 1)
        output, latents = networks["autoencoder"](images, self.config.latent_noise)
        output, latents = output.float(), latents.float()
        error = (output - images).abs().mean()
        edges = gradient_error(output, images)
        spread = (
            latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        )
        total = error + self.config.gradient_weight * edges + self.config.spread_weight * spread
        ratio = -10 * torch.log10((output.clamp(-1, 1) - images).square().mean() / 4)
        parts = {"error": error, "gradient_error": edges, "spread": spread, "psnr": ratio}
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
    ) -> Tensor:
        """Decode Gaussian latents: a check of the decoder's range, not a generator."""
        network = networks["autoencoder"]
        assert isinstance(network, TrainedAutoencoder)
        latents = self.shape.downscale(network.autoencoder.stride, self.config.channels)
        drawn = noise.draw(*latents.batch(1)[1:])
        videos = network.decode(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2])
        if progress:
            progress(1, 1)
        return videos.float().clamp(-1, 1)


def gradient_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences, of (N, 3, H, W): ()."""
    difference = output - target
    return F.l1_loss(difference[..., 1:], difference[..., :-1]) + F.l1_loss(
        difference[..., 1:, :], difference[..., :-1, :]
    )


METHOD = Autoencoder
