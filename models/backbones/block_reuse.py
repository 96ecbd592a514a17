"""Denoising steps that reuse what the transformer's blocks added at an earlier step.

Of the family of TeaCache (arXiv 2411.19108). Between neighbouring timesteps the sum of all
residual updates changes little; where it is reused, a step costs the embedding and the last layer
alone. How much it changes is told by the modulation of the first block's input, as in that paper,
but of its mean square over normalised tokens, which follows from the timesteps alone: on trained
weights the same number measured on the videos themselves differs by 1 to 5 % between videos. So
the steps that run the blocks are known before sampling starts, and are the same for every video,
batch, process and device, shapes never change, and nothing waits for the device to decide.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.video_transformer import TransformerOutput, VideoTransformer
from models.layers.blocks import ModulatedBlock
from models.layers.embeddings import LabelEmbedding


class BlockReuse:
    """A transformer for one batch on its way through the steps; make a new one for each batch.

    Inputs:  for every call in its order, whether the blocks run; the first one always has to
    """

    def __init__(self, transformer: VideoTransformer, computed: Sequence[bool]) -> None:
        if not computed or not computed[0]:
            raise ValueError("there is nothing to reuse at the first step")
        self.transformer = transformer
        self.computed = iter(computed)
        self.update: Tensor | None = None  # what all blocks together last added to the tokens

    def __call__(
        self, noisy: Tensor, timestep: Tensor, labels: Tensor | None = None
    ) -> TransformerOutput:
        """The next step; inputs and prediction as those of `VideoTransformer`."""
        conditioning = self.transformer.condition(timestep, labels)
        tokens = self.transformer.embed(noisy)
        if next(self.computed):
            after, _ = self.transformer.run_blocks(tokens, conditioning)
            self.update = after - tokens
        else:
            assert self.update is not None
            after = tokens + self.update
        return TransformerOutput(self.transformer.predict(after, conditioning), [])


def computed_steps(changes: Sequence[float], allowed: float) -> list[bool]:
    """Which steps run the blocks: the first, the last, and each one before which the changes
    since the last such step add up to `allowed` or more.

    Inputs:  changes from each step to the next (steps - 1 of them), allowed >= 0; 0 runs all
    """
    computed, added = [True], 0.0
    for change in changes:
        added += change
        computed.append(added >= allowed)
        if computed[-1]:
            added = 0.0
    computed[-1] = True
    return computed


@torch.no_grad()
def modulation_changes(
    transformer: VideoTransformer, timesteps: Sequence[int], label: int | None = None
) -> list[float]:
    """Relative change of the first block's modulated input from each timestep to the next.

    For tokens of zero mean and unit variance: the root of mean (scale' - scale)^2 + (shift' -
    shift)^2 over mean scale^2 + shift^2, all over the width. Computed on the CPU in float32,
    wherever the transformer is, so that all processes find the same.
    """
    block = transformer.spatial[0]
    assert isinstance(block, ModulatedBlock)
    embedding, modulation, table = (
        copy.deepcopy(part).cpu()
        for part in (
            transformer.timestep_embedding,
            block.modulation,
            transformer.label_embedding or nn.Identity(),
        )
    )
    with torch.autocast("cpu", enabled=False):
        conditioning = embedding(torch.tensor(list(timesteps)))
        if isinstance(table, LabelEmbedding):
            conditioning = conditioning + table(
                torch.tensor([table.classes if label is None else label])
            )
        shift, scale = modulation(F.silu(conditioning)).chunk(6, dim=-1)[:2]
    vectors = torch.cat([shift, 1 + scale], dim=1).double()
    return (vectors.diff(dim=0).norm(dim=1) / vectors[:-1].norm(dim=1)).tolist()
