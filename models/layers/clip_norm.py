"""Group normalisation of clips whose frames lie in the batch, always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClipNorm(nn.GroupNorm):
    """Group normalisation with statistics over all frames of a clip, as of (B, C, F, h, w).

    Frames stay in the batch, where convolutions of one frame want them, so the statistics are
    taken here and applied as one multiplication and one addition; what a conditioning scales
    and shifts goes into the same two. Under autocast it computes in float32.
    """

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        frames: int,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """norm(images) * (1 + scale) + shift.

        Inputs:  images (B * F, C, h, w), the frames of a clip one after the other; scale and
                 shift (B, C)
        Output:  (B * F, C, h, w) of the inputs' type
        """
        with torch.autocast(images.device.type, enabled=False):
            values = images.float()
            grouped = values.unflatten(0, (-1, frames)).unflatten(2, (self.num_groups, -1))
            variance, mean = torch.var_mean(grouped, dim=(1, 3, 4, 5), correction=0)
            size = self.num_channels // self.num_groups
            factor = _channels((variance + self.eps).rsqrt(), size) * self.weight
            offset = self.bias - _channels(mean, size) * factor
            if scale is not None and shift is not None:
                factor = factor * (1 + scale.float())
                offset = offset * (1 + scale.float()) + shift.float()
            return torch.addcmul(_images(offset, frames), values, _images(factor, frames)).to(
                images.dtype
            )


class FloatNorm(nn.GroupNorm):
    """Group normalisation of each item by itself, in float32 under autocast: (N, C, ...)."""

    def forward(self, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            normalised = F.group_norm(
                values.float(), self.num_groups, self.weight, self.bias, self.eps
            )
        return normalised.to(values.dtype)


def _channels(groups: Tensor, size: int) -> Tensor:
    """One value per channel from one per group: (B, G) -> (B, G * size)."""
    return groups[:, :, None].expand(-1, -1, size).flatten(1)


def _images(clips: Tensor, frames: int) -> Tensor:
    """One value per frame and channel from one per clip: (B, C) -> (B * F, C, 1, 1)."""
    return clips[:, None].expand(-1, frames, -1).flatten(0, 1)[:, :, None, None]
