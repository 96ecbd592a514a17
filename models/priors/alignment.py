"""How close a denoiser's features are to those of a prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.shapes import VideoShape
from models.priors.features import PriorConfig

Grid = tuple[int, int, int]  # (E, h, w) of a prior's map


def correlation_loss(student: Tensor, prior: Tensor) -> Tensor:
    """How far two spatial patterns of activation are from each other: 1 - Pearson correlation.

    Scale and offset of either pattern do not matter. 0 is full agreement, 1 is none, 2 is the
    opposite pattern (Endora, equation 6, in the reference's normalised form).

    Inputs:  (..., N) both, a frame's tokens
    Output:  (...)
    """
    return 1 - F.cosine_similarity(_centred(student), _centred(prior), dim=-1)


def token_cosine_loss(student: Tensor, prior: Tensor) -> Tensor:
    """1 - cosine similarity, token by token (REPA, arXiv 2410.06940): (..., N, E) -> (..., N)."""
    return 1 - F.cosine_similarity(student, prior, dim=-1)


class PatternGuidance(nn.Module):
    """Pearson guidance: one convolution takes the prior's maps to the token grid; both sides are
    then averaged over channels and correlated over the tokens of each frame.

    The average over the convolution's output channels is the convolution with the averaged
    kernel, which is what is computed: the same number at a D-th of the work.
    """

    def __init__(self, config: PriorConfig, tokens: VideoShape, grids: Sequence[Grid]) -> None:
        super().__init__()
        width = config.projection_width or tokens.channels
        self.grid = (tokens.height, tokens.width)
        # The same kind of map at every layer shares one projection, as in the reference.
        kinds = list(dict.fromkeys(grids))
        self.projection_of = [kinds.index(grid) for grid in grids]
        self.projections = nn.ModuleList(
            nn.Conv2d(kind[0], width, kernel, stride=kernel, bias=False)
            for kind in kinds
            for kernel in [_whole_ratio(kind, self.grid) or (1, 1)]
        )

    def forward(self, features: Sequence[Tensor], prior: Sequence[Tensor]) -> Tensor:
        """Inputs: per layer (B, F, N, D) and (B, F, E, h, w); output: scalar mean loss."""
        losses = [
            correlation_loss(
                tokens.float().mean(-1), self._pattern(maps, self.projections[number])
            ).mean()
            for tokens, maps, number in zip(features, prior, self.projection_of, strict=True)
        ]
        return torch.stack(losses).mean()

    def _pattern(self, maps: Tensor, projection: nn.Module) -> Tensor:
        assert isinstance(projection, nn.Conv2d)
        images = maps.flatten(0, 1)
        if not _whole_ratio(images.shape[1:], self.grid):
            images = _resized(images, self.grid)
        kernel = projection.weight.mean(0, keepdim=True)
        # Correlations of nearly flat patterns need the full mantissa.
        with torch.autocast(images.device.type, enabled=False):
            pattern = F.conv2d(images.float(), kernel.float(), stride=projection.stride)
        return pattern.flatten(1).unflatten(0, maps.shape[:2])


class TokenGuidance(nn.Module):
    """Cosine guidance: a three-layer perceptron takes the denoiser's tokens to the prior's width,
    and each token is compared with the prior's patch at its place."""

    def __init__(self, config: PriorConfig, tokens: VideoShape, grids: Sequence[Grid]) -> None:
        super().__init__()
        del config
        width = tokens.channels
        self.grid = (tokens.height, tokens.width)
        self.projectors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 2 * width),
                nn.SiLU(),
                nn.Linear(2 * width, 2 * width),
                nn.SiLU(),
                nn.Linear(2 * width, grid[0]),
            )
            for grid in grids
        )

    def forward(self, features: Sequence[Tensor], prior: Sequence[Tensor]) -> Tensor:
        """Inputs: per layer (B, F, N, D) and (B, F, E, h, w); output: scalar mean loss."""
        losses = []
        for tokens, maps, project in zip(features, prior, self.projectors, strict=True):
            images = _resized(maps.flatten(0, 1), self.grid)
            target = images.flatten(2).transpose(1, 2).unflatten(0, maps.shape[:2])
            losses.append(token_cosine_loss(project(tokens).float(), target).mean())
        return torch.stack(losses).mean()


GUIDANCE = {"pearson": PatternGuidance, "cosine": TokenGuidance}


def _whole_ratio(kind: Sequence[int], grid: tuple[int, int]) -> tuple[int, int] | None:
    """Patches of the prior per token, down and across, where these are whole numbers."""
    (rows, columns), (height, width) = grid, kind[1:]
    if height % rows or width % columns:
        return None
    return height // rows, width // columns


def _resized(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averaged down to a coarser grid, or interpolated up to a finer one. (N, E, ...)"""
    if images.shape[-2] < grid[0] or images.shape[-1] < grid[1]:
        return F.interpolate(images, grid, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(images, grid)


def _centred(pattern: Tensor) -> Tensor:
    return pattern - pattern.mean(-1, keepdim=True)
