"""Multi-head self-attention over groups of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Up to this many tokens a CPU trains faster in bfloat16 without the fused kernel, whose backward
# pass there multiplies small tiles: 11 against 31 ms for 24 groups of 64 tokens on one core.
SMALL_GROUP = 256


class Attention(nn.Module):
    """Self-attention inside each group: one product for query, key and value, then `attend`.

    Letters:  B clips, G groups that do not see each other, T tokens in a group, D width
    Input and output:  (B, G, T, D)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be split over {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, groups, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch * groups, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B * G, heads, T, D / heads)
        mixed = attend(query, key, value)
        return self.project(mixed.transpose(1, 2).reshape(batch, groups, count, width))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(E)) value, by the fused kernel of PyTorch where that is faster.

    Inputs and output:  (B, heads, T, E); no copies are made of strided views
    """
    trains_on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if trains_on_cpu and torch.is_grad_enabled() and query.shape[-2] <= SMALL_GROUP:
        return slow_attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def slow_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`attend` in three steps, with all T x T weights in memory."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return scores.softmax(-1) @ value
