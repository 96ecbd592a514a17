"""A `VideoUnet` that knows of which latents it is: their mean and spread, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from models.backbones.video_unet import VideoUnet


class LatentDenoiser(VideoUnet):
    """The network of a latent diffusion model with what belongs to its autoencoder.

    latent_moments      (2,) float32: mean of the latents, mean of their squares. Kept as they are,
                        so that processes that measured on different data can average them
    autoencoder_sha256  (32,) uint8: hash of the weights that made the latents
    """

    latent_moments: Tensor
    autoencoder_sha256: Tensor

    def __init__(self, channels: int, sha256: str = "", **sizes: Any) -> None:
        super().__init__(channels, **sizes)
        digest = bytes.fromhex(sha256) or bytes(32)
        self.register_buffer("latent_moments", torch.tensor([0.0, 1.0]))
        self.register_buffer("autoencoder_sha256", torch.tensor(list(digest), dtype=torch.uint8))

    @property
    def recorded_sha256(self) -> str:
        """The recorded hash in hexadecimal digits."""
        return bytes(self.autoencoder_sha256.tolist()).hex()

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder makes them, to mean 0 and deviation 1 over all of them."""
        mean, deviation = self._statistics()
        return (latents - mean) / deviation

    def restore(self, normalised: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, deviation = self._statistics()
        return normalised.float() * deviation + mean

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Take the moments of latents, in pieces of one size."""
        moments = [
            torch.stack([piece.double().mean(), piece.double().square().mean()])
            for piece in latents
        ]
        self.latent_moments.copy_(torch.stack(moments).mean(0))

    @torch.no_grad()
    def set_scale(self, scale: float, shift: float) -> None:
        """Let the normalised latents be scale * (latents + shift), whatever the data."""
        self.latent_moments.copy_(torch.tensor([-shift, scale**-2 + shift**2]))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        mean, square = self.latent_moments.double()
        deviation = (square - mean.square()).clamp_min(1e-12).sqrt()
        return mean.float(), deviation.float()
