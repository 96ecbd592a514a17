"""The transformer block of diffusion transformers (DiT, arXiv 2212.09748)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.attention import Attention


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them. (..., D) -> (..., D)"""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(tokens), approximate="tanh"))


class ModulatedBlock(nn.Module):
    """Self-attention, then an MLP; the conditioning shifts, scales and gates both.

    One class serves both axes of a video: a spatial block is given (B, F, N, D), a temporal
    block (B, N, F, D). The modulation is computed once a clip.

    Letters:  B clips, G groups that do not see each other, T tokens in a group, D width
    Inputs:   tokens (B, G, T, D), conditioning (B, D) after its SiLU
    Output:   (B, G, T, D)
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = Mlp(width, int(mlp_ratio * width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        vectors = self.modulation(conditioning)[:, None, None].chunk(6, dim=-1)  # (B, 1, 1, D)
        for layer, (shift, scale, gate) in (
            (self.attention, vectors[:3]),
            (self.mlp, vectors[3:]),
        ):
            tokens = tokens + gate * layer(self.norm(tokens) * (1 + scale) + shift)
        return tokens


class FinalLayer(nn.Module):
    """Modulated norm and a linear map from tokens to patches: (B, F, N, D) -> (B, F, N, P)."""

    def __init__(self, width: int, patch_values: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, patch_values)

    def forward(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.modulation(conditioning)[:, None, None].chunk(2, dim=-1)
        return self.linear(self.norm(tokens) * (1 + scale) + shift)
