"""The published code's way of computing the same network: layers swapped, weights shared.

Nothing here changes what is computed beyond rounding; only how often and by which kernels. So it
is a fair baseline, which a test holds to the loss and the gradients of the project's own layers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from configs.schema import TrainConfig
from models.interface import Networks
from models.layers.attention import Attention, slow_attention
from models.layers.blocks import FinalLayer, ModulatedBlock, Modulation, TemporalBlock
from models.methods.endora import GuidedDenoiser
from models.priors.alignment import PatternGuidance
from tools.training.ema import Ema


@dataclass(frozen=True)
class Layers:
    """Which of the project's own layers a network computes with; without, the published way."""

    fused_attention: bool = True
    modulation_once: bool = True  # for each clip, not for each frame and token position
    averaged_projection: bool = True  # of the prior: average the kernel, not its output


REFERENCE = Layers(fused_attention=False, modulation_once=False, averaged_projection=False)


def with_layers(network: GuidedDenoiser, layers: Layers, images: int) -> GuidedDenoiser:
    """A network of the same parameters, not copies of them, with other layers.

    Inputs:  images, the extra images of each clip that it will be given
    """
    swapped = shared_copy(network)
    transformer = swapped.transformer
    frames, places = transformer.latents.frames + images, transformer.tokens.cells
    for module in list(swapped.modules()):
        if isinstance(module, ModulatedBlock | FinalLayer) and not layers.modulation_once:
            over_time = isinstance(module, TemporalBlock)
            repeats = (1, places) if over_time else (frames, 1)
            module.register_module("modulation", RepeatedModulation(module.modulation, repeats))
        if isinstance(module, ModulatedBlock) and not layers.fused_attention:
            module.register_module("attention", UnfusedAttention(module.attention))
    guide = getattr(swapped, "guide", None)
    if isinstance(guide, PatternGuidance) and not layers.averaged_projection:
        swapped.register_module("guide", FullProjection(guide))
    return swapped


def shared_copy(network: GuidedDenoiser) -> GuidedDenoiser:
    """The same structure on the same parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


class UnfusedAttention(nn.Module):
    """`Attention` with all T x T weights in memory, on its parameters."""

    def __init__(self, given: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.project = given.heads, given.qkv, given.project

    def forward(self, tokens: Tensor) -> Tensor:
        batch, groups, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch * groups, count, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = slow_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).reshape(batch, groups, count, width))


class RepeatedModulation(nn.Module):
    """`Modulation` computed anew for every frame, or for every place of a frame.

    Inputs:  repeats, of frames and of places; conditioning (B, D) -> vectors (B, *repeats, D)
    """

    def __init__(self, given: Modulation, repeats: tuple[int, int]) -> None:
        super().__init__()
        self.weight, self.bias = given.weight, given.bias
        self.count, self.repeats = given.count, repeats

    def vectors(self, conditioning: Tensor) -> tuple[Tensor, ...]:
        """As `Modulation.vectors`, in its float32."""
        frames, places = self.repeats
        repeated = conditioning.float()[:, None, None].expand(-1, frames, places, -1)
        with torch.autocast(conditioning.device.type, enabled=False):
            values = F.linear(repeated.contiguous(), self.weight, self.bias)
        return values.chunk(self.count, dim=-1)


class FullProjection(PatternGuidance):
    """`PatternGuidance` that projects to all channels and averages them afterwards."""

    def __init__(self, given: PatternGuidance) -> None:
        nn.Module.__init__(self)
        self.grid, self.projection_of = given.grid, given.projection_of
        self.projections = given.projections

    def _pattern(self, maps: Tensor, projection: nn.Module) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            projected = projection(maps.flatten(0, 1).float())
        return projected.mean(1).flatten(1).unflatten(0, maps.shape[:2])


class ParameterwiseEma(Ema):
    """`Ema` that follows one parameter after the other, two passes each."""

    @torch.no_grad()
    def update(self, networks: Networks, step: int) -> None:
        decay = self.decay_at(step)
        for name, average in self.networks.items():
            sources = dict(networks[name].named_parameters())
            for key, target in average.named_parameters():
                target.mul_(decay).add_(sources[key].data, alpha=1 - decay)


def unfused_optimizer(network: nn.Module, settings: TrainConfig) -> AdamW:
    """AdamW that takes one parameter after the other, one operation after the other."""
    return AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay,
        foreach=False,
        fused=False,
    )
