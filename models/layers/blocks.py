"""The transformer block of diffusion transformers (DiT, arXiv 2212.09748)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.layers.attention import Attention


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them. (..., D) -> (..., D)"""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(tokens), approximate="tanh"))


class Modulation(nn.Linear):
    """Conditioning (B, D) -> `count` vectors (B, 1, 1, D), once a clip.

    Always in float32: one row per clip makes casting the weights dearer than the product.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count * width)
        self.count = count

    def vectors(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        """The vectors that shift, scale and gate the tokens of each clip."""
        with torch.autocast(conditioning.device.type, enabled=False):
            values = self(conditioning.float())
        return values[:, None, None].chunk(self.count, dim=-1)


class ModulatedBlock(nn.Module):
    """Self-attention, then an MLP; the conditioning shifts, scales and gates both.

    Letters:  B clips, F frames, N tokens of a frame, D width
    Inputs:   tokens (B, F, N, D), conditioning (B, D) float32 after its SiLU
    Output:   (B, F, N, D)
    """

    compiled_alone = True  # a region of its own for torch.compile: one code for all blocks

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, int(mlp_ratio * width))
        self.modulation = Modulation(width, 6)
        self.recompute_mlp = False  # in training: its hidden layer is most of a block's memory

    def update(self, tokens: Tensor, conditioning: Tensor, *, over_time: bool) -> Tensor:
        """Both residual steps. Only what attention reads is brought into its order of axes."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation.vectors(conditioning)
        given = torch.addcmul(shift, self.norm(tokens), 1 + scale)
        if over_time:
            mixed = self.attention(given.transpose(1, 2)).transpose(1, 2)
        else:
            mixed = self.attention(given)
        tokens = torch.addcmul(tokens, gate, mixed)
        given = torch.addcmul(mlp_shift, self.norm(tokens), 1 + mlp_scale)
        if self.recompute_mlp and torch.is_grad_enabled():
            added = checkpoint(self.mlp, given, use_reentrant=False, preserve_rng_state=False)
        else:
            added = self.mlp(given)
        return torch.addcmul(tokens, mlp_gate, added)


class SpatialBlock(ModulatedBlock):
    """Attention over the tokens of each frame. (B, F, N, D) -> (B, F, N, D)"""

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        return self.update(tokens, conditioning, over_time=False)


class TemporalBlock(ModulatedBlock):
    """Attention over the first `frames` frames at each place; further images pass untouched.

    (B, F + I, N, D) -> (B, F + I, N, D)
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, *, frames: int) -> None:
        super().__init__(width, heads, mlp_ratio)
        self.frames = frames

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        images = tokens.shape[1] - self.frames
        if images <= 0:
            return self.update(tokens, conditioning, over_time=True)
        clip, rest = tokens.split([self.frames, images], dim=1)
        return torch.cat([self.update(clip, conditioning, over_time=True), rest], dim=1)


class FinalLayer(nn.Module):
    """Modulated norm and a linear map from tokens to patches: (B, F, N, D) -> (B, F, N, P)."""

    compiled_alone = True

    def __init__(self, width: int, patch_values: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = Modulation(width, 2)
        self.linear = nn.Linear(width, patch_values)

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.modulation.vectors(conditioning)
        return self.linear(torch.addcmul(shift, self.norm(tokens), 1 + scale))
