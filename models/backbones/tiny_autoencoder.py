"""A small convolutional image autoencoder of the TAESD family.

The layers and their order are those of the published TAESD, TAEF1 and TAEF2 weight files
(MIT licence), so these load directly; a narrower one is quick to train on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LATENT_LIMIT = 3.0  # the decoder's input saturates smoothly at this magnitude


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions around a skip; optionally a 1x1 branch with group norm first."""

    def __init__(self, width: int, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(4, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, images: Tensor) -> Tensor:
        if hasattr(self, "pool"):
            images = images + self.pool(images)
        return torch.relu(self.conv(images) + images)


class SoftClamp(nn.Module):
    """Bounds latents by tanh, so that a stray value cannot flood the decoder."""

    def forward(self, latents: Tensor) -> Tensor:
        return LATENT_LIMIT * torch.tanh(latents / LATENT_LIMIT)


class TinyAutoencoder(nn.Module):
    """Encoder and decoder. Each level but the finest halves the resolution.

    Inputs:  latent channels, width of all layers, blocks of each encoder level from fine to
             coarse, blocks of each decoder level from coarse to fine, and whether the blocks of
             the coarsest level have the pooled branch (TAEF2)
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if len(encoder_blocks) != len(decoder_blocks):
            raise ValueError("encoder_blocks and decoder_blocks must name the same levels")
        self.stride = 2 ** (len(encoder_blocks) - 1)
        self.channels = channels
        self.encoder = _encoder(channels, width, encoder_blocks, pooled)
        self.decoder = _decoder(channels, width, decoder_blocks, pooled)

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, C, H / stride, W / stride)"""
        return self.encoder((images + 1) / 2)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 3, h * stride, w * stride), about [-1, 1], not clamped"""
        return self.decoder(latents) * 2 - 1


def _encoder(channels: int, width: int, blocks: Sequence[int], pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
    for level, count in enumerate(blocks):
        if level:
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
        last = level == len(blocks) - 1
        layers += [ResidualBlock(width, pooled and last) for _ in range(count)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))


def _decoder(channels: int, width: int, blocks: Sequence[int], pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [SoftClamp(), nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    for level, count in enumerate(blocks):
        if level:
            layers.append(nn.Upsample(scale_factor=2))
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        layers += [ResidualBlock(width, pooled and level == 0) for _ in range(count)]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))
