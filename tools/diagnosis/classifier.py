"""The network that tells normal from abnormal videos: a vision transformer that also looks along
time (divided space-time attention, TimeSformer, arXiv 2102.05095).

The spatial part is timm's ViT, so that weights of images and of videos both fit it. Each of its
blocks has a temporal layer before it. These begin at zero: the network then is the image model,
applied to every frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HEAD_DEVIATION = 0.01  # of the weights that the classifier begins with
CLASSIFIER = "head"


@dataclass(frozen=True)
class Sizes:
    """What makes one transformer larger than another."""

    width: int
    depth: int
    heads: int
    patch: int  # side in pixels


SIZES = {
    "tiny": Sizes(width=64, depth=2, heads=4, patch=8),
    "mini": Sizes(width=128, depth=4, heads=4, patch=8),
    "small": Sizes(width=384, depth=12, heads=6, patch=16),
    "base": Sizes(width=768, depth=12, heads=12, patch=16),
}


def check_clips(videos: Tensor, frames: int, size: int) -> None:
    """Raise ValueError unless clips are (B, frames, 3, size, size)."""
    wanted = (frames, 3, size, size)
    if videos.shape[1:] != wanted:
        raise ValueError(
            f"the classifier takes clips (B, {', '.join(map(str, wanted))}), got "
            f"{tuple(videos.shape)}"
        )


class VideoClassifier(nn.Module):
    """Logits of the classes of a clip, from frames normalised by `augment.normalise`.

    Inputs:  size, a key of `SIZES`; frames T and image_size S of the clips; drop_path, the
             probability to leave out a branch of the last block (less in earlier ones);
             checkpointing, to compute activations twice and keep few of them
    Raises:  ValueError for an unknown size, or frames that patches do not fill
    """

    def __init__(
        self,
        size: str = "base",
        *,
        frames: int = 8,
        image_size: int = 224,
        classes: int = 2,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"network.size: {size!r} is not one of {', '.join(SIZES)}")
        self.sizes = SIZES[size]
        if image_size < 1 or image_size % self.sizes.patch:
            raise ValueError(
                f"network of size {size}: frames of {image_size} pixels are not filled by patches "
                f"of {self.sizes.patch}"
            )
        if frames < 1:
            raise ValueError(f"network: at least one frame, got {frames}")
        self.frames, self.image_size, self.checkpointing = frames, image_size, checkpointing
        width, depth, heads = self.sizes.width, self.sizes.depth, self.sizes.heads
        self.spatial = VisionTransformer(
            img_size=image_size,
            patch_size=self.sizes.patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="token",
        )
        self.drop_rates = [drop_path * k / max(depth - 1, 1) for k in range(depth)]
        self.temporal = nn.ModuleList(TemporalLayer(width, heads) for _ in range(depth))
        self.time_embed = nn.Parameter(torch.zeros(1, frames, width))
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=HEAD_DEVIATION)
        nn.init.zeros_(self.head.bias)

    def forward(self, videos: Tensor) -> Tensor:
        """(B, T, 3, S, S) float -> logits (B, classes)."""
        return self.head(self.features(videos))

    def features(self, videos: Tensor) -> Tensor:
        """(B, T, 3, S, S) float -> what the classifier sees (B, D), the normalised class token.

        Raises:  ValueError for clips of another shape
        """
        check_clips(videos, self.frames, self.image_size)
        batch = len(videos)
        places: Any = self.spatial.pos_embed
        patches = self.spatial.patch_embed(videos.flatten(0, 1)) + places[:, 1:]
        x = patches.unflatten(0, (batch, self.frames)) + self.time_embed[:, :, None]
        token = (places[:, :1] + self.spatial.cls_token).expand(batch, -1, -1)
        for index in range(self.sizes.depth):
            if self.checkpointing and torch.is_grad_enabled():
                x, token = checkpoint(self._block, index, x, token, use_reentrant=False)
            else:
                x, token = self._block(index, x, token)
        return self.spatial.norm(token[:, 0])

    def _block(self, index: int, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Patches x (B, T, N, D) and the class token (B, 1, D) through one pair of layers."""
        batch, frames, patches, _ = x.shape
        block: Any = self.spatial.blocks[index]
        x = x + self._dropped(self.temporal[index](x), index)
        # Every frame sees the class token; what they make of it is averaged.
        seen = torch.cat([token[:, None].expand(-1, frames, -1, -1), x], dim=2)
        change = block.attn(block.norm1(seen.flatten(0, 1))).unflatten(0, (batch, frames))
        change = self._dropped(change, index)
        x = x + change[:, :, 1:]
        token = token + change[:, :, :1].mean(dim=1)
        together = torch.cat([token, x.flatten(1, 2)], dim=1)
        together = together + self._dropped(block.mlp(block.norm2(together)), index)
        return together[:, 1:].unflatten(1, (frames, patches)), together[:, :1]

    def _dropped(self, change: Tensor, index: int) -> Tensor:
        """A branch of a block, left out of some clips while training (stochastic depth)."""
        rate = self.drop_rates[index]
        if not self.training or rate == 0:
            return change
        kept = torch.rand(len(change), *(1,) * (change.ndim - 1), device=change.device) >= rate
        return change * kept / (1 - rate)

    def layer_of(self, name: str) -> int:
        """How deep a parameter lies: 0 what embeds, k + 1 block k, depth + 1 norm and head.

        Raises:  ValueError for a name that is no parameter's
        """
        if match := re.match(r"(?:spatial\.blocks|temporal)\.(\d+)\.", name):
            return int(match[1]) + 1
        if name.startswith((f"{CLASSIFIER}.", "spatial.norm.")):
            return self.sizes.depth + 1
        embedding = ("spatial.patch_embed.", "spatial.pos_embed", "spatial.cls_token", "time_embed")
        if name.startswith(embedding):
            return 0
        raise ValueError(f"{name}: no parameter of the classifier")


class TemporalLayer(nn.Module):
    """Attention of each patch along time: (B, T, N, D) -> what it changes, zero at first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc = nn.Linear(width, width)
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, patches, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, frames, patches, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 2, 4, 1, 5)  # each (B, N, heads, T, D / heads)
        seen = F.scaled_dot_product_attention(query, key, value)
        along = seen.permute(0, 3, 1, 2, 4).reshape(batch, frames, patches, width)
        return self.fc(self.proj(along))
