"""A small image autoencoder, trained on frames: latents for when no pre-trained one fits.

Mean absolute error plus that of image gradients, which keeps edges such as vessels and
highlights; a little noise on the latents makes the decoder robust to a generator's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import MethodConfig, SamplingConfig, require
from models.backbones.patch_autoencoder import PatchAutoencoder
from models.interface import Batch, Loss, Method, Networks, Phase, Progress, VideoNoise


@dataclass
class AutoencoderConfig(MethodConfig):
    channels: int = 24  # of a latent cell
    stride: int = 8  # side of a latent cell in pixels
    width: int = 48  # channels of the refining network
    blocks: int = 2  # residual blocks of the refining network
    gradient_weight: float = 1.0  # of the error of image gradients
    latent_noise: float = 0.05  # standard deviation of the noise on normalised latents
    train_encoder: bool = True  # false: only the decoder learns, so that known latents stay valid
    whitening: float = 0.2  # 1: every latent channel to unit variance; 0: one scale for all

    def __post_init__(self) -> None:
        require(
            0 <= self.whitening <= 1,
            f"method.whitening: from 0 to 1, got {self.whitening}",
        )


class Autoencoder(Method):
    Config = AutoencoderConfig
    adjustable = frozenset({"gradient_weight", "latent_noise"})
    config: AutoencoderConfig

    def build_networks(self) -> dict[str, nn.Module]:
        self.shape.downscale(self.config.stride, self.config.channels)  # must divide
        config = self.config
        network = PatchAutoencoder(
            config.channels, config.stride, config.width, config.blocks, config.whitening
        )
        if not config.train_encoder:
            network.freeze_encoder()
        return {"autoencoder": network}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("autoencoder", self.reconstruction_loss)]

    def reconstruction_loss(self, networks: Networks, batch: Batch) -> Loss:
        """Reconstruct every frame of the clips and every extra image."""
        images = batch.frames.flatten(0, 1)
        output = networks["autoencoder"](images, self.config.latent_noise).float()
        error = (output - images).abs().mean()
        edges = gradient_error(output, images)
        ratio = -10 * torch.log10((output.clamp(-1, 1) - images).square().mean() / 4)
        parts = {"error": error, "gradient_error": edges, "psnr": ratio}
        return Loss(
            error + self.config.gradient_weight * edges,
            {name: part.detach() for name, part in parts.items()},
        )

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Decode Gaussian latents: a check of the decoder's range, not a generator."""
        self.require_clip_frames(frames)
        network = networks["autoencoder"]
        assert isinstance(network, PatchAutoencoder)
        latents = self.shape.downscale(self.config.stride, self.config.channels)
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
