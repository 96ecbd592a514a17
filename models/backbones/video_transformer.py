"""The latent video transformer of Endora (arXiv 2403.11050), of the Latte family (2401.03048)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from configs.shapes import VideoShape
from models.layers.blocks import FinalLayer, SpatialBlock, TemporalBlock
from models.layers.embeddings import LabelEmbedding, TimestepEmbedding, frame_table, grid_table


class TransformerOutput(NamedTuple):
    """prediction (B, F + I, 2C, h, w); features: one (B, F + I, N, D) per asked pair."""

    prediction: Tensor
    features: list[Tensor]


class VideoTransformer(nn.Module):
    """Predicts noise and variance of noisy latents, attending over space and time in turn.

    Spatial blocks attend over the N tokens of each frame, of the clip and of the extra images
    alike; temporal blocks attend over the F frames of the clip at each position, and the extra
    images pass them untouched. `interlaced` alternates the two; otherwise all spatial blocks
    come first ("without spatiotemporal encoding" in the paper's ablation).

    Letters:  B clips, F frames, I extra images, C channels, h w latent cells, N tokens a frame,
              D width
    """

    grid_positions: Tensor
    frame_positions: Tensor

    def __init__(
        self,
        latents: VideoShape,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int = 2,
        mlp_ratio: float = 4.0,
        interlaced: bool = True,
        classes: int = 0,
        class_dropout: float = 0.1,
        checkpointing: bool | str = False,
    ) -> None:
        super().__init__()
        if depth % 2:
            raise ValueError(
                f"blocks come in spatial and temporal pairs; a depth of {depth} is odd"
            )
        self.latents = latents
        self.patch = patch
        self.tokens = latents.downscale(patch, width)
        self.patch_embedding = nn.Conv2d(latents.channels, width, patch, stride=patch)
        self.timestep_embedding = TimestepEmbedding(width)
        self.label_embedding = LabelEmbedding(classes, width, class_dropout) if classes else None
        pairs = depth // 2
        sizes = (width, heads, mlp_ratio)
        self.spatial = nn.ModuleList(SpatialBlock(*sizes) for _ in range(pairs))
        self.temporal = nn.ModuleList(
            TemporalBlock(*sizes, frames=latents.frames) for _ in range(pairs)
        )
        self.order = block_order(pairs, interlaced)
        self._choose_recomputed(checkpointing)
        self.final = FinalLayer(width, patch * patch * 2 * latents.channels)
        grid = grid_table(width, self.tokens.height, self.tokens.width)
        self.register_buffer("grid_positions", grid, persistent=False)
        frames = frame_table(width, latents.frames)
        self.register_buffer("frame_positions", frames, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier everywhere but in the embeddings; zero gates and output, so that the network
        starts as the zero map and a deep stack trains from the first step."""
        for block in (*self.spatial, *self.temporal):
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.view(self.tokens.channels, -1))
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        silent = [block.modulation for block in (*self.spatial, *self.temporal)]
        for layer in (*silent, self.final.modulation, self.final.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        labels: Tensor | None = None,
        feature_pairs: Sequence[int] = (),
    ) -> TransformerOutput:
        """Predict noise and variance interpolation of every frame and extra image.

        Inputs:  noisy (B, F + I, C, h, w) with the clip first; timestep (B,); labels (B,) int64
                 for a conditional model; numbers of the pairs whose tokens after the spatial
                 block are wanted
        """
        conditioning = self.condition(timestep, labels)
        tokens, features = self.run_blocks(self.embed(noisy), conditioning, feature_pairs)
        return TransformerOutput(self.predict(tokens, conditioning), features)

    def condition(self, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        """What modulates all blocks: timestep and labels (B,) -> (B, D)."""
        conditioning = self.timestep_embedding(timestep)
        if self.label_embedding is not None:
            if labels is None:
                labels = torch.full_like(timestep, self.label_embedding.classes)
            conditioning = conditioning + self.label_embedding(labels)
        return F.silu(conditioning)

    def embed(self, noisy: Tensor) -> Tensor:
        """Latents to tokens with their place in the frame: (B, F + I, N, D)."""
        tokens = self.patch_embedding(noisy.flatten(0, 1)).flatten(2).transpose(1, 2)
        # In order of memory, so that the first block is no special case to a compiler.
        return tokens.unflatten(0, noisy.shape[:2]).contiguous() + self.grid_positions

    def run_blocks(
        self, tokens: Tensor, conditioning: Tensor, feature_pairs: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """All blocks in their order: tokens (B, F + I, N, D) -> the same, and the features."""
        features: dict[int, Tensor] = {}
        time_is_known = False
        for kind, pair in self.order:
            if kind == "spatial":
                tokens = self._run(pair, self.spatial[pair], tokens, conditioning)
                if pair in feature_pairs:
                    features[pair] = tokens
            else:
                if not time_is_known:
                    tokens = tokens + self._frame_positions(tokens.shape[1])
                    time_is_known = True
                tokens = self._run(pair, self.temporal[pair], tokens, conditioning)
        return tokens, [features[pair] for pair in feature_pairs]

    def predict(self, tokens: Tensor, conditioning: Tensor) -> Tensor:
        """The tokens after the blocks to noise and variance: (B, F + I, 2C, h, w)."""
        return self.unpatchify(self.final(tokens, conditioning))

    def unpatchify(self, patches: Tensor) -> Tensor:
        """(B, F + I, N, p * p * 2C), values in the order row, column, channel, to
        (B, F + I, 2C, h, w)."""
        rows, columns, size = self.tokens.height, self.tokens.width, self.patch
        cells = patches.unflatten(-1, (size, size, -1)).unflatten(2, (rows, columns))
        # (B, F, rows, columns, p, q, c) -> (B, F, c, rows, p, columns, q)
        return cells.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _frame_positions(self, count: int) -> Tensor:
        """Positions of the F frames, and zeros for the images after them: (count, 1, D)."""
        return F.pad(self.frame_positions, (0, 0, 0, count - self.latents.frames))[:, None]

    def _choose_recomputed(self, checkpointing: bool | str) -> None:
        """Which activations the backward pass computes again; see `TransformerConfig`."""
        pairs = len(self.spatial)
        chosen = {True: range(pairs), "half": range(0, pairs, 2)}
        self.recomputed = set(chosen.get(checkpointing, ()))  # numbers of whole pairs
        for block in (*self.spatial, *self.temporal):
            block.recompute_mlp = checkpointing == "mlp"

    def _run(self, pair: int, block: nn.Module, *inputs: Any) -> Tensor:
        if pair in self.recomputed and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs)


def block_order(pairs: int, interlaced: bool) -> list[tuple[str, int]]:
    """The blocks in the order they run: ("spatial" or "temporal", number of the pair)."""
    if interlaced:
        return [(kind, pair) for pair in range(pairs) for kind in ("spatial", "temporal")]
    return [(kind, pair) for kind in ("spatial", "temporal") for pair in range(pairs)]
