"""The discriminator of StyleGAN-V (arXiv 2112.14683), and what MoStGAN-V (2304.02777) changes.

Frames pass a trunk of their own down to 16x16 maps; there the maps of a clip are joined, so that
the rest judges the clip as a whole. How far the frames lie apart in time enters at the very end,
by a projection. Everything can be differentiated twice, as R1 needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones.stylegan.motion import TimeGaps
from models.layers.equalised import (
    EqualisedConvolution,
    EqualisedLinear,
    normalise_second_moment,
)

SMALLEST = 4  # resolution of the last maps
FULL_PRECISION_BELOW = 16  # maps smaller than this stay float32 under autocast


@dataclass(frozen=True)
class DiscriminatorSizes:
    """Sizes of the discriminator; the defaults are those of StyleGAN-V at 128x128.

    Maps of r x r pixels have min(`channel_base` / r, `channel_max`) channels. Frames are joined
    where their maps have `joined_at` pixels a side, with that width divided by `joined_divisor`.
    """

    resolution: int = 128
    frames: int = 16
    channel_base: int = 16384
    channel_max: int = 512
    joined_at: int = 16
    joined_divisor: int = 2
    hidden: int = 512  # width of the hidden layer after the last maps; MoStGAN-V: 128
    conditioning_width: int = 512
    longest_video: int = 1024  # largest gap between frames, exclusive; MoStGAN-V: 300
    group: int = 4  # clips over which the last maps' deviation is measured
    frame_differences: bool = False  # MoStGAN-V: judge the differences of frames as well

    def __post_init__(self) -> None:
        for name in ("resolution", "joined_at"):
            value = getattr(self, name)
            if value < 2 * SMALLEST or value & (value - 1):
                raise ValueError(
                    f"the discriminator's {name} must be a power of 2, at least {2 * SMALLEST}; "
                    f"it is {value}"
                )
        if self.joined_at >= self.resolution:
            raise ValueError(
                f"frames of {self.resolution} pixels cannot be joined at {self.joined_at} pixels; "
                "choose a larger clip.size, or a smaller joined_at"
            )
        if self.frames < 2:
            raise ValueError("the discriminator judges motion: clip.frames must be at least 2")

    def width(self, resolution: int) -> int:
        """Channels of maps with this resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def maps(self) -> int:
        """Images of a clip that pass the trunk of the frames."""
        return self.frames * (2 if self.frame_differences else 1)


