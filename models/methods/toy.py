"""The smallest complete method: one learned mean frame per clip position, plus noise.

It exercises every part of the interface in milliseconds, so tests and newcomers use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import MethodConfig, SamplingConfig
from models.interface import Batch, Loss, Method, Networks, Phase, Progress, VideoNoise


@dataclass
class ToyConfig(MethodConfig):
    noise: float = 0.1  # standard deviation of the noise added to targets and samples


@dataclass
class ToySampling(SamplingConfig):
    strength: float = 1.0  # factor on the noise of a sample


class MeanVideo(nn.Module):
    """A clip-sized table of pixels. Output: (1, F, 3, H, W)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.pixels = nn.Parameter(0.02 * torch.randn(shape))

    def forward(self) -> Tensor:
        return self.pixels


class Toy(Method):
    Config = ToyConfig
    Sampling = ToySampling
    adjustable = frozenset({"noise"})
    config: ToyConfig

    def build_networks(self) -> dict[str, nn.Module]:
        return {"mean": MeanVideo(self.shape.batch(1))}

    def phases(self, step: int) -> Sequence[Phase]:
        return [Phase("mean", self.loss)]

    def loss(self, networks: Networks, batch: Batch) -> Loss:
        """Squared distance to the clips with a little noise: a loss that uses randomness."""
        target = batch.videos + self.config.noise * torch.randn_like(batch.videos)
        error = (networks["mean"]() - target).square().mean()
        return Loss(error, {"error": error.detach()})

    def sample(
        self,
        networks: Networks,
        noise: VideoNoise,
        settings: SamplingConfig,
        progress: Progress | None = None,
        frames: int | None = None,
    ) -> Tensor:
        self.require_clip_frames(frames)
        assert isinstance(settings, ToySampling)
        deviation = self.config.noise * settings.strength
        videos = networks["mean"]() + deviation * noise.draw(*self.shape.batch(1)[1:])
        if progress:
            progress(1, 1)
        return videos.clamp(-1, 1)


METHOD = Toy
