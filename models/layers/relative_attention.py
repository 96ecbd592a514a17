"""Attention over space, then over time with learned relative positions (LVDM, arXiv 2211.13221).

Letters:  B clips, F frames, C channels, h w cells, E channels of a head
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.clip_norm import FloatNorm

RelativeForm = Literal["reference", "shaw"]


class RelativeTable(nn.Module):
    """One vector for each distance of two frames, from -reach to reach; all heads share them.

    Output:  (F, F, E); entry [i, j] is of the distance j - i, clipped to the reach
    """

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.embeddings_table = nn.Parameter(torch.empty(2 * reach + 1, width))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, frames: int) -> Tensor:
        place = torch.arange(frames, device=self.embeddings_table.device)
        distance = (place[None, :] - place[:, None]).clamp(-self.reach, self.reach)
        return self.embeddings_table[distance + self.reach]


def relative_attention(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, form: RelativeForm
) -> Tensor:
    """Attention over frames whose keys and values depend on the distance of the frames too.

    `shaw` is relative attention as published (arXiv 1803.02155): with r the vectors of `keys`,

        logit_ij = (q_i . k_j + q_i . r_ij) / sqrt(E)

    `reference` is what LVDM's released code computes, where the letters of that second product
    are exchanged and one of its two scalings is left out; weights trained there need it:

        logit_ij = q_i . k_j / sqrt(E) + q_j . r_ji / E^(1/4)

    Both add the vectors of `values` to the values. The softmax is in float32.

    Inputs:  query, key, value (N, heads, F, E); keys, values (F, F, E) of `RelativeTable`
    Output:  (N, heads, F, E)
    """
    size = query.shape[-1]
    logits = (query * size**-0.5) @ key.transpose(-1, -2)
    relative = torch.einsum("nhie,ije->nhij", query, keys)  # q_i . r_ij
    if form == "shaw":
        logits = logits + relative * size**-0.5
    else:
        logits = logits + relative.transpose(-1, -2) * size**-0.25
    weights = logits.float().softmax(-1).to(value.dtype)
    return weights @ value + torch.einsum("nhij,ije->nhie", weights, values)


class SpaceTimeAttention(nn.Module):
    """Attention over the cells of each frame, then over the frames at each cell; both are added.

    The names of its parameters are those of LVDM's weights.

    Input and output:  (B * F, C, h, w), the frames of a clip one after the other
    """

    compiled_alone = True

    def __init__(
        self,
        width: int,
        heads: int,
        reach: int,
        *,
        groups: int = 32,
        form: RelativeForm = "reference",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be split over {heads} heads")
        self.heads, self.form = heads, form
        self.norm_s, self.norm_t = FloatNorm(groups, width), FloatNorm(groups, width)
        self.qkv_s, self.qkv_t = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.proj_out_s, self.proj_out_t = nn.Linear(width, width), nn.Linear(width, width)
        self.relative_position_k = RelativeTable(width // heads, reach)
        self.relative_position_v = RelativeTable(width // heads, reach)
        for layer in (self.proj_out_s, self.proj_out_t):  # a new block is the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, frames: int) -> Tensor:
        images = images + self._over_space(images)
        return images + self._over_time(images, frames)

    def _over_space(self, images: Tensor) -> Tensor:
        tokens = self.norm_s(images).flatten(2).transpose(1, 2)  # (B * F, h * w, C)
        query, key, value = self._split(self.qkv_s(tokens))
        mixed = F.scaled_dot_product_attention(query, key, value)
        added = self.proj_out_s(mixed.transpose(1, 2).flatten(2))
        return added.transpose(1, 2).unflatten(2, images.shape[-2:])

    def _over_time(self, images: Tensor, frames: int) -> Tensor:
        _, width, rows, columns = images.shape
        clips = images.flatten(2).unflatten(0, (-1, frames))  # (B, F, C, h * w)
        # The statistics are of the few frames at one cell, so every cell is an item.
        cells = clips.permute(0, 3, 2, 1).reshape(-1, width, frames)
        tokens = self.norm_t(cells).transpose(1, 2)  # (B * h * w, F, C)
        query, key, value = self._split(self.qkv_t(tokens))
        mixed = relative_attention(
            query,
            key,
            value,
            self.relative_position_k(frames).to(query.dtype),
            self.relative_position_v(frames).to(query.dtype),
            self.form,
        )
        added = self.proj_out_t(mixed.transpose(1, 2).flatten(2))
        placed = added.unflatten(0, (-1, rows * columns)).permute(0, 2, 3, 1)  # (B, F, C, h * w)
        return placed.reshape(-1, width, rows, columns)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, 3C), all queries before all keys before all values, to three (N, heads, T, E)."""
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value
