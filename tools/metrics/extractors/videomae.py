"""VideoMAE V2 giant, the network of cd-fvd, for the content-debiased FVD (CD-FVD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.metrics.extractors.network import (
    NetworkExtractor,
    load_strictly,
    load_tensors,
    missing_package,
)
from tools.metrics.weights import WeightsFile

VERSION = "videomae-v1"
FRAMES = 16
SIZE = 224
WIDTH, CLASSES = 1408, 174


class VideoMAEExtractor(NetworkExtractor):
    """The 1408 pooled numbers of 16-frame clips.

    Frames are scaled to [0, 1], not normalised, and squeezed to 224 x 224 (bilinear without
    low-pass), as in the published score.

    Source:  Ge et al., "On the content bias in Frechet video distance", 2024
    """

    name = "videomae"
    comparable = True
    outputs = {"features": WIDTH}  # noqa: RUF012

    def __init__(self, device: torch.device, frames: int, weights: WeightsFile) -> None:
        if frames != FRAMES:
            raise ValueError(f"CD-FVD's VideoMAE takes clips of {FRAMES} frames, got {frames}")
        super().__init__(device)
        self.frames = frames
        self.network = build_network(weights).to(device)
        self.adopt(VERSION, weights)

    def compute(self, videos: Tensor) -> dict[str, Tensor]:
        frames = videos.flatten(0, 1).float() / 255
        frames = F.interpolate(frames, (SIZE, SIZE), mode="bilinear", align_corners=False)
        clips = frames.unflatten(0, videos.shape[:2]).transpose(1, 2)
        return {"features": self.network.forward_features(clips)}


def build_network(weights: WeightsFile) -> Any:
    """cd-fvd's class with tensors that were read safely.

    Raises ValueError without the package, and for other weights.
    """
    try:
        from cdfvd.third_party.VideoMAEv2.videomaev2_finetune import vit_giant_patch14_224
    except ImportError:
        raise missing_package("CD-FVD", "cd-fvd", "cd-fvd==0.1.1") from None
    network = vit_giant_patch14_224(
        img_size=SIZE,
        num_classes=CLASSES,
        all_frames=FRAMES,
        tubelet_size=2,
        use_mean_pooling=True,
    )
    state = load_tensors(weights.path)
    for key in ("model", "module"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    load_strictly(network, state, weights.path)
    return network.eval().requires_grad_(False)
