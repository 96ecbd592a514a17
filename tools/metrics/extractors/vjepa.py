"""V-JEPA ViT-H/16 with its attentive probe, for JEDi (see `tools.metrics.jedi`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.metrics.extractors.network import (
    NetworkExtractor,
    load_strictly,
    load_tensors,
    missing_package,
)
from tools.metrics.weights import WeightsFile

VERSION = "vjepa-v1"
FRAMES = 16
SIZE = 224
WIDTH, HEADS = 1280, 16
CAVEAT = (
    "V-JEPA features prepared by our code (the published library cannot run its own) - not "
    "checked against published numbers"
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet, pixels in 0..1


class VJepaExtractor(NetworkExtractor):
    """The 1280 numbers that the probe's attention pools from the tokens of 16-frame clips.

    Frames are squeezed to 224 x 224 (bilinear, antialias) and normalised with ImageNet's colours.

    Source:  Luo et al., "Beyond FVD: enhanced evaluation metrics for video generation quality",
             2024
    """

    name = "vjepa"
    outputs = {"features": WIDTH}  # noqa: RUF012
    comparable = False
    caveat = CAVEAT

    def __init__(
        self, device: torch.device, frames: int, encoder: WeightsFile, probe: WeightsFile
    ) -> None:
        if frames != FRAMES:
            raise ValueError(f"JEDi's V-JEPA takes clips of {FRAMES} frames, got {frames}")
        super().__init__(device)
        self.frames = frames
        self.network = build_network(encoder, probe).to(device)
        self.adopt(VERSION, encoder, probe)
        self.mean = torch.tensor(MEAN, device=device)[:, None, None]
        self.deviation = torch.tensor(DEVIATION, device=device)[:, None, None]

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        frames = videos.flatten(0, 1).float() / 255
        if frames.shape[-2:] != (SIZE, SIZE):
            frames = F.interpolate(frames, (SIZE, SIZE), mode="bilinear", antialias=True)
        frames = (frames - self.mean) / self.deviation
        clips = frames.unflatten(0, videos.shape[:2]).transpose(1, 2)
        with warnings.catch_warnings():  # the package asks torch for attention by an old name
            warnings.simplefilter("ignore", FutureWarning)
            return {"features": self.network(clips).squeeze(1)}


def build_network(
    encoder: WeightsFile, probe: WeightsFile, size: str = "vit_huge", side: int = SIZE
) -> nn.Sequential:
    """Encoder and pooling of the package `vjepa`, with tensors that were read safely.

    Raises ValueError without the package, and for other weights.
    """
    try:
        from vjepa import models
        from vjepa.models.attentive_pooler import AttentivePooler
    except ImportError:
        raise missing_package("JEDi", "vjepa", "vjepa==0.1.2") from None
    network = getattr(models, size)(
        img_size=side, patch_size=16, num_frames=FRAMES, tubelet_size=2, uniform_power=True
    )
    load_strictly(network, _part(encoder, "target_encoder", "module.backbone."), encoder.path)
    pooler = AttentivePooler(embed_dim=network.embed_dim, num_heads=network.num_heads, depth=1)
    load_strictly(pooler, _part(probe, "classifier", "module.pooler."), probe.path)
    return nn.Sequential(network, pooler).eval().requires_grad_(False)


def _part(weights: WeightsFile, key: str, prefix: str) -> dict[str, Tensor]:
    """The tensors of one network inside a training checkpoint, without their wrappers' names."""
    state = load_tensors(weights.path).get(key)
    if not isinstance(state, Mapping):
        raise ValueError(f"{weights.path}: not a V-JEPA checkpoint: it has no {key!r}")
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
