"""Fixed tables of positions, and the embeddings of timestep and class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIMESTEP_WAVES = 256


def position_table(width: int, positions: Tensor) -> Tensor:
    """Sines, then cosines, of `positions` (P,) at frequencies 10000^(-2i / width): (P, width)."""
    if width % 2:
        raise ValueError(f"a position table needs an even width, got {width}")
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width / 2)
    angles = positions.double()[:, None] * 10000**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def frame_table(width: int, frames: int) -> Tensor:
    """1-D position table of the frames of a clip: (F, D)."""
    return position_table(width, torch.arange(frames))


def grid_table(width: int, rows: int, columns: int) -> Tensor:
    """2-D position table of a frame's tokens, row-major: (rows * columns, D).

    The first half of the width encodes the column, the second half the row.
    """
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = [position_table(width // 2, axis.flatten()) for axis in (column, row)]
    return torch.cat(halves, dim=1)


class TimestepEmbedding(nn.Module):
    """Noise level -> conditioning vector: 256 sinusoids and a two-layer perceptron.

    Input:   timestep (B,), in 0..T-1
    Output:  (B, D)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(TIMESTEP_WAVES, width)
        self.outer = nn.Linear(width, width)
        nn.init.normal_(self.inner.weight, std=0.02)
        nn.init.normal_(self.outer.weight, std=0.02)
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.outer.bias)

    def forward(self, timestep: Tensor) -> Tensor:
        half = TIMESTEP_WAVES // 2
        exponents = torch.arange(half, device=timestep.device, dtype=torch.float32) / half
        angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.outer(F.silu(self.inner(waves)))


class LabelEmbedding(nn.Module):
    """Class label -> conditioning vector, with one more row that means "no label".

    In training a label is dropped with probability `dropout`, which classifier-free guidance
    needs (arXiv 2207.12598).

    Input:   labels (B,) int64 in 0..classes, where `classes` means no label
    Output:  (B, D)
    """

    def __init__(self, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.classes, self.dropout = classes, dropout
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        if self.training and self.dropout > 0:
            dropped = torch.rand(labels.shape, device=labels.device) < self.dropout
            labels = torch.where(dropped, self.classes, labels)
        return self.table(labels)
