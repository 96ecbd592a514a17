"""The generator of StyleGAN-V (arXiv 2112.14683): pictures at any time, from content and motion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.backbones.stylegan.mapping import MappingNetwork
from models.backbones.stylegan.motion import MotionEncoder, MotionSizes
from models.layers.modulated import ModulatedConvolution, ToRGB
from models.layers.resampling import double, low_pass_filter

SMALLEST = 4  # resolution of the first maps
FULL_PRECISION_BELOW = 16  # maps smaller than this stay float32 under autocast


@dataclass(frozen=True)
class GeneratorSizes:
    """Sizes of the generator; the defaults are those of StyleGAN-V at 128x128.

    Maps of r x r pixels have min(`channel_base` / r, `channel_max`) channels.
    """

    resolution: int = 128
    channel_base: int = 16384
    channel_max: int = 512
    noise_width: int = 512  # of the content noise
    latent_width: int = 512
    mapping_layers: int = 2
    motion: MotionSizes = field(default_factory=MotionSizes)

    def __post_init__(self) -> None:
        if self.resolution < 2 * SMALLEST or self.resolution & (self.resolution - 1):
            raise ValueError(
                f"the generator's resolution must be a power of 2, at least {2 * SMALLEST}; "
                f"it is {self.resolution}"
            )

    def width(self, resolution: int) -> int:
        """Channels of maps with this resolution."""
        return min(self.channel_base // resolution, self.channel_max)


class Generator(nn.Module):
    """Content noise, times and motion noise to a video.

    Every frame depends on its own time, the content and the motion around it alone, so that any
    times can be asked for, in any number, and frames of one clip made in several calls.

    Letters:  B clips, F frames, Z content noise width, L and Zm length and width of motion noise
    Inputs:   latents (B, Z) standard normal; times (B, F) in frames, at least 0; motion_noise
              (B, L, Zm) standard normal with L of at least `motion_length(latest time)`;
              truncation of the content in 0..1, see `MappingNetwork`
    Output:   videos (B, F, 3, H, W) float32, about [-1, 1] after training, unbounded in principle
    """

    def __init__(self, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.mapping = MappingNetwork(sizes.noise_width, sizes.latent_width, sizes.mapping_layers)
        self.synthesis = SynthesisNetwork(sizes)

    def forward(
        self, latents: Tensor, times: Tensor, motion_noise: Tensor, truncation: float = 1.0
    ) -> Tensor:
        styles = self.mapping(latents, truncation)
        return self.synthesis(styles, times, motion_noise)

    def motion_length(self, latest: float) -> int:
        """Vectors of motion noise needed for all times up to `latest`."""
        return self.sizes.motion.noise_length(latest)


class SynthesisNetwork(nn.Module):
    """Latents (B, W), times (B, F) and motion noise (B, L, Zm) to videos (B, F, 3, H, W)."""

    def __init__(self, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.motion_encoder = MotionEncoder(sizes.motion)
        self.b4 = FirstBlock(sizes.width(SMALLEST), sizes.motion.width, sizes.latent_width)
        for resolution in self.resolutions():
            given, wanted = sizes.width(resolution // 2), sizes.width(resolution)
            block = SynthesisBlock(given, wanted, resolution, sizes.latent_width)
            self.add_module(f"b{resolution}", block)

    def resolutions(self) -> Iterator[int]:
        """Those of the blocks after the first: 8, 16, ... up to that of the video."""
        resolution = 2 * SMALLEST
        while resolution <= self.sizes.resolution:
            yield resolution
            resolution *= 2

    def forward(self, latents: Tensor, times: Tensor, motion_noise: Tensor) -> Tensor:
        motion = self.motion_encoder(times, motion_noise).flatten(0, 1)  # (B F, V)
        maps, pictures = self.b4(latents, motion)
        for resolution in self.resolutions():
            maps, pictures = self.get_submodule(f"b{resolution}")(maps, pictures, latents)
        return pictures.unflatten(0, times.shape)


class LearnedConstant(nn.Module):
    """The learned maps from which every picture starts, with its motion at each of their places.

    Motion (N, V) -> (N, C + V, 4, 4)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, channels, SMALLEST, SMALLEST))

    def forward(self, motion: Tensor) -> Tensor:
        there = motion[:, :, None, None].expand(-1, -1, SMALLEST, SMALLEST)
        return torch.cat([self.const.expand(len(motion), -1, -1, -1), there], dim=1)


class FirstBlock(nn.Module):
    """4x4: latents (B, W) and motion (B F, V) to maps (N, C, 4, 4) and pictures (N, 3, 4, 4)."""

    compiled_alone = True

    def __init__(self, channels: int, motion_width: int, latent_width: int) -> None:
        super().__init__()
        self.input = nn.ModuleDict({"input": LearnedConstant(channels)})  # as checkpoints name it
        self.conv1 = ModulatedConvolution(channels + motion_width, channels, latent_width)
        self.torgb = ToRGB(channels, latent_width)

    def forward(self, latents: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(latents.device.type, enabled=False):
            maps = self.conv1(self.input["input"](motion), latents)
            return maps, self.torgb(maps, latents)


class SynthesisBlock(nn.Module):
    """Doubles maps and pictures, and adds to the pictures what the new maps show.

    Inputs:  maps (N, C, r/2, r/2), pictures (N, 3, r/2, r/2) float32, latents (B, W)
    Outputs: maps (N, D, r, r), pictures (N, 3, r, r) float32
    """

    compiled_alone = True
    low_pass: Tensor

    def __init__(self, inputs: int, outputs: int, resolution: int, latent_width: int) -> None:
        super().__init__()
        self.full_precision = resolution < FULL_PRECISION_BELOW
        self.conv0 = ModulatedConvolution(inputs, outputs, latent_width, doubles=True)
        self.conv1 = ModulatedConvolution(outputs, outputs, latent_width)
        self.torgb = ToRGB(outputs, latent_width)
        self.register_buffer("low_pass", low_pass_filter(), persistent=False)

    def forward(self, maps: Tensor, pictures: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision(maps.device.type):
            maps = self.conv0(maps, latents)
            maps = self.conv1(maps, latents)
            added = self.torgb(maps, latents)
        with torch.autocast(maps.device.type, enabled=False):
            return maps, double(pictures, self.low_pass) + added

    def _precision(self, device_type: str) -> AbstractContextManager[object]:
        if self.full_precision:
            return torch.autocast(device_type, enabled=False)
        return nullcontext()
