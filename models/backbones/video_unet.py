"""The 3D U-Net of LVDM (arXiv 2211.13221): predicts the noise in the latents of a clip.

Its convolutions see one frame at a time and run on frames in the batch; frames meet in the
statistics of the norms and in attention over time. The names of its parameters are those of the
original's weights, without kernel axes of size 1.

Letters:  B clips, F frames, C channels, h w latent cells, D width of the time embedding
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers.clip_norm import ClipNorm
from models.layers.relative_attention import RelativeForm, SpaceTimeAttention


class ResidualBlock(nn.Module):
    """Two convolutions of each frame; the time embedding scales and shifts between them.

    Inputs:  images (B * F, C, h, w), embedding (B, D) after its SiLU, frames of a clip
    Output:  (B * F, C', h, w)
    """

    compiled_alone = True

    def __init__(self, width: int, output: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            ClipNorm(groups, width), nn.SiLU(), nn.Conv2d(width, output, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * output))
        # The third place is that of a dropout that is never used.
        self.out_layers = nn.Sequential(
            ClipNorm(groups, output),
            nn.SiLU(),
            nn.Identity(),
            _silent(nn.Conv2d(output, output, 3, padding=1)),
        )
        same = width == output
        self.skip_connection = nn.Identity() if same else nn.Conv2d(width, output, 1)

    def forward(self, images: Tensor, embedding: Tensor, frames: int) -> Tensor:
        # One row per clip: casting the weights to half precision would cost more than it saves.
        with torch.autocast(images.device.type, enabled=False):
            scale, shift = self.emb_layers[1](embedding.float()).chunk(2, dim=1)
        hidden = self.in_layers[2](F.silu(self.in_layers[0](images, frames)))
        hidden = F.silu(self.out_layers[0](hidden, frames, scale, shift))
        return self.skip_connection(images) + self.out_layers[3](hidden)


class Downsample(nn.Module):
    """A convolution that halves height and width: (N, C, h, w) -> (N, C, h / 2, w / 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.op(images)


class Upsample(nn.Module):
    """Nearest neighbours, then a convolution: (N, C, h, w) -> (N, C, 2h, 2w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(F.interpolate(images, scale_factor=2.0, mode="nearest"))


class VideoUnet(nn.Module):
    """Predicts the noise of latents at a noise level; zero when new.

    `attention_at` names the reductions of height and width (1, 2, 4, ...) at which attention
    follows each residual block. `reach` is how many frames apart the relative positions tell.
    With `masked`, the input has one more channel, 1 on the frames that are given; `levels` is the
    number of rows of a second embedding, of the noise level of those frames.
    """

    def __init__(
        self,
        channels: int = 4,
        *,
        width: int = 256,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention_at: Sequence[int] = (8, 4, 2),
        heads: int = 4,
        reach: int = 4,
        groups: int = 32,
        form: RelativeForm = "reference",
        masked: bool = False,
        levels: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.masked, self.checkpointing = width, masked, checkpointing
        self.reduction = 2 ** (len(multipliers) - 1)  # what height and width must divide by
        embedding = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label_emb = nn.Embedding(levels, embedding) if levels else None

        def residual(inner: int, output: int) -> ResidualBlock:
            return ResidualBlock(inner, output, embedding, groups)

        def attention(inner: int) -> SpaceTimeAttention:
            return SpaceTimeAttention(inner, heads, reach, groups=groups, form=form)

        first = nn.Conv2d(channels + masked, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        kept, current = [width], width  # channels of every entry of the way down
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                parts: list[nn.Module] = [residual(current, multiplier * width)]
                current = multiplier * width
                if 2**level in attention_at:
                    parts.append(attention(current))
                self.input_blocks.append(nn.ModuleList(parts))
                kept.append(current)
            if level < len(multipliers) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(current)]))
                kept.append(current)
        self.middle_block = nn.ModuleList(
            [residual(current, current), attention(current), residual(current, current)]
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for block in range(blocks + 1):
                parts = [residual(current + kept.pop(), multiplier * width)]
                current = multiplier * width
                if 2**level in attention_at:
                    parts.append(attention(current))
                if level and block == blocks:
                    parts.append(Upsample(current))
                self.output_blocks.append(nn.ModuleList(parts))
        self.out = nn.Sequential(
            ClipNorm(groups, current),
            nn.SiLU(),
            _silent(nn.Conv2d(current, channels, 3, padding=1)),
        )

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        given: Tensor | None = None,
        level: Tensor | None = None,
    ) -> Tensor:
        """The predicted noise.

        Inputs:  noisy (B, F, C, h, w), any F; timestep (B,); of a masked network given (B, F), 1
                 on given frames; level (B,) int64, row of the second embedding, or none of it
        Output:  (B, F, C, h, w)
        """
        frames = noisy.shape[1]
        embedding = F.silu(self.embed(timestep, level))
        if self.masked:
            assert given is not None
            plane = given.to(noisy.dtype)[:, :, None, None, None]
            noisy = torch.cat([noisy, plane.expand_as(noisy[:, :, :1])], dim=2)
        hidden = noisy.flatten(0, 1)
        kept: list[Tensor] = []
        for parts in self.input_blocks:
            hidden = self._run(parts, hidden, embedding, frames)
            kept.append(hidden)
        hidden = self._run(self.middle_block, hidden, embedding, frames)
        for parts in self.output_blocks:
            joined = torch.cat([hidden, kept.pop()], dim=1)
            hidden = self._run(parts, joined, embedding, frames)
        predicted = self.out[2](F.silu(self.out[0](hidden, frames)))
        return predicted.unflatten(0, (-1, frames))

    def embed(self, timestep: Tensor, level: Tensor | None = None) -> Tensor:
        """What all residual blocks are told of the noise: (B, D) float32."""
        with torch.autocast(timestep.device.type, enabled=False):
            embedding = self.time_embed(timestep_waves(timestep, self.width))
            if self.label_emb is not None and level is not None:
                embedding = embedding + self.label_emb(level)
        return embedding

    def _run(self, parts: nn.Module, hidden: Tensor, embedding: Tensor, frames: int) -> Tensor:
        for part in parts.children():
            if isinstance(part, ResidualBlock):
                hidden = self._residual(part, hidden, embedding, frames)
            elif isinstance(part, SpaceTimeAttention):
                hidden = part(hidden, frames)
            else:
                hidden = part(hidden)
        return hidden

    def _residual(
        self, block: ResidualBlock, hidden: Tensor, embedding: Tensor, frames: int
    ) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(
                block, hidden, embedding, frames, use_reentrant=False, preserve_rng_state=False
            )
        return block(hidden, embedding, frames)


def timestep_waves(timestep: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of a timestep at frequencies 10000^(-2i / width): (B,) -> (B, width)."""
    half = width // 2
    exponents = torch.arange(half, device=timestep.device, dtype=torch.float32) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution that starts as zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
