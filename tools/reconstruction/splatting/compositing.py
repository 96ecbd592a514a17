"""Blending the Gaussians of each tile from front to back, and its gradient.

Within a tile the logarithm of a Gaussian's contribution is a polynomial of degree 2 of the pixel,
so a matrix product with the six monomials gives it for many Gaussians and pixels at once. Lists
are worked off in blocks; nothing of the size Gaussians x pixels outlives its block, and the
gradient computes the blocks anew, so memory is bounded whatever the scene.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tools.reconstruction.splatting.tile_lists import TileLists

SMALLEST = 1 / 255  # a contribution below it does not count
LARGEST = 0.999  # no Gaussian hides everything behind it
HIDDEN = 1e-4  # what lets less than this pass hides the rest
BLOCK = 32  # Gaussians of a tile's list at once
ELEMENTS = 2**18  # Gaussians x pixels at once, over all tiles of a chunk
NOTHING = -1e4  # logarithm of no contribution


def composite(table: Tensor, features: Tensor, lists: TileLists) -> Tensor:
    """Weighted sums of features over each pixel of each tile.

    Args:
        table: (N, 6) x and y of the middle in pixels, inverse covariance xx, xy, yy, logarithm of
            the opacity.
        features: (N, C).
        lists: which Gaussians touch which tiles.

    Returns:
        (tiles, pixels of a tile, C).
    """
    result: Tensor = _Composite.apply(table, features, lists)
    return result


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, features: Tensor, lists: TileLists) -> Tensor:
        monomials = _monomials(lists.size, table)
        tiles, pixels = len(lists.lengths), lists.size**2
        result = table.new_zeros(tiles, pixels, features.shape[1])
        used = torch.zeros_like(lists.lengths)
        for chunk in _chunks(lists.lengths, pixels):
            passing = table.new_ones(len(chunk), pixels)
            sums = table.new_zeros(len(chunk), pixels, features.shape[1])
            where = torch.arange(len(chunk), device=table.device)  # those that still see
            lengths, last = lists.lengths[chunk], 0
            while len(where):
                block = _block(table, lists, chunk[where], lengths[where], last, monomials)
                before = _passing(passing[where], block.alpha)
                weights = block.alpha * before[:, :-1]
                colours = _take(features, block.gaussian)
                sums[where] += weights.transpose(1, 2) @ colours
                passing[where] = before[:, -1]
                last += weights.shape[1]
                used[chunk[where]] = last
                where = where[(lengths[where] > last) & (before[:, -1].amax(1) > HIDDEN)]
            result[chunk] = sums
        ctx.lists, ctx.used = lists, torch.minimum(used, lists.lengths)
        ctx.save_for_backward(table, features, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        table, features, result = ctx.saved_tensors
        lists, used = ctx.lists, ctx.used
        monomials = _monomials(lists.size, table)
        pixels = lists.size**2
        # Each pair of Gaussian and tile gets its own row; rows are summed by Gaussian at the end.
        rows = table.new_zeros(len(lists.gaussian), 6 + features.shape[1])
        for chunk in _chunks(used, pixels):
            pull = gradient[chunk]  # (tiles, pixels, C)
            rest = (pull * result[chunk]).sum(-1)  # of the loss, from here to the back
            passing = torch.ones_like(rest)
            lengths, last = used[chunk], 0
            live = len(chunk)
            while live:
                block = _block(table, lists, chunk[:live], lengths[:live], last, monomials)
                before = _passing(passing[:live], block.alpha)
                weights = block.alpha * before[:, :-1]
                colours = _take(features, block.gaussian)
                own = colours @ pull[:live].transpose(1, 2)  # (tiles, block, pixels)
                behind = rest[:live, None] - torch.cumsum(weights * own, 1)
                slope = own.mul_(before[:, :-1]).sub_(behind / (1 - block.alpha))
                slope.mul_(block.alpha).mul_(block.alpha < LARGEST)
                moments = slope @ monomials.T
                part = torch.cat([_table_gradient(moments, block), weights @ pull[:live]], -1)
                rows[block.pairs[block.valid]] = part[block.valid]
                rest[:live] = behind[:, -1]
                passing[:live] = before[:, -1]
                last += weights.shape[1]
                live = int((lengths > last).sum())
        total = _sum_by_gaussian(rows, lists)
        return total[:, :6], total[:, 6:], None


@dataclass(frozen=True)
class _Block:
    """A stretch of the lists of some tiles: (tiles, block) of each."""

    pairs: Tensor  # which pair
    valid: Tensor  # whether the list is that long
    gaussian: Tensor  # whose
    local: Tensor  # (tiles, block, 6) its row of the table, relative to the middle of the tile
    alpha: Tensor  # (tiles, block, pixels)


def _block(
    table: Tensor, lists: TileLists, tiles: Tensor, lengths: Tensor, first: int, monomials: Tensor
) -> _Block:
    longest = int(lengths.max())
    steps = torch.arange(first, min(first + BLOCK, longest), device=table.device)
    valid = steps < lengths[:, None]
    pairs = torch.where(valid, lists.starts[tiles][:, None] + steps, 0)
    gaussian = lists.gaussian[pairs]
    local = _take(table, gaussian)
    x, y = lists.corners()
    local[..., 0] -= x[tiles][:, None]
    local[..., 1] -= y[tiles][:, None]
    mx, my, a, b, c, level = local.unbind(-1)
    right, down = a * mx + b * my, b * mx + c * my
    constant = torch.where(valid, level - 0.5 * (right * mx + down * my), NOTHING)
    coefficients = torch.stack([-0.5 * a, -b, -0.5 * c, right, down, constant], -1)
    alpha = (coefficients @ monomials).clamp_(max=0).exp_()
    alpha = functional.threshold(alpha, SMALLEST, 0.0).clamp_(max=LARGEST)
    return _Block(pairs, valid, gaussian, local, alpha)


def _table_gradient(moments: Tensor, block: _Block) -> Tensor:
    """Gradient of the table's rows from the moments (..., 6) of the exponent's gradient."""
    mx, my, a, b, c, _ = block.local.unbind(-1)
    xx, xy, yy, x, y, one = moments.unbind(-1)
    to_x, to_y = x - mx * one, y - my * one  # first moments about the middle
    return torch.stack(
        [
            a * to_x + b * to_y,
            b * to_x + c * to_y,
            -0.5 * (xx - mx * (x + to_x)),
            -(xy - mx * y - my * to_x),
            -0.5 * (yy - my * (y + to_y)),
            one,
        ],
        -1,
    )


def _passing(start: Tensor, alpha: Tensor) -> Tensor:
    """Light (tiles, block + 1, pixels) that reaches each Gaussian and, last, what passes all."""
    return torch.cumprod(torch.cat([start[:, None], 1 - alpha], 1), 1)


def _monomials(size: int, kind: Tensor) -> Tensor:
    """x², xy, y², x, y, 1 (6, pixels) of the pixel centres of a tile, from its middle."""
    side = torch.arange(size, device=kind.device, dtype=kind.dtype) + 0.5 - size / 2
    y, x = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])


def _chunks(lengths: Tensor, pixels: int) -> Iterator[Tensor]:
    """Tiles with something in them, longest lists first, as many as fit at once."""
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    yield from order.split(max(1, ELEMENTS // (BLOCK * pixels)))


def _take(rows: Tensor, which: Tensor) -> Tensor:
    return rows.index_select(0, which.flatten()).unflatten(0, which.shape)


def _sum_by_gaussian(rows: Tensor, lists: TileLists) -> Tensor:
    """Sums (N, C) of the rows (pairs, C) of each Gaussian."""
    if not len(rows):
        return rows.new_zeros(len(lists.bags), rows.shape[1])
    # The quickest ordered sum that torch has on a CPU, ten times index_add.
    return functional.embedding_bag(lists.place, rows, lists.bags, mode="sum")