class Discriminator(nn.Module):
    """How real a clip looks, given the times of its frames.

    In training, clips pass the `augmentation` first where one is given: a module from clips to
    clips. It is kept here so that its state is saved with the network.

    Letters:  B clips, F frames, H W pixels a side
    Inputs:   videos (B, F, 3, H, W) in [-1, 1], times (B, F) ascending, in frames
    Output:   logits (B,) float32
    Raises:   ValueError when B cannot be divided into groups, see `deviation_map`
    """

    def __init__(self, sizes: DiscriminatorSizes, augmentation: nn.Module | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.augmentation = augmentation
        self.time_encoder = TimeGaps(sizes.longest_video)
        resolution = sizes.resolution
        while resolution > SMALLEST:
            self.add_module(f"b{resolution}", self._block(resolution))
            resolution //= 2
        conditions = self.time_encoder.width(sizes.frames)
        self.mapping = GapMapping(conditions, sizes.conditioning_width)
        self.b4 = Epilogue(sizes)

    def _block(self, resolution: int) -> DiscriminatorBlock:
        sizes = self.sizes
        given, wanted = sizes.width(resolution), sizes.width(resolution // 2)
        middle = given
        if resolution == 2 * sizes.joined_at:
            wanted //= sizes.joined_divisor
        if resolution == sizes.joined_at:
            given = given // sizes.joined_divisor * sizes.maps
        return DiscriminatorBlock(
            given, middle, wanted, resolution, from_rgb=resolution == sizes.resolution
        )

    def forward(self, videos: Tensor, times: Tensor) -> Tensor:
        if self.augmentation is not None and self.training:
            videos = self.augmentation(videos)
        if self.sizes.frame_differences:
            videos = torch.cat([videos, frame_differences(videos)], dim=1)
        maps = videos.flatten(0, 1)
        resolution = self.sizes.resolution
        while resolution > SMALLEST:
            if resolution == self.sizes.joined_at:
                maps = maps.unflatten(0, (len(videos), -1)).flatten(1, 2)
            maps = self.get_submodule(f"b{resolution}")(maps)
            resolution //= 2
        with torch.autocast(videos.device.type, enabled=False):
            maps = maps.to(self.b4.conv.weight.dtype)
            return self.b4(maps, self.mapping(self.time_encoder(times)))


class DiscriminatorBlock(nn.Module):
    """Two convolutions beside a shortcut, at half the resolution afterwards.

    Letters:  N images or clips, C maps, O maps afterwards, H pixels a side
    Input:    (N, C, H, H), or (N, 3, H, H) for the first block
    Output:   (N, O, H/2, H/2); float32 also under autocast where H is below 16
    """

    def __init__(
        self, given: int, middle: int, wanted: int, resolution: int, *, from_rgb: bool = False
    ) -> None:
        super().__init__()
        self.full_precision = resolution < FULL_PRECISION_BELOW
        half = math.sqrt(0.5)  # the sum of two branches keeps the second moment
        self.fromrgb = EqualisedConvolution(3, given, 1) if from_rgb else None
        self.conv0 = EqualisedConvolution(given, middle, 3)
        self.conv1 = EqualisedConvolution(middle, wanted, 3, halves=True, gain=half)
        self.skip = EqualisedConvolution(
            given, wanted, 1, halves=True, gain=half, activated=False, bias=False
        )

    def forward(self, maps: Tensor) -> Tensor:
        if not self.full_precision:
            return self._judge(maps)
        with torch.autocast(maps.device.type, enabled=False):
            return self._judge(maps.to(self.conv0.weight.dtype))

    def _judge(self, maps: Tensor) -> Tensor:
        if self.fromrgb is not None:
            maps = self.fromrgb(maps)
        return self.skip(maps) + self.conv1(self.conv0(maps))


class GapMapping(nn.Module):
    """The time gaps of a clip -> a vector to compare the clip with: (B, C) -> (B, D)."""

    def __init__(self, conditions: int, width: int) -> None:
        super().__init__()
        self.embed = EqualisedLinear(conditions, width)
        self.fc0 = EqualisedLinear(width, width, activated=True, learning_rate=0.01)
        self.fc1 = EqualisedLinear(width, width, activated=True, learning_rate=0.01)

    def forward(self, gaps: Tensor) -> Tensor:
        return self.fc1(self.fc0(normalise_second_moment(self.embed(gaps))))


class Epilogue(nn.Module):
    """From the last maps to a logit: <features, conditions> / sqrt(D). In float32.

    Inputs:  maps (B, C, 4, 4), conditions (B, D)
    Output:  (B,)
    """

    def __init__(self, sizes: DiscriminatorSizes) -> None:
        super().__init__()
        width = sizes.width(SMALLEST)
        self.group = sizes.group
        self.conv = EqualisedConvolution(width + 1, width, 3)
        self.fc = EqualisedLinear(width * SMALLEST**2, sizes.hidden, activated=True)
        self.out = EqualisedLinear(sizes.hidden, sizes.conditioning_width)

    def forward(self, maps: Tensor, conditions: Tensor) -> Tensor:
        maps = self.conv(torch.cat([maps, deviation_map(maps, self.group)], dim=1))
        features = self.out(self.fc(maps.flatten(1)))
        return (features * conditions).sum(1) / math.sqrt(conditions.shape[1])


def frame_differences(videos: Tensor) -> Tensor:
    """Each frame minus the next, the last minus the first: (B, F, ...) -> (B, F, ...).

    Source: MoStGAN-V (arXiv 2304.02777).
    """
    return videos - videos.roll(-1, dims=1)


def deviation_map(maps: Tensor, group: int) -> Tensor:
    """How much the clips of a group differ, as one more map, so that monotony is noticed.

    The standard deviation of every value over the g = min(`group`, B) clips of a group, averaged
    over channels and pixels. Clip k belongs to group k mod (B / g). Source: arXiv 1710.10196.

    Input:   (B, C, H, W)
    Output:  (B, 1, H, W)
    Raises:  ValueError when B is not a multiple of g
    """
    batch, _, height, width = maps.shape
    members = min(group, batch)
    if batch % members:
        raise ValueError(
            f"train.batch_size: {batch} clips cannot be divided into groups of {members}, over "
            f"which the discriminator compares clips; choose a multiple of {members}"
        )
    groups = maps.unflatten(0, (members, -1))  # (g, B / g, C, H, W)
    deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat(members).view(batch, 1, 1, 1).expand(-1, -1, height, width)
