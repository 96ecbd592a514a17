"""The generator of StyleGAN-V (arXiv 2112.14683): pictures at any time, from content and motion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.backbones.stylegan.mapping import MappingNetwork
from models.backbones.stylegan.motion import MotionEncoder, MotionSizes
from models.layers.modulated import ModulatedConvolution, ToRGB, per_image
from models.layers.motion_modulation import Mode, MotionModulation, MotionStyles
from models.layers.resampling import double, low_pass_filter

SMALLEST = 4  # resolution of the first maps
FULL_PRECISION_BELOW = 16  # maps smaller than this stay float32 under autocast


@dataclass(frozen=True)
class MotionStyleSizes:
    """Sizes of what MoStGAN-V (arXiv 2304.02777) adds; the defaults are its own."""

    count: int = 8  # motion styles of a frame
    width: int = 128
    resolutions: tuple[int, ...] = (16, 32, 64, 128)  # blocks whose filters follow the motion
    mode: Mode = "released"


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
    motion_styles: MotionStyleSizes | None = None  # MoStGAN-V has them, StyleGAN-V has not

    def __post_init__(self) -> None:
        if self.resolution < 2 * SMALLEST or self.resolution & (self.resolution - 1):
            raise ValueError(
                f"the generator's resolution must be a power of 2, at least {2 * SMALLEST}; "
                f"it is {self.resolution}"
            )
        followed = self.motion_styles.resolutions if self.motion_styles else ()
        if self.motion_styles and not any(SMALLEST < r <= self.resolution for r in followed):
            raise ValueError(
                f"motion styles change no block: the generator has none of the resolutions "
                f"{', '.join(map(str, followed))}; it has 8 to {self.resolution}"
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
              truncation of the content in 0..1, see `MappingNetwork`; likeness (with motion
              styles alone): also give how alike the layers attend to them, see `likeness` below
    Output:   videos (B, F, 3, H, W) float32, about [-1, 1] after training, unbounded in principle
    """

    def __init__(self, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.mapping = MappingNetwork(sizes.noise_width, sizes.latent_width, sizes.mapping_layers)
        self.synthesis = SynthesisNetwork(sizes)

    def forward(
        self,
        latents: Tensor,
        times: Tensor,
        motion_noise: Tensor,
        truncation: float = 1.0,
        *,
        likeness: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        styles = self.mapping(latents, truncation)
        motion = self.synthesis.motion_encoder(times, motion_noise)
        videos = self.synthesis(styles, motion)
        return (videos, self.synthesis.likeness(styles, motion)) if likeness else videos

    def motion_length(self, latest: float) -> int:
        """Vectors of motion noise needed for all times up to `latest`."""
        return self.sizes.motion.noise_length(latest)


class SynthesisNetwork(nn.Module):
    """Latents (B, W) and the motion (B, F, V) that its `motion_encoder` gave: (B, F, 3, H, W).

    A region of its own for torch.compile. Were it each block, their shapes would exceed the
    number of variants of one code that the compiler keeps; and how much of the motion encoder's
    noise is needed depends on the times.
    """

    compiled_alone = True

    def __init__(self, sizes: GeneratorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.motion_encoder = MotionEncoder(sizes.motion)
        extra = sizes.motion_styles
        self.multimotionmap = (
            MotionStyles(sizes.latent_width, sizes.motion.width, extra.count, extra.width)
            if extra
            else None
        )
        self.b4 = FirstBlock(sizes.width(SMALLEST), sizes.motion.width, sizes.latent_width)
        for resolution in self.resolutions():
            given, wanted = sizes.width(resolution // 2), sizes.width(resolution)
            followed = extra if extra and resolution in extra.resolutions else None
            block = SynthesisBlock(given, wanted, resolution, sizes.latent_width, followed)
            self.add_module(f"b{resolution}", block)

    def resolutions(self) -> Iterator[int]:
        """Those of the blocks after the first: 8, 16, ... up to that of the video."""
        resolution = 2 * SMALLEST
        while resolution <= self.sizes.resolution:
            yield resolution
            resolution *= 2

    def forward(self, latents: Tensor, motion: Tensor) -> Tensor:
        motion_styles = self.motion_styles(latents, motion)
        maps, pictures = self.b4(latents, motion.flatten(0, 1))
        for resolution in self.resolutions():
            block = self.get_submodule(f"b{resolution}")
            maps, pictures = block(maps, pictures, latents, motion_styles)
        return pictures.unflatten(0, motion.shape[:2])

    def motion_styles(self, latents: Tensor, motion: Tensor) -> Tensor | None:
        """Those of every frame, (B F, J, D), or None for a generator without."""
        if self.multimotionmap is None:
            return None
        motion = motion.flatten(0, 1)
        return self.multimotionmap(per_image(latents, len(motion)), motion)

    def likeness(self, latents: Tensor, motion: Tensor) -> Tensor:
        """How alike the layers attend to different motion styles: a scalar to keep small.

        The sum over the layers that follow motion, divided by the number of all layers under a
        style. Inputs as of `forward`. Raises ValueError without motion styles.
        """
        motion_styles = self.motion_styles(latents, motion)
        if motion_styles is None:
            raise ValueError("a generator without motion styles has no likeness of them")
        layers = [part for part in self.modules() if isinstance(part, ModulatedConvolution)]
        total = torch.zeros((), device=latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            for layer in layers:
                if isinstance(layer.hypernet, MotionModulation):
                    styles = per_image(layer.affine(latents), len(motion_styles))
                    total = total + layer.hypernet.likeness(layer.weight, styles, motion_styles)
        return total / (len(layers) + 1)  # one more: the last layer to pictures


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

    Inputs:  maps (N, C, r/2, r/2), pictures (N, 3, r/2, r/2) float32, latents (B, W); motion
             styles (N, J, D) for a block that `follows` them
    Outputs: maps (N, D, r, r), pictures (N, 3, r, r) float32
    """

    low_pass: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        resolution: int,
        latent_width: int,
        follows: MotionStyleSizes | None = None,
    ) -> None:
        super().__init__()

        def layer(given: int, *, doubles: bool = False) -> ModulatedConvolution:
            change = MotionModulation(given, follows.width, follows.mode) if follows else None
            return ModulatedConvolution(
                given, outputs, latent_width, doubles=doubles, hypernet=change
            )

        self.full_precision = resolution < FULL_PRECISION_BELOW
        self.conv0 = layer(inputs, doubles=True)
        self.conv1 = layer(outputs)
        self.torgb = ToRGB(outputs, latent_width)
        self.register_buffer("low_pass", low_pass_filter(), persistent=False)

    def forward(
        self, maps: Tensor, pictures: Tensor, latents: Tensor, motion_styles: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with self._precision(maps.device.type):
            maps = self.conv0(maps, latents, motion_styles)
            maps = self.conv1(maps, latents, motion_styles)
            added = self.torgb(maps, latents)
        with torch.autocast(maps.device.type, enabled=False):
            return maps, double(pictures, self.low_pass) + added

    def _precision(self, device_type: str) -> AbstractContextManager[object]:
        if self.full_precision:
            return torch.autocast(device_type, enabled=False)
        return nullcontext()
