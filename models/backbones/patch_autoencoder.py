"""An image autoencoder that starts as a cosine transform and is quick to train and to encode."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.tiny_autoencoder import ResidualBlock

# Luminance and two opponent colours of red, green and blue, orthonormal.
COLOURS = torch.tensor(
    [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]], dtype=torch.float64
) / torch.tensor([[math.sqrt(3)], [math.sqrt(2)], [math.sqrt(1.5)]], dtype=torch.float64)


class PatchAutoencoder(nn.Module):
    """One linear map per patch into the latents; its transpose and a small network back.

    Both linear maps start as the lowest frequencies of a cosine transform, the near-optimal
    linear code of natural images, so that the network starts as a working, if blocky, codec.
    The network then removes the blocks and adds detail, at half resolution. Encoding costs next
    to nothing, which matters where every training step encodes.

    Channels that hold fine detail vary little. Dividing each by its deviation would make a
    diffusion model spend its effort on them; dividing all alike would bury them in noise;
    `whitening` w goes between: scale_c = k * deviation_c^w, with k such that the normalised
    latents have unit variance on average. Mean and deviation are measured in training.

    Inputs:  latent channels, side of a patch in pixels (even), width and residual blocks of the
             refining network, whitening from 0 to 1
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: int,
        stride: int = 8,
        width: int = 48,
        blocks: int = 2,
        whitening: float = 0.5,
    ) -> None:
        super().__init__()
        if stride % 2 or not 1 <= channels <= 3 * stride * stride:
            raise ValueError(
                f"a patch of {stride}x{stride} pixels (even sides) has at most "
                f"{3 * stride * stride} channels, got {channels}"
            )
        self.stride, self.channels, self.whitening = stride, channels, whitening
        self.measures = True  # the statistics of the latents, in training
        self.encoder = nn.Conv2d(3, channels, stride, stride=stride)
        self.decoder = nn.ConvTranspose2d(channels, 3, stride, stride=stride)
        self.refine = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.Conv2d(width, 12, 3, padding=1),
        )
        basis = cosine_basis(channels, stride)
        with torch.no_grad():
            for layer in (self.encoder, self.decoder):
                layer.weight.copy_(basis)
                assert layer.bias is not None
                layer.bias.zero_()
            last = self.refine[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight.zero_()  # starts as the linear codec
            last.bias.zero_()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def freeze_encoder(self) -> None:
        """Keep the map into the latents, their mean and their scale as they are."""
        self.encoder.requires_grad_(False)
        self.measures = False

    def forward(self, images: Tensor, noise: float = 0.0) -> Tensor:
        """Reconstruct (N, 3, H, W) through latents with noise of that deviation."""
        latents = self.encoder(images)
        if self.training and self.measures:
            self._measure(latents.detach().float())
        return self._decode(latents + noise * torch.randn_like(latents) * self.scale)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> normalised latents (N, C, H / stride, W / stride)"""
        return (self.encoder(images) - self.mean) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (N, C, h, w) -> (N, 3, h * stride, w * stride), not clamped"""
        return self._decode(latents * self.scale + self.mean)

    @torch.no_grad()
    def _measure(self, latents: Tensor, momentum: float = 0.02) -> None:
        self.mean.lerp_(latents.mean((0, 2, 3))[:, None, None], momentum)
        deviation = latents.std((0, 2, 3)).clamp_min(1e-3)[:, None, None]
        self.deviation.lerp_(deviation, momentum)
        partly = self.deviation**self.whitening
        self.scale.copy_(partly * (self.deviation / partly).square().mean().sqrt())

    def _decode(self, latents: Tensor) -> Tensor:
        blocky = self.decoder(latents)
        return blocky + F.pixel_shuffle(self.refine(F.pixel_unshuffle(blocky, 2)), 2)


def cosine_basis(channels: int, side: int) -> Tensor:
    """The `channels` smoothest patterns of a colour patch, orthonormal: (C, 3, side, side).

    Patterns are ordered by spatial frequency; a chrominance pattern counts as twice its
    frequency and one more, for colour varies more slowly than light.
    """
    frequency = torch.arange(side, dtype=torch.float64, device=COLOURS.device)
    waves = torch.cos(frequency[:, None] * (frequency + 0.5) * math.pi / side) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    ranked = sorted(
        ((1 if colour == 0 else 2) * math.hypot(row, column) + (colour > 0), colour, row, column)
        for colour in range(3)
        for row in range(side)
        for column in range(side)
    )
    patterns = [
        torch.einsum("c,h,w->chw", COLOURS[colour], waves[row], waves[column])
        for _, colour, row, column in ranked[:channels]
    ]
    return torch.stack(patterns).float()
