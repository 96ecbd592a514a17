"""The video autoencoder of LVDM (arXiv 2211.13221): convolutions over time, height and width.

The layout is (B, C, T, H, W). Parameters have the names of the published checkpoints, so that
their weights load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 4  # of the convolutions that change the size, on every axis, also where it stays
LOG_VARIANCE_RANGE = (-30.0, 20.0)

Strides = tuple[int, int, int]  # over (T, H, W)


class VideoAutoencoder(nn.Module):
    """Videos to a small grid of latents and back, with a diagonal Gaussian in between.

    Every stage halves those axes that still have halvings left, so that time shrinks in the
    first stages and space in all, and doubles the width. All padding repeats the border, and the
    output of the decoder is not bounded.

    Inputs:  width, channels at full size, the encoder ends with 2^stages times as many
             factors, powers of two by which (T, H, W) shrink; the largest counts the stages
             channels, of a latent cell
             groups, of the group norms; they must divide twice the width
    Raises:  ValueError for sizes that do not fit together
    """

    def __init__(
        self,
        width: int = 32,
        factors: Sequence[int] = (4, 8, 8),
        channels: int = 4,
        groups: int = 32,
    ) -> None:
        super().__init__()
        strides = stage_strides(factors)
        if min(width, channels, groups) < 1 or (2 * width) % groups:
            raise ValueError(
                f"a video autoencoder normalises 2 x width channels in groups: width {width} and "
                f"{groups} groups do not fit, and neither may be below 1"
            )
        self.factors = (factors[0], factors[1], factors[2])
        self.channels = channels
        self.encoder = Encoder(width, strides, 2 * channels, groups)
        self.decoder = Decoder(width, strides, channels, groups)
        self.quant_conv = SameConv(2 * channels, 2 * channels, 1)
        self.post_quant_conv = SameConv(channels, channels, 1)

    def forward(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct videos through a draw from their posteriors.

        Input:   (B, 3, T, H, W) in [-1, 1]
        Output:  reconstructions (B, 3, T, H, W), not clamped; moments (B, 2C, t, h, w)
        """
        moments = self.encode(videos)
        return self.decode(draw(moments, torch.randn_like(split(moments)[0]))), moments

    def encode(self, videos: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> moments (B, 2C, t, h, w); see `split`.

        Raises ValueError where the factors do not divide the video.
        """
        self.latent_sizes(*videos.shape[-3:])
        moments: Tensor = self.quant_conv(self.encoder(videos))
        return moments

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) -> (B, 3, T, H, W), about [-1, 1], not clamped."""
        videos: Tensor = self.decoder(self.post_quant_conv(latents))
        return videos

    def latent_sizes(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) of the latents of a video. Raises ValueError where that is no whole number."""
        time, rows, columns = self.factors
        if frames < 1 or frames % time:
            raise ValueError(
                f"a clip of {frames} frames cannot be divided by the autoencoder's time factor; "
                f"choose clip.frames as a multiple of {time}"
            )
        if height % rows or width % columns or not height * width:
            raise ValueError(
                f"a {height}x{width} frame cannot be cut into the autoencoder's {rows}x{columns} "
                f"cells; choose clip.size as a multiple of {max(rows, columns)}"
            )
        return frames // time, height // rows, width // columns

    @torch.no_grad()
    def shift_log_variance(self, amount: float) -> None:
        """Add to the log-variance of every latent, by the bias that predicts it."""
        bias = self.quant_conv.conv.bias
        assert bias is not None
        bias[self.channels :] += amount

    @property
    def last_weight(self) -> Tensor:
        """The kernel of the last convolution, by which losses are balanced."""
        return self.decoder.conv_out.conv.weight


def split(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Moments (B, 2C, t, h, w) -> mean and clamped log-variance, (B, C, t, h, w) float32 each."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def draw(moments: Tensor, noise: Tensor) -> Tensor:
    """Latents mean + exp(log_variance / 2) * noise, of standard normal noise (B, C, t, h, w)."""
    mean, log_variance = split(moments)
    return mean + torch.exp(0.5 * log_variance) * noise


def kl_divergence(moments: Tensor) -> Tensor:
    """From the posterior to a standard normal, summed over a clip's latents: (B,) in nats."""
    mean, log_variance = split(moments)
    terms = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return terms.flatten(1).sum(1)


def stage_strides(factors: Sequence[int]) -> list[Strides]:
    """What each stage divides (T, H, W) by: 2 while an axis has halvings left, then 1.

    Raises ValueError for factors that are no powers of two, or all 1.
    """
    if len(factors) != 3 or any(factor < 1 or factor & (factor - 1) for factor in factors):
        raise ValueError(
            f"downsampling factors of (time, height, width) are three powers of two, "
            f"got {list(factors)}"
        )
    halvings = [factor.bit_length() - 1 for factor in factors]
    if not max(halvings):
        raise ValueError("downsampling factors of 1, 1 and 1 would leave nothing to learn")
    time, height, width = halvings
    return [
        (1 + (stage < time), 1 + (stage < height), 1 + (stage < width))
        for stage in range(max(halvings))
    ]


def border(kernel: int, strides: Strides) -> list[int]:
    """Padding of (T, H, W) such that sizes are divided exactly, in the order of `F.pad`.

    Of the kernel - stride samples that are needed the front gets the odd one.
    """
    padding: list[int] = []
    for stride in reversed(strides):
        total = kernel - stride
        padding += [total - total // 2, total // 2]
    return padding


class SameConv(nn.Module):
    """A convolution whose output is exactly the input's size over the stride."""

    def __init__(
        self, channels: int, output: int, kernel: int, strides: Strides = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.padding = border(kernel, strides)
        self.conv = nn.Conv3d(channels, output, kernel, strides)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, output, T / s, H / s, W / s)"""
        output: Tensor = self.conv(_padded(videos, self.padding))
        return output


class SameUpConv(nn.Module):
    """A transposed convolution whose output is exactly stride times the input's size.

    The input's border is repeated first. Away from the borders it equals the usual transposed
    convolution with padding (kernel - stride) / 2.
    """

    def __init__(self, channels: int, output: int, kernel: int, strides: Strides) -> None:
        super().__init__()
        self.padding = border(kernel, strides)
        self.convt = nn.ConvTranspose3d(channels, output, kernel, strides, padding=kernel - 1)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, output, s T, s H, s W)"""
        output: Tensor = self.convt(_padded(videos, self.padding))
        return output


class Norm(nn.GroupNorm):
    """Group norm whose statistics pool time and space, in float32 under autocast too."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape, float32"""
        return super().forward(videos.float())


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), of one width."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = Norm(channels, groups)
        self.conv1 = SameConv(channels, channels, 3)
        self.norm2 = Norm(channels, groups)
        self.conv2 = SameConv(channels, channels, 3)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the same shape"""
        change = self.conv1(F.silu(self.norm1(videos)))
        change = self.conv2(F.silu(self.norm2(change)))
        return videos + change


class DownStage(nn.Module):
    """A strided convolution and a residual block."""

    def __init__(self, channels: int, output: int, strides: Strides, groups: int) -> None:
        super().__init__()
        self.down = SameConv(channels, output, KERNEL, strides)
        self.res = ResidualBlock(output, groups)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, output, T / s, H / s, W / s)"""
        output: Tensor = self.res(self.down(videos))
        return output


class UpStage(nn.Module):
    """A transposed convolution and two residual blocks."""

    def __init__(self, channels: int, output: int, strides: Strides, groups: int) -> None:
        super().__init__()
        self.up = SameUpConv(channels, output, KERNEL, strides)
        self.res1 = ResidualBlock(output, groups)
        self.res2 = ResidualBlock(output, groups)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, output, s T, s H, s W)"""
        output: Tensor = self.res2(self.res1(self.up(videos)))
        return output


class Encoder(nn.Module):
    """Pixels (B, 3, T, H, W) -> (B, output, t, h, w)"""

    compiled_alone = True

    def __init__(self, width: int, strides: Sequence[Strides], output: int, groups: int) -> None:
        super().__init__()
        self.conv_first = SameConv(3, width, 3)
        self.conv_blocks = nn.Sequential(
            *(
                DownStage(width * 2**stage, width * 2 ** (stage + 1), stride, groups)
                for stage, stride in enumerate(strides)
            )
        )
        last = width * 2 ** len(strides)
        self.final_block = nn.Sequential(Norm(last, groups), nn.SiLU(), SameConv(last, output, 3))

    def forward(self, videos: Tensor) -> Tensor:
        output: Tensor = self.final_block(self.conv_blocks(self.conv_first(videos)))
        return output


class UpStages(nn.Sequential):
    """All of the decoder but its last convolution, which losses ask for a gradient of its own."""

    compiled_alone = True


class Decoder(nn.Module):
    """Latents (B, C, t, h, w) -> pixels (B, 3, T, H, W); its first layer enlarges already."""

    def __init__(self, width: int, strides: Sequence[Strides], channels: int, groups: int) -> None:
        super().__init__()
        widths = [channels, *(width * 2 ** (len(strides) - stage) for stage in range(len(strides)))]
        self.conv_blocks = UpStages(
            *(
                UpStage(widths[stage], widths[stage + 1], stride, groups)
                for stage, stride in enumerate(strides)
            )
        )
        self.conv_out = SameConv(widths[-1], 3, 3)

    def forward(self, latents: Tensor) -> Tensor:
        output: Tensor = self.conv_out(self.conv_blocks(latents))
        return output


def _padded(videos: Tensor, padding: Sequence[int]) -> Tensor:
    return F.pad(videos, list(padding), mode="replicate") if any(padding) else videos
