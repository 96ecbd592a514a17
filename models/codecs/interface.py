"""Pixels <-> latents behind one class that owns its stride, channels and scale."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn


class Codec(nn.Module):
    """Encodes videos frame by frame. Frozen: parameters never receive gradients.

    `stride` is the side of a latent cell in pixels, `channels` the latent channels, `chunk` the
    number of frames encoded or decoded at once, which bounds memory.
    """

    stride: int
    channels: int
    chunk: int = 64

    def encode(self, frames: Tensor) -> Tensor:
        """Pixels (B, F, 3, H, W) in [-1, 1] -> latents (B, F, C, h, w) of about unit variance.

        A variational codec draws from its posterior.
        """
        return self._by_chunks(self.encode_images, frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, F, C, h, w) -> pixels (B, F, 3, H, W), clamped to [-1, 1]."""
        return self._by_chunks(self.decode_images, latents).clamp(-1, 1)

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w)"""

    @abstractmethod
    def decode_images(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 3, H, W)"""

    def _by_chunks(self, function, videos: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        # Half precision costs an autoencoder visible colour, and it is a small share of a step.
        with torch.no_grad(), torch.autocast(videos.device.type, enabled=False):
            pieces = videos.float().flatten(0, 1).split(self.chunk)
            return torch.cat([function(piece) for piece in pieces]).unflatten(0, videos.shape[:2])
